package registry

import (
	"cmp"
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/storage"
)

const (
	// forgetLostAfter is Config.ForgetLostAfter where nothing is said.
	forgetLostAfter = 30 * 24 * time.Hour
	// forgetEvery is how often long lost proxies are looked for.
	forgetEvery = 10 * time.Minute
	// forgetAtOnce bounds how many are in one entry of the audit.
	forgetAtOnce = 100
)

// lost is how proxies are forgotten of which nobody has heard for long.
type lost struct {
	after     time.Duration
	every     time.Duration
	forgotten prometheus.Counter
}

func newLost(c Config) *lost {
	l := &lost{
		after: cmp.Or(c.ForgetLostAfter, forgetLostAfter), every: forgetEvery,
		forgotten: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_forgotten_proxies_total",
			Help: "Proxies that this replica has forgotten, because nothing was heard of them for long.",
		}),
	}
	if c.Registerer != nil {
		c.Registerer.MustRegister(l.forgotten)
	}
	return l
}

// ForgetLost forgets proxies of which nobody has heard for long, but those that
// operators have refused or quarantined, now and then until ctx ends, and returns
// ctx's error. One replica is enough; several are not in each other's way.
func (r *Registry) ForgetLost(ctx context.Context) error {
	ticker := time.NewTicker(r.lost.every)
	defer ticker.Stop()
	for {
		r.forgetLost(ctx)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

func (r *Registry) forgetLost(ctx context.Context) {
	for n := forgetAtOnce; n == forgetAtOnce; {
		e := storage.AuditEntry{At: r.now(), Caller: "system", Action: "forget lost proxies", Allowed: true}
		gone, err := r.store.ForgetLost(ctx, r.now().Add(-r.lost.after), forgetAtOnce, e)
		if n = len(gone); err != nil {
			if ctx.Err() == nil {
				r.log.WarnContext(ctx, "lost proxies could not be forgotten", "err", err)
			}
			return
		}
		if n > 0 {
			r.lost.forgotten.Add(float64(n))
			r.log.InfoContext(ctx, "lost proxies were forgotten", "proxies", n)
		}
	}
}
