// Package overload tells when this process has more to do than it can, and which share of
// what comes has to be refused for the rest to be served in time.
package overload

import (
	"context"
	"errors"
	"log/slog"
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
	// seldom is how often it is looked how long things wait, and often how often in an
	// overload, or near one.
	seldom, often = 100 * time.Millisecond, 20 * time.Millisecond
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
	// Delay returns for how long what is ready to run waits for a processor; as Run finds
	// it when nil. It is safe for concurrent use.
	Delay func() time.Duration
}

// Guard says of each request whether it is to be refused. It is safe for concurrent use.
// A nil Guard refuses nothing, nor does one whose Run has ended.
type Guard struct {
	control control // Run's
	line    *line   // in which Run stands
	delay   func() time.Duration
	log     *slog.Logger

	mean atomic.Int64 // control's while there is an overload, or 0
	held atomic.Int64 // those in Hold
}

// New returns a Guard that has started nothing.
func New(c Config) (*Guard, error) {
	if c.Log == nil || c.Target < 0 {
		return nil, errors.New("a guard against overload needs a logger, and no negative target")
	}
	if c.Target == 0 {
		c.Target = DefaultTarget
	}
	g := &Guard{control: control{target: c.Target}, line: newLine(), delay: c.Delay, log: c.Log}
	if g.delay == nil {
		g.delay = g.line.delay
	}
	if c.Registerer == nil {
		return g, nil
	}
	return g, errors.Join(
		c.Registerer.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sallyport_overload_share",
			Help: "The share of requests that is refused now because this process has more to do than it can, from 0 to 1.",
		}, g.share)),
		c.Registerer.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sallyport_scheduling_delay_seconds",
			Help: "How long what was ready to run has waited for a processor lately.",
		}, func() float64 { return g.delay().Seconds() })),
	)
}

// Refuses reports whether a request that has come is to be refused.
func (g *Guard) Refuses() bool {
	return g != nil && g.mean.Load() != 0 && rand.Float64() < g.share() //nolint:gosec // it spreads, and protects nothing
}

// share is of how many requests one is refused now.
func (g *Guard) share() float64 {
	mean := time.Duration(g.mean.Load())
	if mean == 0 {
		return 0
	}
	return share(max(g.delay(), mean), g.control.target)
}

// Hold keeps who is refused waiting for up to a second, unless too many do already.
func (g *Guard) Hold() {
	defer g.held.Add(-1)
	if g.held.Add(1) <= maxHeld {
		<-time.After(hold/2 + rand.N(hold/2)) //nolint:gosec // it spreads load, and protects nothing
	}
}

// Run looks at the delay until ctx ends, and returns nil.
func (g *Guard) Run(ctx context.Context) error {
	defer g.mean.Store(0)
	began := time.Now()
	for pause := seldom; g.line.stand(ctx, pause); {
		now := time.Now()
		delay := g.delay()
		g.look(ctx, delay, now.Sub(began))
		began, pause = now, seldom
		if g.control.overloaded || delay > g.control.target/2 {
			pause = often
		}
	}
	return nil
}

// look takes the delay, some time after the look before.
func (g *Guard) look(ctx context.Context, delay, elapsed time.Duration) {
	before := g.control.overloaded
	g.control.step(delay, elapsed)
	if g.control.overloaded {
		g.mean.Store(max(int64(g.control.mean), 1))
	} else {
		g.mean.Store(0)
	}
	switch {
	case !before && g.control.overloaded:
		g.log.WarnContext(ctx, "proxy is overloaded and refuses requests", "delay", delay)
	case before && !g.control.overloaded:
		g.log.InfoContext(ctx, "proxy is not overloaded any more")
	}
}
