package trace

import "github.com/prometheus/client_golang/prometheus"

type metrics struct{ sent, dropped prometheus.Counter }

func newMetrics(r prometheus.Registerer, waiting func() (items, bytes int)) (*metrics, error) {
	m := &metrics{
		sent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_spans_total",
			Help: "Spans that the collector of traces has taken.",
		}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_spans_dropped_total",
			Help: "Spans that the collector of traces does not have, because there was no room for them or it refused them.",
		}),
	}
	if r == nil {
		return m, nil
	}
	size := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sallyport_spans_waiting_bytes",
		Help: "Spans in memory that wait for the collector of traces.",
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
