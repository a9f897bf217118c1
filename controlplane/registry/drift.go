package registry

import (
	"github.com/prometheus/client_golang/prometheus"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

const (
	policyLane   = "policy"
	securityLane = "security"
)

// drift is the alarm for proxies that enforce something else than what was signed.
type drift struct{ begun *prometheus.CounterVec }

func newDrift(c Config, drifting func() float64) *drift {
	d := &drift{prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sallyport_drifts_total",
		Help: "Times that a proxy began to enforce something else than what was signed, by lane.",
	}, []string{"lane"})}
	// A counter that is not there yet cannot be seen to rise.
	d.begun.WithLabelValues(policyLane)
	d.begun.WithLabelValues(securityLane)
	if c.Registerer != nil {
		c.Registerer.MustRegister(d.begun, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sallyport_drifting_proxies",
			Help: "Proxies with a stream on this replica that enforce something else than what was signed, in either lane.",
		}, drifting))
	}
	return d
}

// drifting counts those that are connected here and enforce something else.
func (r *Registry) drifting() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, e := range r.local {
		if e.session != nil && (isDrift(e.proxy.GetEnforcement()) || isDrift(e.proxy.GetSecurity().GetEnforcement())) {
			n++
		}
	}
	return float64(n)
}

func isDrift(e adminv1.Enforcement) bool { return e == adminv1.Enforcement_ENFORCEMENT_DRIFT }

// turn is from what a lane of a proxy was judged to be, to what it is now.
type turn struct {
	lane          string
	before, after adminv1.Enforcement
	at            int64 // revision, or sequence
}

// alarm says when a drift begins, once, and when it is over. It is called without the
// mutex: a log may take its time.
func (s *Session) alarm(t turn) {
	before, after := isDrift(t.before), isDrift(t.after)
	if before == after {
		return
	}
	log := s.registry.log.With("proxy", string(s.id), "lane", t.lane, "revision", t.at)
	if after {
		s.registry.drift.begun.WithLabelValues(t.lane).Inc()
		log.Error("proxy enforces something else than what was signed")
		return
	}
	log.Info("proxy enforces what was signed again", "enforcement", t.after.String())
}
