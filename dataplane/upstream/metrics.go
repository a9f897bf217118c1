package upstream

import "github.com/prometheus/client_golang/prometheus"

// metrics have a series for each upstream in service, or a few.
type metrics struct {
	failures  *prometheus.CounterVec
	retries   *prometheus.CounterVec
	withheld  *prometheus.CounterVec
	ejections *prometheus.CounterVec
	overflow  *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_upstream_connect_failures_total",
			Help: "Connections to an upstream's endpoints that could not be made.",
		}, []string{"upstream"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_upstream_retries_total",
			Help: "Requests that were sent again, by upstream and what had become of them (connect_failure, reset, gateway_error or timeout).",
		}, []string{"upstream", "after"}),
		withheld: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_upstream_retries_withheld_total",
			Help: "Requests that were not sent again because the upstream's budget for that was used up.",
		}, []string{"upstream"}),
		ejections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_upstream_ejections_total",
			Help: "Times that endpoints were ejected for failures in a row, by upstream.",
		}, []string{"upstream"}),
		overflow: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_upstream_overflow_total",
			Help: "Requests that were not sent because the upstream had too much to do, by upstream and limit (requests or pending).",
		}, []string{"upstream", "limit"}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range m.all() {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) all() []*prometheus.CounterVec {
	return []*prometheus.CounterVec{m.failures, m.retries, m.withheld, m.ejections, m.overflow}
}

// forget drops the series of an upstream that is not in service any more.
func (m *metrics) forget(upstream string) {
	for _, c := range m.all() {
		c.DeletePartialMatch(prometheus.Labels{"upstream": upstream})
	}
}
