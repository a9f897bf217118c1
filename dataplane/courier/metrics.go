package courier

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	dropped, arrived, refused prometheus.Counter
	pushes                    *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer, c *Courier) (*metrics, error) {
	m := &metrics{
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_remote_records_dropped_total",
			Help: "Decision records that the control plane does not have, because there was no room for them or it refused them.",
		}),
		arrived: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_remote_records_total",
			Help: "Decision records that the control plane has kept.",
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_spool_refusals_total",
			Help: "Requests that were denied because their record is required and could not be spooled.",
		}),
		pushes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_record_pushes_total",
			Help: "Attempts to bring decision records to the control plane, by result: arrived or failed.",
		}, []string{"result"}),
	}
	if r == nil {
		return m, nil
	}
	for _, collector := range []prometheus.Collector{
		m.dropped, m.arrived, m.refused, m.pushes,
		gauge("sallyport_remote_records_waiting_bytes", "Decision records in memory that wait for the control plane.", func() float64 {
			_, bytes := c.queue.waiting()
			return float64(bytes)
		}),
		gauge("sallyport_spool_bytes", "Decision records on disk that wait for the control plane.", func() float64 {
			return float64(c.spool.Size())
		}),
	} {
		if err := r.Register(collector); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func gauge(name, help string, value func() float64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
}
