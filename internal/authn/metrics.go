package authn

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	fetches      *prometheus.CounterVec
	asked        *prometheus.CounterVec
	denials      *prometheus.CounterVec
	hits, misses prometheus.Counter

	sessionHits, sessionMisses prometheus.Counter
	proofs                     prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	lookups := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sallyport_token_cache_lookups_total",
		Help: "Bearer tokens looked up among the verified ones, by result: hit or miss.",
	}, []string{"result"})
	opened := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sallyport_session_cache_lookups_total",
		Help: "Cookies of sessions looked up among the opened ones, by result: hit or miss.",
	}, []string{"result"})
	m := &metrics{
		fetches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_jwks_fetches_total",
			Help: "Fetches of an identity provider's key set, by result: ok, forbidden, unreachable, status or invalid.",
		}, []string{"provider", "result"}),
		asked: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_introspections_total",
			Help: "Tokens that an identity provider was to be asked for, by result: active, inactive, busy, secret, forbidden, unreachable, status or invalid.",
		}, []string{"provider", "result"}),
		denials: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_authentication_denials_total",
			Help: "Requests whose sender could not be authenticated, by reason.",
		}, []string{"reason"}),
		hits:   lookups.WithLabelValues("hit"),
		misses: lookups.WithLabelValues("miss"),

		sessionHits:   opened.WithLabelValues("hit"),
		sessionMisses: opened.WithLabelValues("miss"),
		proofs: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sallyport_dpop_proofs_remembered",
			Help: "DPoP proofs that are remembered, so that none is taken twice.",
		}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.fetches, m.asked, m.denials, lookups, opened, m.proofs} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) fetched(provider, result string) {
	m.fetches.WithLabelValues(provider, result).Inc()
}

func (m *metrics) forget(provider string) {
	m.fetches.DeletePartialMatch(prometheus.Labels{"provider": provider})
	m.asked.DeletePartialMatch(prometheus.Labels{"provider": provider})
}

func (m *metrics) introspected(provider, result string) {
	m.asked.WithLabelValues(provider, result).Inc()
}

// looked counts one look into the cache. A nil metrics counts nothing.
func (m *metrics) looked(found bool) {
	switch {
	case m == nil:
	case found:
		m.hits.Inc()
	default:
		m.misses.Inc()
	}
}

// denied counts a denial. A nil metrics counts nothing.
func (m *metrics) denied(r Reason) {
	if m != nil {
		m.denials.WithLabelValues(string(r)).Inc()
	}
}

// lookedForSession counts one look into the cache for a cookie. A nil metrics
// counts nothing.
func (m *metrics) lookedForSession(found bool) {
	switch {
	case m == nil:
	case found:
		m.sessionHits.Inc()
	default:
		m.sessionMisses.Inc()
	}
}
