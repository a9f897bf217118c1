// Package balance spreads the streams of proxies over the replicas of a control plane.
package balance

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/storage"
)

const (
	// every is how often a replica compares its streams with those of the others.
	every = 5 * time.Second
	// goneAfter is when a replica does not count any more that nothing was heard of.
	goneAfter = 20 * time.Second
	// settledAfter is for how long a replica has to be there to count: one that starts
	// again and again is not to have proxies sent to and fro.
	settledAfter = 15 * time.Second
	// movesPerSecond bounds how many proxies a replica asks to go.
	movesPerSecond = 20
	// askedAgain is when a proxy may be asked again. One that knows this replica alone
	// comes back each time.
	askedAgain = time.Hour
	// leastSlack is how much more than its share a replica may always have.
	leastSlack = 10
	// leaveWithin bounds saying that this replica has left.
	leaveWithin = 2 * time.Second
)

// Streams are those that proxies have here. It is a *registry.Registry.
type Streams interface {
	// Streams returns how many there are, by environment.
	Streams() map[string]int
	// Move has up to n proxies be asked to open theirs elsewhere, and returns which.
	Move(n int, may func(storage.ProxyID) bool) []storage.ProxyID
}

// Config is what a Balancer needs. The first four are required.
type Config struct {
	Replica string // what this one is called
	Store   storage.Replicas
	Streams Streams
	Log     *slog.Logger

	// Stay has this replica ask no proxy to go. It counts for the others nevertheless.
	Stay       bool
	Every      time.Duration         // 5 s when zero
	Registerer prometheus.Registerer // takes the metric; none when nil
	Now        func() time.Time      // time.Now when nil
}

// Balancer is for one replica.
type Balancer struct {
	cfg   Config
	moved prometheus.Counter

	// asked are the proxies that were asked to go, with when. It belongs to Run.
	asked map[storage.ProxyID]time.Time
}

// New returns a Balancer. It does nothing until Run.
func New(c Config) *Balancer {
	c.Every = cmp.Or(c.Every, every)
	if c.Now == nil {
		c.Now = time.Now
	}
	b := &Balancer{cfg: c, asked: map[storage.ProxyID]time.Time{}, moved: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "sallyport_rebalanced_proxies_total",
		Help: "Proxies that this replica has asked to connect elsewhere, because it had more than its share.",
	})}
	if c.Registerer != nil {
		c.Registerer.MustRegister(b.moved)
	}
	return b
}

// Run says how many streams there are, and has proxies be asked to go while there are
// too many, until ctx ends. While the database is away nobody is.
func (b *Balancer) Run(ctx context.Context) error {
	failing := false
	for {
		err := b.balance(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			b.cfg.Log.WarnContext(ctx, "streams were not compared with those of other replicas", "err", err)
		}
		failing = err != nil
		// Replicas that were started together are not to act together.
		pause := time.NewTimer(b.cfg.Every/2 + rand.N(b.cfg.Every)) //nolint:gosec // spreads load, hides nothing
		select {
		case <-ctx.Done():
			pause.Stop()
			b.leave(ctx)
			return nil
		case <-pause.C:
		}
	}
}

// leave has the others not wait until this replica does not count.
func (b *Balancer) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWithin)
	defer cancel()
	_ = b.cfg.Store.Leave(ctx, b.cfg.Replica) // else they learn of it in a while
}

func (b *Balancer) balance(ctx context.Context) error {
	own := 0
	for _, n := range b.cfg.Streams.Streams() {
		own += n
	}
	replicas, err := b.cfg.Store.Present(ctx, b.cfg.Replica, own, goneAfter)
	if err != nil {
		return fmt.Errorf("read replicas: %w", err)
	}
	var loads []int
	for _, r := range replicas {
		switch {
		case r.Name == b.cfg.Replica && r.For < settledAfter:
			return nil
		case r.Name != b.cfg.Replica && r.For >= settledAfter:
			loads = append(loads, r.Streams)
		}
	}
	n := min(Surplus(own, loads), int(movesPerSecond*b.cfg.Every.Seconds()))
	if n == 0 || b.cfg.Stay {
		return nil
	}
	b.forget()
	went := b.cfg.Streams.Move(n, func(id storage.ProxyID) bool { return b.asked[id].IsZero() })
	for _, id := range went {
		b.asked[id] = b.cfg.Now()
	}
	if len(went) > 0 {
		b.moved.Add(float64(len(went)))
		b.cfg.Log.InfoContext(ctx, "proxies were asked to connect to another replica", "proxies", len(went), "streams", own, "replicas", len(loads)+1)
	}
	return nil
}

// forget lets those be asked again that were asked long ago.
func (b *Balancer) forget() {
	for id, at := range b.asked {
		if b.cfg.Now().Sub(at) >= askedAgain {
			delete(b.asked, id)
		}
	}
}

// Surplus returns how many proxies a replica should ask to go that has own streams,
// while the others have theirs: half of what is beyond its share, so that several do
// not send away together more than there is room for; 0 while it has a tenth more than
// its share, or four times its root, at most. Where proxies choose a replica at random
// that is exceeded hardly ever, so that it comes to rest.
func Surplus(own int, others []int) int {
	total := own
	for _, n := range others {
		total += n
	}
	share := float64(total) / float64(len(others)+1)
	slack := max(leastSlack, share/10, 4*math.Sqrt(share))
	if len(others) == 0 || float64(own) <= share+slack {
		return 0
	}
	return int(math.Ceil((float64(own) - share) / 2))
}
