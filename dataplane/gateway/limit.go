package gateway

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/dataplane/limit"
	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/quota"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// limiter is a rate limit with what was used of it.
type limiter struct {
	of      *compile.RateLimit
	name    string // as decisions name it
	label   string // as clients are told
	policy  string // likewise
	detail  string
	table   *limit.Table
	store   LimitStore // nil for none
	atOnce  *atOnce
	exceeds prometheus.Counter
}

// limiters are those of a route.
type limiters struct {
	outer []*limiter // before anybody is authenticated
	inner []*limiter
}

// newLimiters makes what requests meet of rate limits. What was used of those before
// stays used.
func (g *Gateway) newLimiters(limits []*compile.RateLimit) map[*compile.RateLimit]*limiter {
	keys := make(map[string]string, len(limits))
	for _, l := range limits {
		keys[l.Key.String()] = alikeness(l.Spec)
	}
	tables := g.limits.Sync(keys)
	for name := range g.under {
		if _, ok := keys[name]; !ok {
			delete(g.under, name)
		}
	}
	made := make(map[*compile.RateLimit]*limiter, len(limits))
	for _, l := range limits {
		made[l] = &limiter{
			of: l, name: l.Key.String(), table: tables[l.Key.String()], store: g.store, atOnce: g.underWay(l.Key.String()),
			label:   fmt.Sprintf("%q", l.Key.Name),
			policy:  fmt.Sprintf("%q;q=%d;w=%.0f", l.Key.Name, l.Spec.GetRequests(), l.Spec.GetPeriod().AsDuration().Seconds()),
			detail:  fmt.Sprintf("more than %d in %s", l.Spec.GetRequests(), l.Spec.GetPeriod().AsDuration()),
			exceeds: g.metrics.limited.WithLabelValues(name(l.Key), mode(l)),
		}
	}
	return made
}

// alikeness says in which way requests are alike that share what a limit has.
func alikeness(spec *resourcev1.RateLimit) string {
	key, err := proto.MarshalOptions{Deterministic: true}.Marshal(&resourcev1.RateLimit{Key: spec.GetKey()})
	if err != nil {
		return err.Error() // of text that is no UTF-8, which nothing has admitted
	}
	return string(key)
}

func mode(l *compile.RateLimit) string {
	if l.Shadow() {
		return "shadow"
	}
	return "enforce"
}

// forgetLimits drops the series of limits that are not there any more.
func (m *metrics) forgetLimits(before, after []*compile.RateLimit) {
	there := make(map[[2]string]bool, len(after))
	for _, l := range after {
		there[[2]string{name(l.Key), mode(l)}] = true
	}
	for _, l := range before {
		if !there[[2]string{name(l.Key), mode(l)}] {
			m.limited.DeleteLabelValues(name(l.Key), mode(l))
		}
	}
}

func (s *state) limiters(r *compile.Route) (of limiters) {
	for _, l := range r.Limits {
		if l.Authenticated {
			of.inner = append(of.inner, s.limits[l])
		} else {
			of.outer = append(of.outer, s.limits[l])
		}
	}
	return of
}

// exhausted counts a request, and denies it when one of the limits is used up. What
// it has used of the others is given back then. Open streams have been counted.
func (g *Gateway) exhausted(ctx context.Context, q *question, v *verdict, limits []*limiter, in *policy.Input) bool {
	if len(limits) == 0 || q.again != nil {
		return false
	}
	for i, l := range limits {
		if !l.hold(q, in) {
			l.exceeds.Inc()
			v.refuseFor(q, l, quota.Outcome{Retry: time.Second}, fmt.Sprintf("more than %d at once", l.of.Spec.GetConcurrent()))
			giveBack(limits[:i], in)
			return v.limited(in)
		}
		o := l.take(ctx, in, g.limits.Since(q.now))
		switch {
		case l.of.Shadow():
			if !o.Allowed && v.shadow.Policy == "" {
				v.shadow = policy.Shadow{Policy: l.name, Reason: ReasonLimited}
			}
		case o.Allowed:
			q.exchange.allowed.add(l, o)
		default:
			v.refuseFor(q, l, o, l.detail)
			giveBack(limits[:i], in)
			return v.limited(in)
		}
	}
	return false
}

func giveBack(limits []*limiter, in *policy.Input) {
	for _, l := range limits {
		l.give(in)
	}
}

// refuseFor denies because of a limit.
func (v *verdict) refuseFor(q *question, l *limiter, o quota.Outcome, detail string) {
	q.exchange.allowed.exceeded(l, o)
	v.status, v.reason, v.policy, v.detail = http.StatusTooManyRequests, ReasonLimited, l.name, detail
}

// limited reports whether a limit has denied, with what was found out on the way.
func (v *verdict) limited(in *policy.Input) bool {
	if v.reason != ReasonLimited {
		return false
	}
	v.place, v.denials, v.shadow = in.Place(), in.Denied(), policy.Shadow{}
	return true
}

// keyRoom is what keys usually fit into.
const keyRoom = 256

// applies reports whether the limit counts a request. It does what cannot be told.
func (l *limiter) applies(in *policy.Input) bool {
	holds, known := l.of.When.Holds(in)
	return holds || !known
}

// cost of what cannot be told is as high as it gets.
func (l *limiter) cost(in *policy.Input) int64 {
	if l.of.Cost == nil {
		return 1
	}
	if n, known := l.of.Cost.Value(in); known {
		return n
	}
	return l.of.Rate.Burst()
}

func (l *limiter) take(ctx context.Context, in *policy.Input, now time.Duration) quota.Outcome {
	if !l.applies(in) {
		return quota.Outcome{Allowed: true, Remaining: unlimited}
	}
	var room [keyRoom]byte
	key, cost := l.of.Parts.Append(room[:0], in), l.cost(in)
	var o quota.Outcome
	if l.of.Fleet() {
		o = l.shared(ctx, key, now, cost)
	} else {
		o = l.table.Take(limit.HashOf(key), now, l.of.Rate, cost)
	}
	if !o.Allowed {
		l.exceeds.Inc()
	}
	return o
}

func (l *limiter) give(in *policy.Input) {
	if !l.applies(in) || l.of.Shadow() {
		return
	}
	var room [keyRoom]byte
	key, cost := l.of.Parts.Append(room[:0], in), l.cost(in)
	if l.of.Fleet() {
		l.takeBack(key, cost)
		return
	}
	l.table.Give(limit.HashOf(key), l.of.Rate, cost)
}

// aside is what would have become of a request: what limits in shadow would have
// denied no policy is asked for.
func (v *verdict) aside(d policy.Decision) policy.Shadow {
	if v.shadow.Policy != "" && d.Allow {
		return v.shadow
	}
	return d.Shadow
}
