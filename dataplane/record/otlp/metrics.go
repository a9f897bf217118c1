package otlp

import "github.com/prometheus/client_golang/prometheus"

type metrics struct{ sent, dropped prometheus.Counter }

func newMetrics(r prometheus.Registerer, s *Sink) (*metrics, error) {
	m := &metrics{
		sent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_collector_records_total",
			Help: "Records, of decisions and outcomes, that the collector of logs has taken.",
		}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_collector_records_dropped_total",
			Help: "Records that the collector of logs does not have, because there was no room for them or it refused them.",
		}),
	}
	if r == nil {
		return m, nil
	}
	waiting := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sallyport_collector_records_waiting_bytes",
		Help: "Records in memory that wait for the collector of logs.",
	}, func() float64 {
		_, size := s.waiting()
		return float64(size)
	})
	for _, c := range []prometheus.Collector{m.sent, m.dropped, waiting} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
