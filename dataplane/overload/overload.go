// Package overload tells when this process has more to do than it can, and which share of
// what comes has to be refused for the rest to be served in time.
package overload

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// DefaultTarget is that of Config.Target. What waits for so long at each turn, of which
	// a request has several, has clients that wait for a multiple of it; and it is far
	// beyond what a busy machine, or the collection of garbage, keeps anybody waiting.
	DefaultTarget = 100 * time.Millisecond
	// period is how often it is looked how long things wait.
	period = 100 * time.Millisecond
	// Who is refused is told after a time between half of hold and all of it: to refuse
	// costs a part of what serving does, and a client that is told at once may ask anew at
	// once. maxHeld bounds those who wait for it.
	hold    = time.Second
	maxHeld = 10_000
)

// Config is what a Guard needs. Log is required.
type Config struct {
	// Target is how long what is ready to run may wait for a processor; DefaultTarget
	// when zero.
	Target time.Duration
	Log    *slog.Logger
	// Registerer takes the metrics; they are not shown when it is nil.
	Registerer prometheus.Registerer
	// Delay returns how long things have waited for a processor since it was called last;
	// that of Go's scheduler when nil. It is for one goroutine.
	Delay func() time.Duration
}

// Guard says of each request whether it is to be refused. It is safe for concurrent use.
// A nil Guard refuses nothing, nor does one whose Run has ended.
type Guard struct {
	control control // Run's
	delay   func() time.Duration
	log     *slog.Logger

	share  atomic.Uint32 // of 2^32 requests, so many are refused
	waited atomic.Int64  // the delay that was seen last, in nanoseconds
	held   atomic.Int64  // those in Hold
}

// New returns a Guard that has started nothing.
func New(c Config) (*Guard, error) {
	if c.Log == nil || c.Target < 0 {
		return nil, errors.New("a guard against overload needs a logger, and no negative target")
	}
	if c.Target == 0 {
		c.Target = DefaultTarget
	}
	if c.Delay == nil {
		c.Delay = schedulingDelay()
	}
	g := &Guard{control: control{target: c.Target}, delay: c.Delay, log: c.Log}
	if c.Registerer == nil {
		return g, nil
	}
	return g, errors.Join(
		c.Registerer.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sallyport_overload_share",
			Help: "The share of requests that is refused now because this process has more to do than it can, from 0 to 1.",
		}, g.refused)),
		c.Registerer.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sallyport_scheduling_delay_seconds",
			Help: "How long what was ready to run has waited for a processor lately.",
		}, func() float64 { return time.Duration(g.waited.Load()).Seconds() })),
	)
}

// Refuses reports whether a request that has come is to be refused.
func (g *Guard) Refuses() bool {
	if g == nil {
		return false
	}
	share := g.share.Load()
	return share != 0 && rand.Uint32() < share //nolint:gosec // it spreads, and protects nothing
}

// Hold keeps who is refused waiting for up to a second, unless too many do already.
func (g *Guard) Hold() {
	defer g.held.Add(-1)
	if g.held.Add(1) <= maxHeld {
		<-time.After(hold/2 + rand.N(hold/2)) //nolint:gosec // it spreads load, and protects nothing
	}
}

// refused is the share that is.
func (g *Guard) refused() float64 { return float64(g.share.Load()) / math.MaxUint32 }

// Run looks at the delay until ctx ends, and returns nil.
func (g *Guard) Run(ctx context.Context) error {
	defer g.share.Store(0)
	tick := time.NewTicker(period)
	defer tick.Stop()
	g.delay() // from here on
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			g.look(ctx)
		}
	}
}

func (g *Guard) look(ctx context.Context) {
	before, delay := g.share.Load(), g.delay()
	share := uint32(g.control.step(delay) * math.MaxUint32)
	g.waited.Store(int64(delay))
	g.share.Store(share)
	switch {
	case before == 0 && share != 0:
		g.log.WarnContext(ctx, "proxy is overloaded and refuses requests", "delay", delay)
	case before != 0 && share == 0:
		g.log.InfoContext(ctx, "proxy is not overloaded any more")
	}
}
