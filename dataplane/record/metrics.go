package record

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	dropped  *prometheus.CounterVec
	failures prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_records_dropped_total",
			Help: "Records that found no room, by kind: decision or outcome. A request whose decision was dropped was denied.",
		}, []string{"kind"}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_record_write_failures_total",
			Help: "Attempts to write decision records that failed.",
		}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.dropped, m.failures} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
