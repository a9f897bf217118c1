package balance

import (
	"math"
	"math/bits"
)

// Choice is the choices for one request: each endpoint once. The zero value has none.
type Choice struct {
	balancer *Balancer
	view     *view
	key      Key
	tried    set
	count    int
}

// set is a set of endpoints by index.
type set [MostEndpoints / 64]uint64

func (s *set) add(i uint8)      { s[i/64] |= 1 << (i % 64) }
func (s *set) has(i uint8) bool { return s[i/64]>>(i%64)&1 != 0 }

// Choose begins the choices for a request. Key is for the method Hash, and for others
// of no matter.
func (b *Balancer) Choose(key Key) Choice {
	return Choice{balancer: b, view: b.current(), key: key}
}

// Next returns the endpoint to try next, nil when all were tried. Those that requests
// do not go to come last.
func (c *Choice) Next() *Endpoint {
	if !c.More() {
		return nil
	}
	i := c.pick()
	c.tried.add(i)
	c.count++
	return c.view.all[i]
}

// More reports whether there is an endpoint that was not tried.
func (c *Choice) More() bool { return c.view != nil && c.count < len(c.view.all) }

// Better reports whether there is one that is not passed over.
func (c *Choice) Better() bool { return c.view != nil && c.count < len(c.view.first)+c.view.spare }

func (c *Choice) pick() uint8 {
	from := c.view.first
	if c.count >= len(from) {
		return c.left()
	}
	b := c.balancer
	switch {
	case b.config.Method == Hash && c.key != 0:
		return c.byHash()
	case b.config.Method == LeastRequest && c.count == 0:
		return b.byLoad(c.view)
	}
	if c.count == 0 {
		return from[b.next(c.view)]
	}
	// Whose turn it is not: nobody's is used up.
	for at := b.turn.Load() % uint64(len(from)); ; at = (at + 1) % uint64(len(from)) {
		if !c.tried.has(from[at]) {
			return from[at]
		}
	}
}

// left returns one of those that requests do not go to: that is too far away, or, when
// there is none of these, that is passed over.
func (c *Choice) left() uint8 {
	n, far := uint64(len(c.view.all)), c.Better()
	at := c.balancer.turn.Load() % n
	for c.tried.has(uint8(at)) || far && !c.view.well.has(uint8(at)) { //nolint:gosec // there are at most 256
		at = (at + 1) % n
	}
	return uint8(at) //nolint:gosec // there are at most 256
}

// next returns whose turn it is. Where shares differ, an endpoint passes some of its
// turns on, evenly over time: in a round r it has one more of them if r times its share
// has got over another whole one. The largest has all, so that somebody is found.
func (b *Balancer) next(v *view) int {
	n := uint64(len(v.first))
	for {
		turn := b.turn.Add(1)
		at := turn % n
		if v.shares == nil {
			return int(at) //nolint:gosec // there are at most 256
		}
		share := uint64(v.shares[at])
		// They do not all begin with a turn of theirs.
		if (turn/n*share+at*full/n)%full >= full-share {
			return int(at) //nolint:gosec // there are at most 256
		}
	}
}

// byLoad draws two by their shares, and returns the one with fewer requests for its
// share.
func (b *Balancer) byLoad(v *view) uint8 {
	one := b.draw(v, -1)
	if len(v.first) == 1 {
		return v.first[one]
	}
	other := b.draw(v, one)
	loadOne, loadOther := v.load(one, v.shareOf(other)), v.load(other, v.shareOf(one))
	if loadOther < loadOne {
		return v.first[other]
	}
	return v.first[one]
}

// load is the requests in flight to an endpoint, times the share of whom it is
// compared with.
func (v *view) load(at int, times uint64) uint64 {
	return uint64(max(0, v.all[v.first[at]].flight.Load())) * times
}

func (v *view) shareOf(at int) uint64 {
	if v.shares == nil {
		return full
	}
	return uint64(v.shares[at])
}

// draw returns one of those that requests go to, by chance, and not without.
func (b *Balancer) draw(v *view, without int) int {
	const attempts = 8
	n := uint64(len(v.first))
	if without >= 0 {
		n--
	}
	at := 0
	for range attempts {
		chance := b.config.Rand()
		high, low := bits.Mul64(chance, n)
		at = int(high) //nolint:gosec // it is below n
		if without >= 0 && at >= without {
			at++
		}
		if low>>48 < v.shareOf(at) {
			break
		}
	}
	return at
}

// byHash returns the endpoint that has most to do with the key (rendezvous hashing): if
// one leaves, its keys alone go to others, and to all of them.
func (c *Choice) byHash() uint8 {
	if c.view.shares != nil {
		return c.byShare()
	}
	best, highest := uint8(0), uint64(0)
	for _, i := range c.view.first {
		if s := mix(uint64(c.key) ^ c.view.all[i].hash); s >= highest && !c.tried.has(i) {
			best, highest = i, s
		}
	}
	return best
}

// byShare is byHash where shares differ: each has most to do with as many keys as is
// its share, and where they are equal after all, with the same.
func (c *Choice) byShare() uint8 {
	best, highest := uint8(0), -1.0
	for at, i := range c.view.first {
		drawn := (float64(mix(uint64(c.key)^c.view.all[i].hash)>>11) + 0.5) / (1 << 53)
		if s := float64(c.view.shares[at]) / -math.Log(drawn); s > highest && !c.tried.has(i) {
			best, highest = i, s
		}
	}
	return best
}
