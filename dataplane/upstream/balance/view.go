package balance

import (
	"math"
	"time"
)

// view is whom requests go to from some time on. It is immutable.
type view struct {
	all   []*Endpoint
	first []uint8 // of all, whom requests go to; the others are for when those have failed
	// well are those of all that are not passed over, and spare is how many of them are
	// not in first: they are too far away.
	well  set
	spare int
	// shares of first, the largest full; nil when they are equal.
	shares []uint16
	until  int64 // when it may be another one, in Unix nanoseconds
}

const full = math.MaxUint16

// look makes the view at a time. mu is held.
func (b *Balancer) look(all []*Endpoint, now int64) *view {
	v := &view{all: all, until: never}
	usable, reach := func(s State) bool { return s < Ejected }, farthest
	panics := v.count(now, farthest, b.config.Zone, usable)*100 < b.config.Panic*len(all)
	if panics {
		usable = func(State) bool { return true }
	}
	live := func(s State) bool { return s != Avoided && usable(s) }
	if v.count(now, farthest, b.config.Zone, live) == 0 {
		live = usable
	}
	if !panics {
		reach = b.reach(v, now, usable, live)
	}
	for i, e := range all {
		v.expire(now, e.ejected.Load())
		v.expire(now, e.avoided.Load())
		well := live(e.state(now))
		if well {
			v.well.add(uint8(i))
			v.spare++
		}
		in := well && e.distance(b.config.Zone) <= reach
		if in && !e.in {
			e.since = now
			e.failures.Store(0)
		}
		if e.in = in; in {
			v.first = append(v.first, uint8(i))
		}
	}
	v.spare -= len(v.first)
	v.share(b.config.SlowStart, now)
	return v
}

// reach is how far away requests go: as far as there are enough that can take them.
func (b *Balancer) reach(v *view, now int64, usable, live func(State) bool) int {
	whoever := func(State) bool { return true }
	for distance := range farthest {
		some := v.count(now, distance, b.config.Zone, whoever)
		can := v.count(now, distance, b.config.Zone, usable)
		if can*100 >= b.config.Near*some && v.count(now, distance, b.config.Zone, live) > 0 {
			return distance
		}
	}
	return farthest
}

// count counts those of some states that are at most at a distance.
func (v *view) count(now int64, distance int, from string, is func(State) bool) (n int) {
	for _, e := range v.all {
		if e.distance(from) <= distance && is(e.state(now)) {
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
