package gateway

// EnterAndLeave has a stream enter the registry and leave it, as each request
// does that is let through.
func (g *Gateway) EnterAndLeave(s *Stream) {
	g.streams.add(s)
	s.end()
	s.remove()
}

// AcceptFor is how an upstream proves that it has read a key.
var AcceptFor = acceptFor

// FrameEnds returns where the frames of a WebSocket end in p, which comes in
// pieces.
func FrameEnds(p []byte, piece int) (ends []int) {
	var f frames
	at := 0
	for len(p) > 0 {
		next := p[:min(piece, len(p))]
		p = p[len(next):]
		for len(next) > 0 {
			f.see(next[:1])
			n := 1 + f.finish(next[1:])
			at, next = at+n, next[n:]
			if f.between() {
				ends = append(ends, at)
			}
		}
	}
	return ends
}
