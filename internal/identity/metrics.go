package identity

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are of bundle endpoints, by trust domain.
type metrics struct {
	fetches *prometheus.CounterVec
	last    *prometheus.GaugeVec
}

// newMetrics shows nothing when r is nil.
func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		fetches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_trust_bundle_fetches_total",
			Help: "Fetches from the bundle endpoint of a trust domain, by result: ok, forbidden, unreachable, unverified, status, invalid or older.",
		}, []string{"trust_domain", "result"}),
		last: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sallyport_trust_bundle_fetched_timestamp_seconds",
			Help: "When the bundle of a trust domain was last fetched from its endpoint, in Unix seconds; 0 before the first time.",
		}, []string{"trust_domain"}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.fetches, m.last} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) fetched(td TrustDomain, result string, now time.Time) {
	m.fetches.WithLabelValues(string(td), result).Inc()
	if result == fetchOK {
		m.last.WithLabelValues(string(td)).Set(float64(now.Unix()))
	}
}

// replace forgets the trust domains that were and are not, and begins with those
// that are and were not.
func (m *metrics) replace(before, after []*federation) {
	for _, f := range before {
		if !slices.Contains(after, f) {
			of := prometheus.Labels{"trust_domain": string(f.spec.TrustDomain)}
			m.fetches.DeletePartialMatch(of)
			m.last.DeletePartialMatch(of)
		}
	}
	for _, f := range after {
		if f.spec.Endpoint != (Endpoint{}) && !slices.Contains(before, f) {
			m.last.WithLabelValues(string(f.spec.TrustDomain)).Set(0)
		}
	}
}
