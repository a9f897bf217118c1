package http1

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"runtime"
	"slices"
	"sync/atomic"

	"github.com/sallyport/sallyport/dataplane/life"
)

// The states of an exchange. It leaves underWay once, and who made it leave decides
// what becomes of the connection.
const (
	underWay uint32 = iota
	finished        // the answer was read to its end
	broken          // the connection was cut
)

// exchange is a request and its answer.
type exchange struct {
	course
	head head // that was read last
}

// course is what there is of an exchange. The zero course has not begun.
type course struct {
	response http.Response
	request  *http.Request
	interim  Interim
	conn     *Conn
	state    atomic.Uint32
	watch    life.Watch
	upload   *upload // nil when no goroutine sends the body
	lost     atomic.Pointer[error]
	closed   atomic.Bool // the request's body
	begun    bool        // some of it may have been read
	reusable bool        // as far as the heads say
	alone    bool        // it has finished, and nobody else can know of it

	content content
}

// Room is where exchanges take place, one after the other, so that each need not make
// its own. The zero Room is ready.
type Room struct{ last *exchange }

// enter returns an exchange that has not begun: the last one anew, unless somebody may
// still know of it.
func (m *Room) enter() *exchange {
	if x := m.last; x != nil && x.alone {
		x.course, x.head = course{}, x.head.blank()
		return x
	}
	m.last = &exchange{}
	return m.last
}

// RoundTrip sends r and returns the answer, as http.RoundTripper does, with an
// *Unanswered or a Malformed for what is none. What is answered before it goes to
// interim, unless that is nil. When r's context ends so does the connection, and the
// error is the context's cause.
//
// All of it happens on the caller's goroutine, but for a body that is not Buffered
// and whole. The connection goes back to its pool as soon as the answer's body has
// been read to its end, which a read tells together with the last bytes; closing the
// body before cuts the connection.
//
// The body of an answer with status 101 is an io.ReadWriteCloser with a CloseWrite,
// and what is left of the connection: the end of r's context does not end it.
func (c *Conn) RoundTrip(r *http.Request, interim Interim) (*http.Response, error) {
	return c.RoundTripIn(&Room{}, r, interim)
}

