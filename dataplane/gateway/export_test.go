package gateway

// EnterAndLeave has a stream enter the registry and leave it, as each request
// does that is let through.
func (g *Gateway) EnterAndLeave(s *Stream) {
	g.streams.add(s)
	s.end()
	s.remove()
}
