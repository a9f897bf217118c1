package link

import (
	"bytes"
	"crypto/sha256"
	"time"

	"github.com/sallyport/sallyport/internal/snapshot"
)

// Sealed is a small file as it is written.
func Sealed(b []byte) []byte {
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// DecodeParts reads what stands between the magic and the checksum of a
// last-good file.
func DecodeParts(b []byte, v *snapshot.Verifier) (*snapshot.Snapshot, error) {
	return readParts(bytes.NewReader(b), v)
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
