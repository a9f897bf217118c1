package gateway

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/resource"
)

type metrics struct {
	requests    *prometheus.CounterVec
	failures    *prometheus.CounterVec
	closed      *prometheus.CounterVec
	again       prometheus.Counter
	shadows     *prometheus.CounterVec
	limited     *prometheus.CounterVec
	differing   *prometheus.CounterVec
	deciding    *timing
	answering   *timing
	inFlight    prometheus.Gauge
	up          *prometheus.GaugeVec
	handshakes  *prometheus.CounterVec
	unannounced *prometheus.CounterVec
	overflow    *prometheus.CounterVec
	ageLimits   *prometheus.GaugeVec
	stale       *prometheus.GaugeVec

	mu     sync.Mutex
	routes map[string]resource.Key // those that have series
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_requests_total",
			Help: "Requests by route (empty when none matched), decision (allow or deny) and reason.",
		}, []string{"route", "decision", "reason"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_request_failures_total",
			Help: "Requests that were let through and did not end well, by route and reason.",
		}, []string{"route", "reason"}),
		shadows: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_shadow_decisions_total",
			Help: "Requests that policies in shadow would have decided otherwise, by route and what they would have got (allow or deny).",
		}, []string{"route", "would_have"}),
		limited: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_rate_limited_total",
			Help: "Requests that a rate limit was used up for, by limit and mode (enforce or shadow).",
		}, []string{"limit", "mode"}),
		differing: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_validation_differences_total",
			Help: "Requests that differ from the schema of their route, by route, mode (enforce or report) and reason.",
		}, []string{"route", "mode", "reason"}),
		closed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_streams_closed_total",
			Help: "Open streams that were closed because they would not be let through any more, by reason.",
		}, []string{"reason"}),
		again: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_stream_decisions_total",
			Help: "Decisions on open streams, each of which is decided on again every second.",
		}),
		deciding: newTiming(prometheus.HistogramOpts{
			Name:    "sallyport_decision_duration_seconds",
			Help:    "Time from a request's head to the decision on it.",
			Buckets: []float64{1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 1e-3, 1e-2, 0.1, 1},
		}),
		answering: newTiming(prometheus.HistogramOpts{
			Name:    "sallyport_upstream_duration_seconds",
			Help:    "Time from a decision to the head of the upstream's answer.",
			Buckets: []float64{2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30},
		}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sallyport_requests_in_flight",
			Help: "Requests that were let through and have not ended.",
		}),
		up: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sallyport_listener_up",
			Help: "Whether a listener is bound to its address.",
		}, []string{"listener"}),
		handshakes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_handshake_failures_total",
			Help: "TLS handshakes of clients that failed, by listener.",
		}, []string{"listener"}),
		unannounced: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_proxy_protocol_refusals_total",
			Help: "Connections that did not begin as the listener's clientIp declares, and were closed, by listener.",
		}, []string{"listener"}),
		overflow: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_connections_refused_total",
			Help: "Connections that were closed because there were too many, by listener and limit (total, address, rate or handshakes).",
		}, []string{"listener", "limit"}),
		ageLimits: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sallyport_age_limit_seconds",
			Help: "From which age on what is in force is stale, by clock (configuration or security) and what the environment says then (SERVE or DENY).",
		}, []string{"clock", "action"}),
		stale: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sallyport_stale",
			Help: "1 while what is in force is older than its limit, by clock (configuration or security).",
		}, []string{"clock"}),
		routes: make(map[string]resource.Key),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.failures, m.shadows, m.limited, m.differing, m.closed, m.again, m.deciding, m.answering, m.inFlight, m.up, m.handshakes, m.unannounced, m.overflow, m.ageLimits, m.stale} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// wayMetrics counts what most requests of a route do.
type wayMetrics struct{ allowed prometheus.Counter }

func (m *metrics) way(r *compile.Route, route string) wayMetrics {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.routes[route] = r.Key
	return wayMetrics{m.requests.WithLabelValues(route, "allow", string(policy.ReasonAllowed))}
}

// decided counts a verdict.
func (m *metrics) decided(v *verdict) {
	switch {
	case v.allow && v.reason == string(policy.ReasonAllowed):
		v.way.metrics.allowed.Inc()
	case v.way == nil:
		m.requests.WithLabelValues("", decision(v.allow), v.reason).Inc()
	default:
		m.requests.WithLabelValues(v.way.name, decision(v.allow), v.reason).Inc()
	}
	if v.shadow.Policy != "" {
		m.shadows.WithLabelValues(v.way.name, decision(v.shadow.Allow)).Inc()
	}
}

func decision(allow bool) string {
	if allow {
		return "allow"
	}
	return "deny"
}

// forget drops the series of routes that table does not have.
func (m *metrics) forget(table *compile.Table) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for route, key := range m.routes {
		if _, ok := table.Snapshot().Set().Lookup(key); ok {
			continue
		}
		delete(m.routes, route)
		m.requests.DeletePartialMatch(prometheus.Labels{"route": route})
		m.failures.DeletePartialMatch(prometheus.Labels{"route": route})
		m.shadows.DeletePartialMatch(prometheus.Labels{"route": route})
		m.differing.DeletePartialMatch(prometheus.Labels{"route": route})
	}
}

// Load returns how many requests were decided since the gateway was made, and how
// many that were let through have not ended.
func (g *Gateway) Load() (requests, open int64) {
	var decided, inFlight dto.Metric
	if g.metrics.deciding.Write(&decided) != nil || g.metrics.inFlight.Write(&inFlight) != nil {
		return 0, 0 // metrics of ours are what they are: this does not come to pass
	}
	return int64(decided.GetHistogram().GetSampleCount()), int64(inFlight.GetGauge().GetValue()) //nolint:gosec // counts of requests
}
