package overload

import (
	"slices"
	"time"
)

// control finds the share that has to be refused for the delay to be the target. It is a
// proportional integral controller as PIE's (RFC 8033, section 4.2): the share grows while
// the delay is above the target or grows, and shrinks while it is below or shrinks, so
// that it comes to rest at what is needed, whatever that is.
type control struct {
	target time.Duration

	share  float64
	seen   [standing]time.Duration // the last delays
	before float64                 // the delay of the step before, in targets
}

const (
	// standing is of how many periods most have to be beyond the target before anything is
	// refused: a pause of the whole process, or a burst, is over sooner (RFC 8033 calls it
	// the burst allowance). Afterwards fewer have a say, so that the share follows.
	standing, following = 5, 3
	// alpha and beta weigh the distance from the target, and the change since the period
	// before, both in targets. What has waited has come when another share was refused: with
	// more of alpha it swings.
	alpha, beta = 0.03, 0.2
	// farthest bounds the distance, and the change, that count.
	farthest = 2
	// most is refused at worst: what is let through tells how things are.
	most = 0.98
)

// step takes the delay of a period and returns the share for the next one.
func (c *control) step(delay time.Duration) float64 {
	copy(c.seen[1:], c.seen[:])
	c.seen[0] = delay
	if c.share == 0 {
		delay = median(c.seen[:])
	} else {
		delay = median(c.seen[:following])
	}
	now := float64(delay) / float64(c.target)
	change := alpha*min(now-1, farthest) + beta*min(max(now-c.before, -farthest), farthest)
	c.before = now
	if c.share == 0 && now <= 1 {
		return 0 // however fast it grows: it may stop there
	}
	// Near nothing little is much (RFC 8033, section 4.2).
	switch {
	case c.share < 0.01:
		change /= 8
	case c.share < 0.1:
		change /= 2
	}
	c.share = min(max(c.share+change, 0), most)
	if c.share < 0.001 && now < 1 {
		c.share = 0
	}
	return c.share
}

// median is that of an odd number of delays: a single one that is off says nothing.
func median(delays []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(delays))
	return sorted[len(sorted)/2]
}
