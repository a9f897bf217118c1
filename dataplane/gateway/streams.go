package gateway

import (
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/sallyport/sallyport/dataplane/life"
	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/policy"
)

// Protocol is how a stream is carried, and so how it is closed.
type Protocol uint8

// The protocols.
const (
	Request   Protocol = iota // a request of HTTP and its answer
	GRPC                      // gRPC over HTTP/2
	WebSocket                 // RFC 6455, over HTTP/1.1
)

// Stream is a request that was let through, for as long as it is carried: from
// before it is sent on until it has ended. Its fields do not change.
type Stream struct {
	ID        string            // of the decision
	Principal *policy.Principal // nil for nobody
	Route     string            // namespace/name
	Listener  string            // namespace/name
	Protocol  Protocol
	Began     time.Time

	exchange *exchange
	standing authn.Standing // of the goroutine that decides again

	shard      *shard // it is in, which guards:
	prev, next *Stream
	seen       bool // by somebody who may still look at it

	mu        sync.Mutex
	answering bool   // the head of an answer may have been sent
	switched  bool   // a tunnel carries it, and closes it when the context ends
	ended     bool   // nothing can close it any more
	cause     *Cause // why it was closed, nil if it was not
	patience  *time.Timer
}

// Cause is why streams are closed that were let through.
type Cause struct {
	// Reason is for outcomes, metrics and clients.
	Reason string
	// Status is the one of the answer, where none has begun: 401 for who is not
	// known any more, 403 for what is not allowed any more, 503 for what may be
	// tried again. 401 when zero.
	Status int

	decision string // that closes; empty for none of its own
	by       *state // that fell by; nil without
}

// inWords is what a WebSocket is told.
func (c *Cause) inWords() string {
	if c.decision == "" {
		return c.Reason
	}
	return c.Reason + " (decision " + c.decision + ")"
}

func (c *Cause) failure() failure {
	f := failure{reason: c.Reason, status: c.Status, closed: c}
	if c.Status == 0 {
		f.status = http.StatusUnauthorized
	}
	return f
}

// CloseStreams closes the open streams that match, and returns how many. It
// waits for none of them: each is cut off from its upstream at once, and tells
// its client why as far as its protocol can. An answer that has begun never
// looks whole.
//
// Whoever takes back what was allowed changes that first: a request is either seen
// by match, or sees the change when it enters. match may be called for streams that
// are about to end, by several goroutines if CloseStreams is, and must not keep what
// it is given.
func (g *Gateway) CloseStreams(match func(*Stream) bool, why Cause) int {
	closed := 0
	g.streams.each(func(s *Stream) {
		if match(s) && s.close(&why) {
			closed++
		}
	})
	return closed
}

// streams are those that are open. Requests come and go far more often than
// anybody looks for some of them, so they wait for each other as little as may
// be. The zero value is empty.
type streams struct{ shards [shards]shard }

const shards = 64

type shard struct {
	mu    sync.Mutex
	first *Stream

	_ [48]byte // a cache line each
}

func (r *streams) add(s *Stream) {
	d := &r.shards[rand.Uint32()%shards] //nolint:gosec // it spreads, and protects nothing
	s.shard = d
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.next = d.first; s.next != nil {
		s.next.prev = s
	}
	d.first = s
}

// each calls do, without a lock, for every stream that is in r all the while.
func (r *streams) each(do func(*Stream)) {
	for i := range r.shards {
		r.in(i, do)
	}
}

// in is each for one of the shards.
func (r *streams) in(i int, do func(*Stream)) {
	for _, s := range r.shards[i].appendTo(nil) {
		do(s)
	}
}

// remove is for a stream that was added, once. It reports whether nobody has seen it in
// the meantime.
func (s *Stream) remove() (unseen bool) {
	d := s.shard
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.next != nil {
		s.next.prev = s.prev
	}
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		d.first = s.next
	}
	s.prev, s.next = nil, nil
	return !s.seen
}

func (d *shard) appendTo(all []*Stream) []*Stream {
	d.mu.Lock()
	defer d.mu.Unlock()
	for s := d.first; s != nil; s = s.next {
		s.seen = true
		all = append(all, s)
	}
	return all
}

// answer reports whether an answer may begin: not to a stream that was closed.
func (s *Stream) answer(status int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answering = s.cause == nil
	s.switched = status == http.StatusSwitchingProtocols
	return s.answering
}

// why is why the stream was closed, nil if it was not.
func (s *Stream) why() *Cause {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause
}

// close has the stream end because of why, and reports whether it will: not if
// it has ended, or was closed before.
func (s *Stream) close(why *Cause) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.cause != nil {
		return false
	}
	s.cause = why
	s.exchange.life.End(errClosed)
	if sent := s.exchange.sent; sent != nil {
		sent.stop() // a transport that waits for it does not notice the end
	}
	if s.answering && !s.switched {
		s.cut()
	}
	return true
}

// over reports whether there is nothing left to close.
func (s *Stream) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended || s.cause != nil
}

// end is the last moment at which a stream may have been closed. It returns why
// it was, nil if it was not, and may be called again.
func (s *Stream) end() *Cause {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if s.patience != nil {
		s.patience.Stop()
	}
	return s.cause
}

// closePatience is how long a client may take to take what was sent to it
// before its stream was closed, if it can be told why behind that.
const closePatience = time.Second

// cut ends writes to a client that may wait for it for ever: an answer that has
// begun is lost. It does not wait itself. mu is held: once the handler has
// returned there is nothing to cut.
func (s *Stream) cut() {
	switch x := s.exchange; {
	case s.Protocol == GRPC:
		s.patience = time.AfterFunc(closePatience, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if !s.ended {
				x.reset()
			}
		})
	case x.http1 != nil:
		x.http1.Cut()
	default:
		x.reset()
	}
}

// reset ends a stream of HTTP/2, and no other of its connection.
func (x *exchange) reset() {
	_ = http.NewResponseController(x.w).SetWriteDeadline(time.Unix(1, 0)) // the connection is gone otherwise
}

// enter has the request, which was decided on, be an open stream, unless what
// it was decided by has changed for the worse meanwhile. From here on
// CloseStreams finds it.
func (x *exchange) enter() {
	x.sent = x.body()
	x.out = x.sends()
	x.watched = life.Tell(x.r.Context(), x)
	v, s := &x.verdict, &x.stream
	s.ID, s.Principal, s.Route, s.Listener, s.Began = x.id, v.principal, v.way.name, x.from.listener, x.began
	switch {
	case v.request.WebSocket:
		s.Protocol = WebSocket
	case x.r.ProtoMajor == 2 && isGRPC(x.r.Header):
		s.Protocol = GRPC
	}
	s.exchange, s.standing = x, x.state.authn.Stand(v.principal, &v.way.accept)
	x.gateway.streams.add(s)
	x.overtaken()
}

// leave ends what enter began.
func (x *exchange) leave() {
	x.stream.end()
	unseen := x.stream.remove()
	x.gateway.holding.Add(-x.held)
	unheard := x.watched.Stop()
	x.stopAlarm()
	x.life.End(errFinished)
	x.alone = x.alone && unseen && unheard && x.life.Alone()
}

// Gone implements life.Watcher: it ends what nobody waits for.
func (x *exchange) Gone() { x.life.End(errClientGone) }
