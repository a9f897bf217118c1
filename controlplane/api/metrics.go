package api

import (
	"errors"
	"slices"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/controlplane/access"
)

type metrics struct {
	calls *prometheus.CounterVec
	took  *prometheus.HistogramVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_admin_calls_total",
			Help: "Calls of the admin API that were understood, by procedure and code.",
		}, []string{"procedure", "code"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:                        "sallyport_admin_call_seconds",
			Help:                        "How long calls of the admin API took that were allowed.",
			Buckets:                     []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30},
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
		}, []string{"procedure"}),
	}
	if r == nil {
		return m, nil
	}
	return m, errors.Join(r.Register(m.calls), r.Register(m.took))
}

// count counts a call. Strangers do not get to name procedures.
func (m *metrics) count(procedure string, err error) {
	if _, known := slices.BinarySearch(access.Procedures(), procedure); !known {
		procedure = "unknown"
	}
	m.calls.WithLabelValues(procedure, code(err)).Inc()
}

func (m *metrics) observe(procedure string, err error, took time.Duration) {
	m.count(procedure, err)
	m.took.WithLabelValues(procedure).Observe(took.Seconds())
}

func code(err error) string {
	if err == nil {
		return "ok"
	}
	return connect.CodeOf(err).String()
}
