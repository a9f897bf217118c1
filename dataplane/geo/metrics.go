package geo

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	failures, lookups *prometheus.CounterVec

	ages  *prometheus.Desc
	atlas *Atlas
	files []string
}

func newMetrics(r prometheus.Registerer, a *Atlas, files []string) (*metrics, error) {
	m := &metrics{
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_geo_reload_failures_total",
			Help: "Attempts to read a geo database that failed, by file.",
		}, []string{"file"}),
		lookups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_geo_lookup_failures_total",
			Help: "Look-ups that a geo database could not answer because it is damaged or does not know such addresses, by file.",
		}, []string{"file"}),
		ages:  prometheus.NewDesc("sallyport_geo_database_age_seconds", "Time since the geo database in use was built, by file; +Inf when there is none.", []string{"file"}, nil),
		atlas: a, files: files,
	}
	if r == nil {
		return m, nil
	}
	for _, file := range files {
		m.failures.WithLabelValues(file)
		m.lookups.WithLabelValues(file)
	}
	for _, c := range []prometheus.Collector{m.failures, m.lookups, m} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) { to <- m.ages }

// Collect implements prometheus.Collector.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	now := m.atlas.now()
	for _, file := range m.files {
		age := math.Inf(1)
		for _, d := range *m.atlas.current.Load() {
			if d.file == file {
				age = d.age(now).Seconds()
			}
		}
		to <- prometheus.MustNewConstMetric(m.ages, prometheus.GaugeValue, age, file)
	}
}
