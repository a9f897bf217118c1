package link

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	connected prometheus.Gauge
	attempts  *prometheus.CounterVec
	// generation is that of the newest key set.
	generation prometheus.Gauge
	bundles    *prometheus.CounterVec

	policy, security laneMetrics
}

// laneMetrics are those of one lane.
type laneMetrics struct {
	epoch        prometheus.Gauge
	revision     prometheus.Gauge
	persisted    prometheus.Gauge
	rejects      prometheus.Gauge
	applied      prometheus.Histogram
	refusals     *prometheus.CounterVec
	failedWrites prometheus.Counter
	damaged      prometheus.Counter
}

// age is that of a lane, as Link.Age.
type age = func() (time.Duration, bool)

// newMetrics registers the metrics, unless r is nil.
func newMetrics(r prometheus.Registerer, policy, security age) (*metrics, error) {
	var all registration
	m := &metrics{
		connected: all.gauge("sallyport_link_connected", "1 while a stream to the control plane is open."),
		attempts: all.counters("sallyport_link_attempts_total",
			"Attempts to reach the control plane, by how they ended: pending, refused, failed, or ended after a stream was open.", "result"),
		generation: all.gauge("sallyport_key_set_generation", "Generation of the newest key set that is known; 0 while the pinned key signs."),
		bundles: all.counters("sallyport_bundle_attempts_total",
			"Attempts to begin with a bundle, by how they ended: taken, failed (it could not be had), or refused (it could not be believed).", "result"),
		policy: laneMetrics{
			epoch:     all.gauge("sallyport_snapshot_epoch", "Epoch of the snapshot that is enforced; 0 before the first."),
			revision:  all.gauge("sallyport_snapshot_revision", "Revision of the snapshot that is enforced; 0 before the first."),
			persisted: all.gauge("sallyport_snapshot_persisted_revision", "Revision of the last-good snapshot on disk; 0 without one."),
			rejects:   all.gauge("sallyport_snapshot_rejects", "Resources of the snapshot that this build rejects, and denies for."),
			applied:   all.seconds("sallyport_snapshot_apply_seconds", "Time to compile a snapshot and put it in force."),
		},
		security: laneMetrics{
			epoch:     all.gauge("sallyport_security_epoch", "Epoch of the security state that is enforced; 0 before the first."),
			revision:  all.gauge("sallyport_security_sequence", "Sequence of the security state that is enforced; 0 before the first."),
			persisted: all.gauge("sallyport_security_persisted_sequence", "Sequence of the security state on disk; 0 without one."),
			rejects:   all.gauge("sallyport_security_rejects", "Revocations that this build rejects, for which it denies everything."),
			applied:   all.seconds("sallyport_security_apply_seconds", "Time to compile a security state, put it in force and close what it cuts off."),
		},
	}
	all.age("sallyport_configuration_age_seconds",
		"Time since the control plane last confirmed what is enforced; +Inf if it never has.", policy)
	all.age("sallyport_security_age_seconds",
		"Time since the control plane last confirmed the security state that is enforced; +Inf if it never has.", security)
	all.count(m)
	return m, all.with(r)
}

// count adds to both lanes what is counted for each by its name.
func (r *registration) count(m *metrics) {
	refusals := r.counters("sallyport_link_refusals_total",
		"Updates, freshness statements and key sets that were refused, by lane and reason.", "lane", "reason")
	failed := r.counters("sallyport_last_good_failed_writes_total", "Failed attempts to write the last-good snapshot, by lane.", "lane")
	damaged := r.counters("sallyport_last_good_damaged_total", "Generations of the last-good snapshot that could not be used, by lane.", "lane")
	for lane, of := range map[string]*laneMetrics{policyLore.name: &m.policy, securityLore.name: &m.security} {
		of.refusals = refusals.MustCurryWith(prometheus.Labels{"lane": lane})
		of.failedWrites, of.damaged = failed.WithLabelValues(lane), damaged.WithLabelValues(lane)
	}
}

// registration gathers metrics as they are made.
type registration struct{ all []prometheus.Collector }

func (r *registration) gauge(name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	r.all = append(r.all, g)
	return g
}

func (r *registration) counters(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	r.all = append(r.all, c)
	return c
}

func (r *registration) seconds(name, help string) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
	})
	r.all = append(r.all, h)
	return h
}

func (r *registration) age(name, help string, of age) {
	r.all = append(r.all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
		d, known := of()
		if !known {
			return math.Inf(1)
		}
		return d.Seconds()
	}))
}

// with registers everything, unless to is nil.
func (r *registration) with(to prometheus.Registerer) error {
	if to == nil {
		return nil
	}
	for _, c := range r.all {
		if err := to.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (m *laneMetrics) enforced(st *statement) {
	m.epoch.Set(float64(st.head.Epoch))
	m.revision.Set(float64(st.head.Revision))
	m.rejects.Set(float64(len(st.enforced.Rejects)))
	m.applied.Observe(st.took.Seconds())
}
