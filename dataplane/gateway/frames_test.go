package gateway_test

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/sallyport/sallyport/dataplane/gateway"
)

// frameEnds is the plain way to find out, with all of p at hand.
func frameEnds(p []byte) (ends []int) {
	for at := uint64(0); ; {
		rest := p[at:]
		if len(rest) < 2 {
			return ends
		}
		size, length := uint64(2), uint64(rest[1]&0x7f)
		switch {
		case length == 126 && len(rest) >= 4:
			size, length = 4, uint64(binary.BigEndian.Uint16(rest[2:]))
		case length == 127 && len(rest) >= 10:
			size, length = 10, binary.BigEndian.Uint64(rest[2:])&^(1<<63)
		case length >= 126:
			return ends
		}
		if rest[1]&0x80 != 0 {
			size += 4
		}
		if size+length > uint64(len(rest)) {
			return ends
		}
		at += size + length
		ends = append(ends, int(at))
	}
}

func FuzzFrames(f *testing.F) {
	for _, s := range []string{
		"\x81\x02ok\x88\x00", "\x81\x82\x01\x02\x03\x04ok", "\x82\x7e\x00\x03abc\x89\x00", "\x82\x7f\x00\x00\x00\x00\x00\x00\x00\x01a\x8a\x80abcd",
		"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xffabc", "\x82\xfe\x00\x00maskdone", "\x01\x00\x00\x00\x80\x00",
	} {
		for piece := 1; piece < 5; piece++ {
			f.Add([]byte(s), piece)
		}
	}
	f.Fuzz(func(t *testing.T, p []byte, piece int) {
		if got, want := gateway.FrameEnds(p, max(piece, 1)), frameEnds(p); !slices.Equal(got, want) {
			t.Errorf("%q in pieces of %d: frames end at %v, want %v", p, piece, got, want)
		}
	})
}
