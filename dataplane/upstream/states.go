package upstream

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/dataplane/upstream/balance"
)

// states shows how many endpoints of each upstream are what.
type states struct {
	pool *Pool
	desc *prometheus.Desc
}

func newStates(p *Pool) *states {
	return &states{p, prometheus.NewDesc("sallyport_upstream_endpoints",
		"Endpoints by upstream and state (live, avoided, ejected, unhealthy); requests go to those that are live.", []string{"upstream", "state"}, nil)}
}

var stateNames = [...]string{balance.Live: "live", balance.Avoided: "avoided", balance.Ejected: "ejected", balance.Unhealthy: "unhealthy"}

// Describe implements prometheus.Collector.
func (s *states) Describe(to chan<- *prometheus.Desc) { to <- s.desc }

// Collect implements prometheus.Collector.
func (s *states) Collect(to chan<- prometheus.Metric) {
	for _, u := range s.pool.all() {
		var count [len(stateNames)]int
		for _, e := range u.balancer.Endpoints() {
			count[e.State(s.pool.now())]++
		}
		for state, n := range count {
			to <- prometheus.MustNewConstMetric(s.desc, prometheus.GaugeValue, float64(n), u.name, stateNames[state])
		}
	}
}
