package gateway

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/request"
)

// errBodyClosed ends the reads of a transport that has its answer.
var errBodyClosed = errors.New("body is closed")

// body is a request's body on its way to an upstream. A transport reads it in a
// goroutine of its own, for as long as it likes: finish ends that, so that no
// handler waits for a client that goes on sending after the answer is complete,
// and nothing reads of a connection that the server has taken back.
type body struct {
	from    io.ReadCloser
	unblock func() // ends a Read of from that waits
	hurry   func() // the same in a little while, over HTTP/1.1; nil else
	whole   bool   // all of it has come

	// trailer is what comes behind the body, as far as it was announced and may:
	// names at first, and values by the time that the end of from is told.
	trailer, sent http.Header

	idle atomic.Pointer[idle] // nil for none

	begun, ended, closed atomic.Bool
	hurried, interrupted atomic.Bool // by us

	reading sync.Mutex // held while from is read
	count   int64
	err     error // of from; nil at its end
}

// body returns nil for a request that has none.
func (x *exchange) body() *body {
	r := x.r
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return nil
	}
	b := &body{from: r.Body, sent: r.Trailer}
	if len(r.Trailer) > 0 {
		b.trailer = request.CleanTrailer(announced(r.Trailer))
	}
	if x.http1 == nil {
		b.unblock = func() { _ = r.Body.Close() }
		return b
	}
	if in, ok := r.Body.(interface{ Whole() bool }); ok {
		b.whole = in.Whole()
	}
	// To close the body would wait for the read. The connection is lost by this; it
	// would be anyway, with a client in the middle of a body.
	b.unblock = func() { _ = x.http1.SetReadDeadline(time.Unix(1, 0)) }
	b.hurry = func() { _ = x.http1.SetReadDeadline(time.Now().Add(restTime)) }
	return b
}

func announced(trailer http.Header) http.Header {
	names := make(http.Header, len(trailer))
	for name := range trailer {
		names[name] = []string{""}
	}
	return names
}

// Whole reports whether reads do not wait, if none was begun.
func (b *body) Whole() bool { return b.whole }

// Ended implements upstream.Ending.
func (b *body) Ended() bool { return b.ended.Load() }

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	b.begun.Store(true)
	if b.closed.Load() {
		return 0, errBodyClosed
	}
	n, err := b.from.Read(p)
	b.count += int64(n)
	b.idle.Load().touch()
	switch {
	case errors.Is(err, io.EOF):
		b.ended.Store(true)
		for name := range b.trailer {
			b.trailer[name] = b.sent[name]
		}
	case err != nil:
		b.ended.Store(true)
		if !b.closed.Load() {
			b.err = err
		}
	}
	return n, err
}

// Close is for the transport. Before the first Read it does nothing: the body
// is whole, and may go to another endpoint.
func (b *body) Close() error {
	switch {
	case !b.begun.Load():
	case b.hurry == nil:
		b.stop()
	default:
		b.yield()
	}
	return nil
}

// restTime is how long a Read over HTTP/1.1 still waits when nobody wants what it reads.
// The end of the body is on its way, more often than not, when an upstream has answered
// without it, and a Read that fails costs the connection.
const restTime = 100 * time.Millisecond

// yield has nothing more be read for the transport.
func (b *body) yield() {
	b.closed.Store(true)
	if !b.ended.Load() && b.hurried.CompareAndSwap(false, true) {
		b.hurry()
	}
}

// rest leaves what comes behind an answer that is complete to the server, which reads a
// little of it for the sake of the connection. What is held back of the answer is not
// to wait for that.
func (b *body) rest(flush func() error) {
	if b.hurry == nil || !b.begun.Load() || b.ended.Load() || flush() != nil {
		return
	}
	b.yield()
	b.reading.Lock()
	defer b.reading.Unlock()
	b.interrupted.Store(true) // nothing waits any more
}

func (b *body) stop() {
	b.closed.Store(true)
	if b.begun.Load() && !b.ended.Load() && b.interrupted.CompareAndSwap(false, true) {
		b.unblock()
	}
}

// finish returns when nothing reads the body any more, and how much was read.
// A nil body has nothing to finish.
func (b *body) finish() (count int64, err error) {
	if b == nil {
		return 0, nil
	}
	b.stop()
	b.reading.Lock()
	defer b.reading.Unlock()
	return b.count, b.err
}
