package balance

import (
	"math"
	"time"
)

// view is whom requests go to from some time on. It is immutable.
type view struct {
	all   []*Endpoint
	first []uint8 // of all, whom requests go to; the others are for when those have failed
	// shares of first, the largest full; nil when they are equal.
	shares []uint16
	until  int64 // when it may be another one, in Unix nanoseconds
}

const full = math.MaxUint16

// look makes the view at a time. mu is held.
func (b *Balancer) look(all []*Endpoint, now int64) *view {
	v := &view{all: all, until: never}
	usable := func(s State) bool { return s < Ejected }
	if v.count(now, usable)*100 < b.config.Panic*len(all) {
		usable = func(State) bool { return true }
	}
	live := func(s State) bool { return s != Avoided && usable(s) }
	if v.count(now, live) == 0 {
		live = usable
	}
	for i, e := range all {
		v.expire(now, e.ejected.Load())
		v.expire(now, e.avoided.Load())
		in := live(e.state(now))
		if in && !e.in {
			e.since = now
			e.failures.Store(0)
		}
		if e.in = in; in {
			v.first = append(v.first, uint8(i))
		}
	}
	v.share(b.config.SlowStart, now)
	return v
}

func (v *view) count(now int64, is func(State) bool) (n int) {
	for _, e := range v.all {
		if is(e.state(now)) {
			n++
		}
	}
	return n
}

// expire has the view end at a time, unless that has been.
func (v *view) expire(now, at int64) {
	if at > now {
		v.until = min(v.until, at)
	}
}

// steps is how many views there are while a share grows.
const steps = 20

// share finds out by how much requests go to the one or the other.
func (v *view) share(window time.Duration, now int64) {
	weights := make([]float64, len(v.first))
	least, most := math.MaxFloat64, 0.0
	for i, n := range v.first {
		e := v.all[n]
		grown := e.grown(window, now)
		if grown < 1 {
			v.expire(now, now+int64(window)/steps+1)
		}
		weights[i] = float64(e.weight) * grown
		least, most = min(least, weights[i]), max(most, weights[i])
	}
	if least >= most {
		return
	}
	v.shares = make([]uint16, len(weights))
	for i, w := range weights {
		v.shares[i] = uint16(max(1, math.Round(full*w/most)))
	}
}

// grown is how much of its share an endpoint has.
func (e *Endpoint) grown(window time.Duration, now int64) float64 {
	const least = 0.1
	if e.since == 0 || now-e.since >= int64(window) {
		return 1
	}
	return max(least, float64(now-e.since)/float64(window))
}
