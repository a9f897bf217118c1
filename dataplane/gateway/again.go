package gateway

import (
	"context"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/request"
)

// round is the time in which each open stream is decided on again. A stream is in
// a shard by chance, and the shards take their turns, so that a change which closes
// many does so spread over half a round, and costs no burst.
const (
	round = time.Second
	turn  = round / shards
)

// keepDeciding decides on open streams again until ctx ends.
func (g *Gateway) keepDeciding(ctx context.Context) {
	tick := time.NewTicker(turn)
	defer tick.Stop()
	r := rounds{gateway: g, due: time.Now()}
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			// What was missed is made up for, but for more than a round of it.
			if late := now.Add(-round); r.due.Before(late) {
				r.due = late
			}
			for ; !now.Before(r.due) && ctx.Err() == nil; r.due = r.due.Add(turn) {
				r.turn(ctx)
			}
		}
	}
}

// rounds are those that open streams are decided on in.
type rounds struct {
	gateway *Gateway
	due     time.Time // the next turn
	next    int       // shard
	seen    grounds   // of the turn before
	hurry   int       // turns of twice as many shards
}

// turn decides on the shard whose turn it is, and on one more for as long as there
// are some that were not decided on by what is in force.
func (r *rounds) turn(ctx context.Context) {
	if now := (grounds{r.gateway.state.Load(), r.gateway.revocations.Load()}); now != r.seen {
		r.seen, r.hurry = now, shards/2
	}
	count := 1
	if r.hurry > 0 {
		count, r.hurry = 2, r.hurry-1
	}
	for range count {
		r.gateway.streams.in(r.next, func(s *Stream) { r.gateway.decideAgain(ctx, s) })
		r.next = (r.next + 1) % shards
	}
}

// decideAgain closes a stream that would not be let through if it came now.
func (g *Gateway) decideAgain(ctx context.Context, s *Stream) {
	if s.over() {
		return
	}
	by, now := grounds{g.state.Load(), g.revocations.Load()}, g.now()
	g.metrics.again.Inc()
	if v := g.reconsider(ctx, by, s, now); !v.allow {
		g.lose(s, by, now, v)
	}
}

// reconsider answers the question of an open stream by grounds as they are now: the
// canonical request, with what was proven for it. What cannot be decided is denied.
func (g *Gateway) reconsider(ctx context.Context, by grounds, s *Stream, now time.Time) (v verdict) {
	x := s.exchange
	defer func() {
		if p := recover(); p != nil {
			g.log.Error("request panicked", "decision_id", s.ID, "panic", p, "stack", string(debug.Stack()))
			v = denied(http.StatusForbidden, string(policy.ReasonEvaluationError), "deciding again has failed")
		}
	}()
	q := &question{raw: request.Raw{Host: x.r.Host}, from: x.from, address: x.address, now: now, again: &s.standing, exchange: x}
	g.consider(ctx, by, q, &x.verdict.request, &v)
	if v.way != nil && v.way.name != s.Route {
		// What it was sent by, and where to, is another route's by now.
		v.deny(failure{reason: ReasonNoRoute, status: http.StatusNotFound, detail: "the request is one of " + v.way.name})
	}
	return v
}

// lose closes a stream because of a verdict, and reports whether it will end by
// that. What closes it is a decision of its own.
func (g *Gateway) lose(s *Stream, by grounds, now time.Time, v verdict) bool {
	x := s.exchange.sequel(by, now, v)
	if !s.close(&Cause{Reason: v.reason, Status: v.status, decision: x.id, by: by.state}) {
		return false
	}
	x.write()
	return true
}

// sequel is an exchange about a later decision on the same request. It can be
// recorded, and no more.
func (x *exchange) sequel(by grounds, now time.Time, v verdict) *exchange {
	if v.principal == nil {
		v.principal = x.stream.Principal
	}
	v.request = x.verdict.request
	return &exchange{passage: passage{
		gateway: x.gateway, grounds: by, from: x.from, address: x.address, r: x.r,
		verdict: v, id: newID(now), began: now, closes: x.stream.ID,
	}}
}
