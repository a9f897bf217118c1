package link

import (
	"crypto/sha256"
	"time"
)

// Sealed is a small file as it is written.
func Sealed(b []byte) []byte {
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// Waits returns the ceilings of the first n waits between attempts, and whether
// every wait stayed below its own.
func Waits(n int) (ceilings []time.Duration, below bool) {
	var b backoff
	below = true
	for range n {
		d := b.next()
		ceilings = append(ceilings, b.ceiling)
		below = below && d < b.ceiling
	}
	return ceilings, below
}

// Spread is how long the proxy waits when it is told to.
func Spread(told time.Duration) time.Duration { return spread(told) }

// Rest sets how long what is to be written waits for more, before Run.
func (l *Link) Rest(d time.Duration) { l.policy.keeper.rest, l.security.keeper.rest = d, d }
