package gateway

import "encoding/binary"

// frames follows the frames of a WebSocket (RFC 6455, section 5.2) in one
// direction, as far as where they end. What is in them is not its business.
type frames struct {
	header [10]byte // without the masking key
	have   int      // bytes of it
	left   uint64   // bytes of the frame that are still to come
	closes bool     // the frame that ends the WebSocket has begun
}

// see follows p.
func (f *frames) see(p []byte) {
	for len(p) > 0 {
		if f.left > 0 {
			n := min(f.left, uint64(len(p)))
			f.left -= n
			p = p[n:]
			continue
		}
		f.header[f.have] = p[0]
		f.have++
		p = p[1:]
		if f.have == f.size() {
			f.begin()
		}
	}
}

// between reports whether a frame may begin.
func (f *frames) between() bool { return f.have == 0 && f.left == 0 }

// finish follows p to the end of the frame that is under way, and returns how
// much of p belongs to it.
func (f *frames) finish(p []byte) int {
	n := 0
	for n < len(p) && !f.between() {
		step := min(max(f.left, 1), uint64(len(p)-n))
		f.see(p[n:][:step])
		n += int(step) //nolint:gosec // no more than len(p)
	}
	return n
}

// size is how many bytes of a header are needed to know more.
func (f *frames) size() int {
	switch {
	case f.have < 2:
		return 2
	case f.header[1]&0x7f == 126:
		return 4
	case f.header[1]&0x7f == 127:
		return 10
	}
	return 2
}

// begin reads a header. A length beyond what may be sent is one that never
// ends.
func (f *frames) begin() {
	const opcode, opClose, masked = 0x0f, 0x8, 0x80
	switch f.have {
	case 2:
		f.left = uint64(f.header[1] & 0x7f)
	case 4:
		f.left = uint64(binary.BigEndian.Uint16(f.header[2:]))
	default:
		f.left = binary.BigEndian.Uint64(f.header[2:]) &^ (1 << 63)
	}
	if f.header[1]&masked != 0 {
		f.left += 4
	}
	f.closes = f.closes || f.header[0]&opcode == opClose
	f.have = 0
}

// The codes with which a WebSocket is ended (RFC 6455, section 7.4.1).
const (
	goingAway       = 1001
	policyViolation = 1008
)

// closeFrame ends a WebSocket. Clients have to mask what they send, so that no
// script chooses the bytes that are on the wire; these are ours, and a key of
// zeros changes none of them.
func closeFrame(code uint16, reason string, masked bool) []byte {
	const most = 125 - 2 // of a control frame, less the code
	reason = reason[:min(len(reason), most)]
	b := []byte{0x88, byte(2 + len(reason))} //nolint:gosec // see above
	if masked {
		b[1] |= 0x80
		b = append(b, 0, 0, 0, 0)
	}
	return append(binary.BigEndian.AppendUint16(b, code), reason...)
}
