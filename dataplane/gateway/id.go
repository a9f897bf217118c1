package gateway

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"time"
)

// newID returns a UUID of version 7 (RFC 9562, section 5.7): decisions are
// looked up by it, and stored in the order in which they fell. Its 74 random
// bits come from the runtime's ChaCha8, which the kernel has seeded: they tell
// decisions apart, and protect nothing.
func newID(now time.Time) string {
	var b [16]byte
	ms := uint64(now.UnixMilli())
	binary.BigEndian.PutUint64(b[:8], ms<<16|0x7000|rand.Uint64()&0xfff) //nolint:gosec // see above
	binary.BigEndian.PutUint64(b[8:], 1<<63|rand.Uint64()>>2)            //nolint:gosec // see above
	var text [36]byte
	hex.Encode(text[:8], b[:4])
	hex.Encode(text[9:13], b[4:6])
	hex.Encode(text[14:18], b[6:8])
	hex.Encode(text[19:23], b[8:10])
	hex.Encode(text[24:], b[10:])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}
