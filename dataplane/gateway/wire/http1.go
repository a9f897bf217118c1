// Package wire reads what clients send more strictly than Go's own servers do: it serves
// HTTP/1.1 itself, with one parser that refuses what two could read in two ways, and
// stands between the client and net/http's server for HTTP/2.
package wire

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/request"
)

// Bounds of what is held until it is complete.
const (
	// They have room for all that package request lets through.
	maxFields    = request.MaxHeaderBytes + 8<<10 // behind the request line
	maxHead      = request.MaxMethodLength + request.MaxPathLength + request.MaxQueryLength + maxFields
	maxChunkLine = 256
	maxTrailer   = 8 << 10
)

// Handler answers the requests of one connection, one at a time, on the connection's own
// goroutine. It may panic with http.ErrAbortHandler to have the connection closed in the
// middle of an answer.
//
// refused is why a request was not read; then r has a version, an empty header and a
// context, and nothing else, and the connection ends behind the answer.
//
// r is as net/http has it, but that RemoteAddr and TLS are not set, that trailers which
// were not announced are dropped, and that its context has no values. That ends when
// the client leaves, which is noticed once the body has been read, or the handler
// returns. Neither w nor r's body may be used after that; they tell so.
type Handler func(w *Response, r *http.Request, refused *request.Error)

// Timeouts bound how long a client may take. Zero is for ever.
type Timeouts struct {
	Head  time.Duration // for a head that has begun, and for the first one to begin
	Idle  time.Duration // between requests, roughly
	Write time.Duration // for taking what it is sent, roughly
}

// before is how long a client may take for what follows a state.
func (t *Timeouts) before(state uint32) time.Duration {
	if state == fresh {
		return t.Head
	}
	return t.Idle
}

// Server serves HTTP/1.1 over connections that somebody else has accepted. It does not
// take its clients' word for anything: a head is read as a whole before it is believed,
// and nothing is read behind one that was refused. It is safe for concurrent use.
//
// It reads no HTTP/1.0. It answers as net/http does, but never guesses a content type.
// A request with an Upgrade is the last one of its connection, whatever becomes of it:
// what follows is either another protocol's, after Response.Switch, or refused.
type Server struct {
	timeouts Timeouts
	log      *slog.Logger
	closing  atomic.Bool
	rooms    rooms
	clock    clock

	mu    sync.Mutex
	conns map[*Conn]struct{}
}

// NewServer returns a Server without connections.
func NewServer(t Timeouts, log *slog.Logger) *Server {
	return &Server{timeouts: t, log: log, conns: map[*Conn]struct{}{}}
}

// Serve serves conn, which has below under its TLS, or is it, in a goroutine that ends
// with the connection. After Shutdown or Close it closes conn instead.
func (s *Server) Serve(conn net.Conn, below *Socket, h Handler) {
	c := newConn(s, conn, below, h)
	if !s.enter(c) {
		_ = conn.Close() // nothing was said over it
		return
	}
	// The goroutine that made the handshake has needed a large stack for it.
	go c.run()
}

func (s *Server) enter(c *Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Server) leave(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// Shutdown has every connection end as soon as it carries no request, and waits for that
// until ctx ends; its error is returned then. Connections over which nothing has come yet
// have freshTime to begin.
func (s *Server) Shutdown(ctx context.Context) error {
	s.closing.Store(true)
	const first, longest = time.Millisecond, 100 * time.Millisecond
	timer := time.NewTimer(first)
	defer timer.Stop()
	for wait := first; !s.rest(); wait = min(2*wait, longest) {
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
	}
	return nil
}

// freshTime is how long a new connection is given for its first request while the server
// shuts down.
const freshTime = 5 * time.Second

// rest ends the connections that carry nothing, and reports whether none is left.
func (s *Server) rest() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.retire()
	}
	return len(s.conns) == 0
}

// Close cuts all connections. It does not wait for their handlers, which notice.
func (s *Server) Close() {
	s.closing.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Cut()
	}
}
