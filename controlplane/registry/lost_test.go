package registry_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/storage"
)

// metric returns the value of a counter or a gauge, the sum over its labels.
func metric(t testing.TB, metrics *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func forgotten(t testing.TB, metrics *prometheus.Registry) float64 {
	t.Helper()
	return metric(t, metrics, "sallyport_forgotten_proxies_total")
}

// Who is long lost goes by itself, with an entry in the audit; who is connected, was
// heard of since, or is kept out stays.
func TestForgetLost(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "e", "spiffe://prod.example/proxy/aws/*", "aws"))
	metrics := prometheus.NewRegistry()
	r := registry.New(registry.Config{
		Store: l.open(), Replica: "a", Now: l.clock.now, Log: slog.New(slog.DiscardHandler),
		ForgetLostAfter: time.Hour, Registerer: metrics,
	})
	r.ForgetEvery(5 * time.Millisecond)
	run(t, r.Run)
	eventually(t, "it is ready", r.Ready)
	a := &replica{Registry: r}
	gone, barred, stays := open(t, a, one, "gone"), open(t, a, two, "barred"), open(t, a, one, "stays")
	rule(t, a, two, refuse)
	gone.Close()
	barred.Close()
	saved := func(instance string, lost bool) bool {
		id := registry.ProxyID(map[bool]string{true: two, false: one}[instance == "barred"], instance)
		p, err := l.store.Proxy(t.Context(), id)
		return err == nil && (p.Replica == "") == lost
	}
	eventually(t, "all are saved", func() bool { return saved("gone", true) && saved("barred", true) && saved("stays", false) })

	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- r.ForgetLost(ctx) }()
	l.clock.advance(59 * time.Minute)
	stays.Beat(nil)
	eventually(t, "it is saved again", func() bool {
		p, err := l.store.Proxy(t.Context(), registry.ProxyID(one, "stays"))
		return err == nil && l.clock.now().Sub(p.LastSeen) < 30*time.Minute
	})
	if !saved("gone", true) {
		t.Error("it is forgotten before its time")
	}
	l.clock.advance(2 * time.Minute)
	eventually(t, "it is forgotten", func() bool {
		_, err := l.store.Proxy(t.Context(), registry.ProxyID(one, "gone"))
		return errors.Is(err, storage.ErrNotFound)
	})
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	if !saved("barred", true) || !saved("stays", false) {
		t.Error("others are forgotten, too")
	}
	if n := forgotten(t, metrics); n != 1 {
		t.Errorf("%v are counted", n)
	}
	entries, err := l.store.Entries(t.Context(), 0, 100)
	last := entries[len(entries)-1]
	if err != nil || last.Caller != "system" || last.Action != "forget lost proxies" || !strings.Contains(last.Detail, one+"#gone") {
		t.Errorf("the audit has %+v, %v", last, err)
	}
}
