package otlp

import "github.com/prometheus/client_golang/prometheus"

type metrics struct{ sent, dropped prometheus.Counter }

func newMetrics(r prometheus.Registerer, waiting func() (items, bytes int)) (*metrics, error) {
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
	size := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sallyport_collector_records_waiting_bytes",
		Help: "Records in memory that wait for the collector of logs.",
	}, func() float64 {
		_, bytes := waiting()
		return float64(bytes)
	})
	for _, c := range []prometheus.Collector{m.sent, m.dropped, size} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
