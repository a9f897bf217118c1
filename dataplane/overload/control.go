package overload

import (
	"math"
	"time"
)

const (
	// standing is for how long the delay has to be beyond the target before anything is
	// refused: a pause of the whole process, or a burst, is over sooner (RFC 8033 calls it
	// the burst allowance). calm is for how long it has to be within before it is asked for
	// again.
	standing, calm = 250 * time.Millisecond, time.Second
	// memory is the time in which delays that were seen lose most of their weight.
	memory = 300 * time.Millisecond
	// most is refused at worst: what is let through tells how things are.
	most = 0.98
)

// control finds out whether delays are those of an overload, or of a moment.
type control struct {
	target time.Duration

	beyond, within time.Duration // for how long the delay has been so
	stands         bool          // it was beyond at the last step
	overloaded     bool
	mean           time.Duration // of the delays lately, each twice the target at most
}

// step takes the delay as it is now, some time after the step before.
func (c *control) step(delay, elapsed time.Duration) {
	switch {
	case delay <= c.target:
		c.beyond, c.within, c.stands = 0, c.within+elapsed, false
	case c.stands:
		c.beyond, c.within = c.beyond+elapsed, 0
	default: // it may be of a pause that is over
		c.stands, c.within = true, 0
	}
	switch {
	case c.beyond > standing:
		c.overloaded = true
	case c.within > calm:
		c.overloaded = false
	}
	weight := 1 - math.Exp(-elapsed.Seconds()/memory.Seconds())
	c.mean += time.Duration(weight * float64(min(delay, 2*c.target)-c.mean))
}

// share is what has to be refused in an overload for delays not to become much longer than
// the target: nothing at the target, nearly all at twice of it, and in proportion between
// them. It is asked for when the turn of a request has come, so that it acts on all that
// waits, and at once. One that is carried on from before, as by an integral (RFC 8033),
// would act on what has long gone; but the delay as it is now is asked for together with
// their mean, as a queue that is refused is gone in no time, and comes back.
func share(delay, target time.Duration) float64 {
	return min(max(float64(delay)/float64(target)-1, 0), most)
}
