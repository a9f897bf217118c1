package link

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	connected    prometheus.Gauge
	attempts     *prometheus.CounterVec
	epoch        prometheus.Gauge
	revision     prometheus.Gauge
	persisted    prometheus.Gauge
	rejects      prometheus.Gauge
	applied      prometheus.Histogram
	refusals     *prometheus.CounterVec
	failedWrites prometheus.Counter
	damaged      prometheus.Counter
}

// newMetrics registers the metrics, unless r is nil.
func newMetrics(r prometheus.Registerer, age func() (time.Duration, bool)) (*metrics, error) {
	m := &metrics{
		connected: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sallyport_link_connected", Help: "1 while a stream to the control plane is open."}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_link_attempts_total",
			Help: "Attempts to reach the control plane, by how they ended: pending, failed, or ended after a stream was open.",
		}, []string{"result"}),
		epoch: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sallyport_snapshot_epoch", Help: "Epoch of the snapshot that is enforced; 0 before the first."}),
		revision: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sallyport_snapshot_revision", Help: "Revision of the snapshot that is enforced; 0 before the first."}),
		persisted: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sallyport_snapshot_persisted_revision", Help: "Revision of the last-good snapshot on disk; 0 without one."}),
		rejects: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sallyport_snapshot_rejects", Help: "Resources of the snapshot that this build rejects, and denies for."}),
		applied: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "sallyport_snapshot_apply_seconds",
			Help:    "Time to compile a snapshot and put it in force.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_link_refusals_total",
			Help: "Updates and freshness statements that were refused, by reason.",
		}, []string{"reason"}),
		failedWrites: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_last_good_failed_writes_total", Help: "Failed attempts to write the last-good snapshot."}),
		damaged: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_last_good_damaged_total", Help: "Generations of the last-good snapshot that could not be used."}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{
		m.connected, m.attempts, m.epoch, m.revision, m.persisted, m.rejects, m.applied, m.refusals, m.failedWrites, m.damaged,
		ageGauge(age),
	} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func ageGauge(age func() (time.Duration, bool)) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sallyport_configuration_age_seconds",
		Help: "Time since the control plane last confirmed what is enforced; +Inf if it never has.",
	}, func() float64 {
		d, known := age()
		if !known {
			return math.Inf(1)
		}
		return d.Seconds()
	})
}

func (m *metrics) enforced(st *statement) {
	m.epoch.Set(float64(st.head.Epoch))
	m.revision.Set(float64(st.head.Revision))
	m.rejects.Set(float64(len(st.enforced.Rejects)))
	m.applied.Observe(st.took.Seconds())
}
