package decisions

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	records *prometheus.CounterVec
	keeping prometheus.Histogram
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		records: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_decision_records_total",
			Help: "Decision records of proxies, by result: kept, refused because they cannot be understood, or failed, which proxies push again.",
		}, []string{"result"}),
		keeping: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:                        "sallyport_decision_keep_duration_seconds",
			Help:                        "How long it took to keep a batch of decision records.",
			Buckets:                     []float64{1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 5, 20},
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
		}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.records, m.keeping} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) saved(records int, refused int64, took time.Duration, err error) {
	m.keeping.Observe(took.Seconds())
	if err != nil {
		m.records.WithLabelValues("failed").Add(float64(records))
		return
	}
	m.records.WithLabelValues("kept").Add(float64(records))
	m.records.WithLabelValues("refused").Add(float64(refused))
}
