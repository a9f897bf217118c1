package gateway

import (
	"context"
	"time"

	"github.com/sallyport/sallyport/dataplane/upstream"
	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/policy"
)

// Registry is one of open streams.
type Registry struct{ streams }

// EnterAndLeave has a stream enter the registry and leave it, as each request
// does that is let through.
func (r *Registry) EnterAndLeave(s *Stream) {
	r.add(s)
	s.end()
	s.remove()
}

// DecideAgain returns what decides again on each of the open streams, whatever
// else does.
func (g *Gateway) DecideAgain() (all []func() bool) {
	g.streams.each(func(s *Stream) {
		mine := &Stream{ID: s.ID, Principal: s.Principal, Route: s.Route, exchange: s.exchange}
		mine.standing = s.exchange.state.authn.Stand(s.Principal, &s.exchange.verdict.way.accept)
		all = append(all, func() bool {
			return g.reconsider(context.Background(), grounds{g.state.Load(), g.revocations.Load()}, mine, g.now()).allow
		})
	})
	return all
}

// TakeTurns has no handshake get its turn until the returned function is called, and
// those that wait do so no longer than d.
func (g *Gateway) TakeTurns(d time.Duration) (end func()) {
	g.turns.wait = d
	for range cap(g.turns.places) {
		g.turns.places <- struct{}{}
	}
	return func() {
		for range cap(g.turns.places) {
			<-g.turns.places
		}
	}
}

// Turns is how many handshakes are worked on at once.
func (g *Gateway) Turns() int { return cap(g.turns.places) }

// FirstAtOnce is how many requests of a new connection begin at once.
const FirstAtOnce = firstAtOnce

// BeginEvery is the time between requests of crowds.
func (g *Gateway) BeginEvery() time.Duration { return g.pace.every }

// Crowd is the requests of one connection.
type Crowd struct{ crowd *crowd }

// Crowds returns what makes crowds that share a pace, of clients that take what they are sent.
func Crowds(every time.Duration) func() *Crowd {
	p := &pace{every: every}
	return func() *Crowd { return &Crowd{newCrowd(p, &household{}, func() bool { return false })} }
}

// Home is those behind one address, who have so many answers that they have not taken.
type Home struct{ household *household }

// Untaken returns one.
func Untaken(n int64) Home {
	h := Home{&household{}}
	h.household.untaken.Store(n)
	return h
}

// Crowd returns one of a client that has yet to take what it was sent while full says so.
func (h Home) Crowd(every time.Duration, full func() bool) *Crowd {
	return &Crowd{newCrowd(&pace{every: every}, h.household, full)}
}

// Taken says that the client has taken something.
func (c *Crowd) Taken() { c.crowd.taken() }

// Enter waits until a request may begin.
func (c *Crowd) Enter(ctx context.Context) bool { return c.crowd.enter(ctx) }

// Leave is for a request that has ended.
func (c *Crowd) Leave(answered bool) { c.crowd.leave(answered) }

// AcceptFor is how an upstream proves that it has read a key.
var AcceptFor = acceptFor

// FrameEnds returns where the frames of a WebSocket end in p, which comes in
// pieces.
func FrameEnds(p []byte, piece int) (ends []int) {
	var f frames
	at := 0
	for len(p) > 0 {
		next := p[:min(piece, len(p))]
		p = p[len(next):]
		for len(next) > 0 {
			f.see(next[:1])
			n := 1 + f.finish(next[1:])
			at, next = at+n, next[n:]
			if f.between() {
				ends = append(ends, at)
			}
		}
	}
	return ends
}

// Exhausted returns what counts a request, each time as another one, by the limits of
// a route that come before authentication.
func (g *Gateway) Exhausted(route policy.RouteID, in *policy.Input) func() bool {
	s := g.state.Load()
	v := &verdict{way: g.way(s, s.table.Route(route))}
	q := &question{now: g.now(), exchange: &exchange{passage: passage{gateway: g}}}
	return func() bool {
		q.exchange.allowed = allowances{}
		return g.exhausted(context.Background(), q, v, v.way.limits.outer, in)
	}
}

// ExhaustedNow is Exhausted for a clock that goes on.
func (g *Gateway) ExhaustedNow(route policy.RouteID, in *policy.Input) func() bool {
	s := g.state.Load()
	v := &verdict{way: g.way(s, s.table.Route(route))}
	return func() bool {
		q := &question{now: g.now(), exchange: &exchange{passage: passage{gateway: g}}}
		return g.exhausted(context.Background(), q, v, v.way.limits.outer, in)
	}
}

// Idle calls over when it is not touched for a limit.
func Idle(limit time.Duration, over func()) (touch, stop func()) {
	i := newIdle(limit, over)
	return i.touch, i.stop
}

// Upstreams is what the resources say.
func Upstreams(from []*compile.Upstream) []upstream.Spec { return upstreams(from) }

// WatchAges holds ages against their limits now.
func (g *Gateway) WatchAges() { g.watchAges(context.Background()) }
