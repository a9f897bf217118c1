package redis

import "github.com/prometheus/client_golang/prometheus"

type metrics struct{ missed prometheus.Counter }

func newMetrics(r prometheus.Registerer, s *Store) (*metrics, error) {
	m := &metrics{missed: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "sallyport_limit_store_misses_total",
		Help: "Requests that the limit store was not asked for, or that it did not answer in time: they were counted by this proxy's share.",
	})}
	if r == nil {
		return m, nil
	}
	up := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sallyport_limit_store_up",
		Help: "Whether there is a connection to the limit store.",
	}, func() float64 {
		if s.up.Load() {
			return 1
		}
		return 0
	})
	proxies := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sallyport_limit_store_proxies",
		Help: "How many proxies count there, as it said last; 0 when it never has.",
	}, func() float64 { return float64(s.Proxies()) })
	for _, c := range []prometheus.Collector{m.missed, up, proxies} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