// RoundTripIn is RoundTrip in a Room, of which an answer is a part: it may be used until
// the next RoundTripIn there.
func (c *Conn) RoundTripIn(m *Room, r *http.Request, interim Interim) (*http.Response, error) {
	x := m.enter()
	x.conn, x.request, x.interim, x.reusable = c, r, interim, !r.Close
	var err error
	if c.out, err = appendHead(c.out[:0], r); err != nil {
		x.closeBody()
		c.pool.put(c)
		return nil, err
	}
	x.watch = life.Tell(r.Context(), (*watcher)(x))
	before := c.socket.written.Load()
	err = x.send()
	if err == nil || !isTimeout(err) && c.socket.written.Load() > before {
		err = x.receive() // who takes no more may have said why
	}
	if err == nil {
		return &x.response, nil
	}
	x.upload.decide(false)
	err = x.fail(err)
	if u, ok := errors.AsType[*Unanswered](err); ok {
		u.Sent = x.begun || c.socket.written.Load() > before
	}
	return nil, err
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// send sends the head, and either the body or who does.
func (x *exchange) send() error {
	r := x.request
	if !hasBody(r) {
		x.closeBody()
		return x.write()
	}
	expects := len(r.Header["Expect"]) > 0
	if b, ok := r.Body.(Buffered); ok && !expects && r.ContentLength > 0 && r.ContentLength <= wholeMost && b.Whole() {
		return x.sendWhole()
	}
	if err := x.write(); err != nil {
		x.closeBody()
		return err
	}
	x.begun = true
	x.upload = &upload{conn: x.conn, request: r, chunked: isChunked(r), broken: x.lose, close: x.closeBody, done: make(chan struct{})}
	if expects {
		x.upload.proceed = make(chan bool, 1)
	}
	go x.upload.run(x.conn.pool.limits.Continue)
	return nil
}

func (x *exchange) write() error {
	if err := x.conn.write(); err != nil {
		return &Unanswered{Err: err}
	}
	return nil
}

// sendWhole sends head and body at once.
func (x *exchange) sendWhole() error {
	defer x.closeBody()
	x.begun = true
	c, r := x.conn, x.request
	end := len(c.out) + int(r.ContentLength)
	c.out = slices.Grow(c.out, int(r.ContentLength)+1) // one for what should not come
	for {
		n, err := r.Body.Read(c.out[len(c.out) : end+1])
		c.out = c.out[:len(c.out)+n]
		switch {
		case errors.Is(err, io.EOF) && len(c.out) == end:
			return x.write()
		case len(c.out) > end, errors.Is(err, io.EOF):
			return errLength
		case err != nil:
			return err
		}
	}
}

// receive reads until the head of the answer is there.
func (x *exchange) receive() error {
	// No endpoint has answered yet. Others go first: a read that finds nothing, and being
	// woken, cost more.
	runtime.Gosched()
	budget := x.conn.pool.limits.Head
	for interim := range MaxInterim + 1 {
		h := &x.head
		size, err := x.conn.readHead(h, budget)
		if err != nil {
			return behind(interim, err)
		}
		budget -= size
		switch {
		case h.status == http.StatusSwitchingProtocols:
			return x.switchOver()
		case h.status >= http.StatusOK:
			return x.begin()
		case h.status == http.StatusContinue:
			x.upload.decide(true)
		}
		if x.interim != nil {
			if err := x.interim(h.status, textproto.MIMEHeader(h.header)); err != nil {
				return err
			}
		}
		*h = head{} // what was answered before may be kept
	}
	return Malformed("too many interim answers")
}

// behind is err behind interim answers, which are answers as well.
func behind(interim int, err error) error {
	if u, ok := errors.AsType[*Unanswered](err); ok && interim > 0 {
		return u.Err
	}
	return err
}

// readHead reads a head of at most budget bytes, and returns how many it has.
func (c *Conn) readHead(h *head, budget int) (int, error) {
	for from := 0; ; {
		end, line, err := endOfHead(c.unread(), from, budget)
		switch {
		case err != nil:
			return 0, err
		case end > 0:
			err := h.parse(string(c.unread()[:end]))
			c.skip(end)
			return end, err
		}
		from = line
		if err := c.fill(); err != nil {
			return 0, c.unanswered(err)
		}
	}
}

func (c *Conn) unanswered(err error) error {
	if len(c.unread()) > 0 {
		return unexpected(err)
	}
	return &Unanswered{Err: unexpected(err)}
}

// unexpected makes an end that comes too early one that is not taken for an end.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// begin makes the response out of its head.
func (x *exchange) begin() error {
	x.upload.decide(false)
	a, h := &x.response, &x.head
	h.fill(a)
	a.Request, a.Body = x.request, x
	x.reusable = x.reusable && !a.Close
	switch {
	case x.request.Method == http.MethodHead, h.length == 0 && !h.chunked:
		x.content.part = ended
	case h.status == http.StatusNoContent, h.status == http.StatusNotModified:
		x.content.part, a.ContentLength = ended, 0
	case h.chunked:
		x.content.part = chunkLine
	case h.length > 0:
		x.content.part, x.content.left = sized, h.length
	default:
		x.content.part, x.reusable = unsized, false
	}
	if x.content.part != ended {
		x.conn.socket.expect(x.conn.pool.limits.Silence)
		return nil
	}
	a.Body = http.NoBody
	return x.finish()
}

// switchOver hands over what is left of the connection.
func (x *exchange) switchOver() error {
	if !x.leave(finished) {
		return errClosed
	}
	x.head.fill(&x.response)
	x.response.Request, x.response.Body = x.request, &switched{x.conn}
	return nil
}

// leave ends the watch over the context, and reports whether it is who says how
// the exchange ends.
func (x *exchange) leave(to uint32) bool {
	first := x.state.CompareAndSwap(underWay, to)
	x.alone = x.watch.Stop() && first && x.upload == nil
	return first
}

// finish gives the connection back, if it can be used further: nothing was left
// unsent, and nothing came that was not asked for.
func (x *exchange) finish() error {
	sent := x.upload.settled()
	if !x.leave(finished) {
		return x.cause(errClosed)
	}
	c := x.conn
	c.socket.expect(0) // what limits the next answer is the time of its request
	if x.reusable && sent && len(c.unread()) == 0 {
		c.pool.put(c)
		return nil
	}
	if sent {
		c.close()
		return nil
	}
	c.cut()
	x.closeBody()
	return nil
}

// fail cuts the connection and returns the reason for it, which is err unless
// somebody had another one before.
func (x *exchange) fail(err error) error {
	x.cut()
	x.watch.Stop()
	return x.cause(err)
}

func (x *exchange) cause(err error) error {
	if why := x.lost.Load(); why != nil {
		return *why
	}
	if cause := context.Cause(x.request.Context()); cause != nil {
		return cause
	}
	return err
}

// lose gives the exchange up for a request whose body cannot be read.
func (x *exchange) lose(err error) {
	x.lost.CompareAndSwap(nil, &err)
	x.cut()
}

// cut ends the exchange from wherever it is, and nothing once it has ended.
func (x *exchange) cut() {
	if !x.state.CompareAndSwap(underWay, broken) {
		return
	}
	x.conn.cut()
	x.closeBody()
}

// watcher is an exchange whose context ends.
type watcher exchange

func (w *watcher) Gone() { (*exchange)(w).cut() }

// closeBody has the request's body not be read any more.
func (x *exchange) closeBody() {
	if x.request.Body != nil && x.closed.CompareAndSwap(false, true) {
		_ = x.request.Body.Close() // what was wrong with it was told by reads
	}
}

// Close implements io.Closer for the body of the answer. Reads that wait return.
func (x *exchange) Close() error {
	x.cut()
	return nil
}

// switched is a connection that speaks another protocol.
type switched struct{ *Conn }

// Read hands on what came behind the answer first.
func (s *switched) Read(p []byte) (int, error) {
	if unread := s.unread(); len(unread) > 0 {
		n := copy(p, unread)
		s.skip(n)
		return n, nil
	}
	return s.conn.Read(p)
}

func (s *switched) Write(p []byte) (int, error) { return s.conn.Write(p) }

func (s *switched) Close() error { return s.conn.Close() }

func (s *switched) CloseWrite() error {
	if w, ok := s.conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return net.ErrClosed
}
