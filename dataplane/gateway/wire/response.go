package wire

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/dataplane/life"
	"github.com/sallyport/sallyport/internal/request"
)

// Response is the http.ResponseWriter of a request. What http.ResponseController does it
// does, but for hijacking: for that there is Switch. Answers may begin before the body of
// the request was read. One goroutine at a time writes; interim answers, and deadlines,
// may come from others before the answer begins.
type Response struct {
	reply
	asked   head
	request *http.Request // with context
	blank   http.Request  // that it is made of
}

// reply is what there is of a Response. The zero reply has not begun.
type reply struct {
	conn    *Conn
	context life.Life
	url     url.URL
	body    body
	header  http.Header // nil until it is asked for

	head     bool // nobody wants a body
	upgrades bool // another protocol is asked for
	closes   bool // the connection, behind the answer
	switched bool
	ended    atomic.Bool // with its request
	by       Released    // nil until it may be another request's

	timed   atomic.Bool                   // a deadline for writes is set, which the connection does not survive
	broken  atomic.Pointer[request.Error] // what came from the client before it should
	expects atomic.Bool                   // the client waits to be told to go on
	interim sync.Mutex                    // held for saying so, and for beginning the answer

	status  int   // zero before it begins
	length  int64 // as announced; -1 if it was not
	written int64 // of the body
	framing framing
	err     error // of all further writes

	usual *[outRoom]byte // nil for none
	out   []byte         // what is written next; in usual, unless it had to grow
}

// Header implements http.ResponseWriter.
func (w *Response) Header() http.Header {
	if w.header == nil {
		const usual = 14 // fields, which is what two groups of a map hold
		w.header = make(http.Header, usual)
	}
	return w.header
}

// UseHeader has h be the header, which then belongs to w: it is for an answer that is
// handed on, whose header nobody else wants.
func (w *Response) UseHeader(h http.Header) { w.header = h }

// WriteHeader implements http.ResponseWriter. A status from 102 to 199 is that of an
// interim answer with the present header, 101 excepted. Only the first other status
// counts.
func (w *Response) WriteHeader(status int) {
	if status < 100 || status > 999 {
		panic("wire: a status has three digits")
	}
	w.interim.Lock()
	defer w.interim.Unlock()
	switch {
	case w.status != 0 || w.switched || w.ended.Load():
	case status < 200 && status != http.StatusSwitchingProtocols:
		w.writeInterim(status)
	default:
		w.status = status
		w.begin()
	}
}

func (w *Response) writeInterim(status int) {
	if status == http.StatusContinue {
		w.goOn()
		return
	}
	var f framing
	b := appendStatus(nil, status)
	for name, values := range w.header {
		if !isFraming(name) {
			b = f.appendFields(b, name, values)
		}
	}
	w.fail(w.conn.write(append(b, "\r\n"...)))
}

// proceed tells a client that waits for it to send the body, unless its answer has begun.
func (w *Response) proceed() {
	if !w.expects.Load() {
		return
	}
	w.interim.Lock()
	defer w.interim.Unlock()
	if w.status == 0 {
		w.goOn()
	}
}

func (w *Response) goOn() {
	if w.expects.CompareAndSwap(true, false) {
		_ = w.conn.write([]byte("HTTP/1.1 100 Continue\r\n\r\n")) // reads will tell
	}
}

// Write implements http.ResponseWriter.
func (w *Response) Write(p []byte) (int, error) {
	if w.ended.Load() {
		return 0, errEnded
	}
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if !hasBody(w.status) {
		return 0, http.ErrBodyNotAllowed
	}
	w.written += int64(len(p))
	switch {
	case w.err != nil:
		return 0, w.err
	case w.length >= 0 && w.written > w.length:
		return 0, http.ErrContentLength
	case w.head:
		return len(p), nil
	}
	if !w.framing.set {
		if len(w.out)+len(p) <= outRoom-maxFraming {
			w.out = append(w.out, p...)
			return len(p), nil
		}
		w.frame(false)
	}
	if w.framing.chunked {
		return len(p), w.putChunk(p)
	}
	return len(p), w.put(p)
}

// putChunk puts p into a chunk of its own.
func (w *Response) putChunk(p []byte) error {
	if len(p) == 0 {
		return w.err
	}
	var line [20]byte
	if err := w.put(append(strconv.AppendInt(line[:0], int64(len(p)), 16), "\r\n"...)); err != nil {
		return err
	}
	if err := w.put(p); err != nil {
		return err
	}
	return w.put([]byte("\r\n"))
}

// put writes p, and holds back what does not fill a record.
func (w *Response) put(p []byte) error {
	w.takeRoom()
	for len(w.out)+len(p) >= outRoom && w.err == nil {
		if len(w.out) == 0 {
			n := len(p) - len(p)%outRoom
			w.fail(w.conn.write(p[:n]))
			p = p[n:]
			continue
		}
		n := max(0, outRoom-len(w.out))
		w.out, p = append(w.out, p[:n]...), p[n:]
		w.flush()
	}
	w.out = append(w.out, p...)
	return w.err
}

func (w *Response) takeRoom() {
	if w.usual == nil {
		w.usual = w.conn.server.rooms.takeOut()
		w.out = append(w.usual[:0], w.out...)
	}
}

// flush writes what is held back.
func (w *Response) flush() {
	if len(w.out) > 0 && w.err == nil {
		w.fail(w.conn.write(w.out))
	}
	w.out = w.out[:0]
}

// giveRoom gives back the room, in which nothing is.
func (w *Response) giveRoom() {
	if w.usual != nil {
		w.conn.server.rooms.out.Put(w.usual)
	}
	w.usual, w.out = nil, nil
}

// gone ends the request's context, as nobody waits for the answer any more.
func (w *Response) gone() { w.context.End(context.Canceled) }

// fail ends writing. Who does not take the answer does not wait for it either.
func (w *Response) fail(err error) {
	if err != nil && w.err == nil {
		w.err = err
		w.gone()
	}
}

// Flush implements http.Flusher.
func (w *Response) Flush() { _ = w.FlushError() }

// FlushError is for http.ResponseController.
func (w *Response) FlushError() error {
	if w.ended.Load() {
		return errEnded
	}
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if !w.framing.set {
		w.frame(false)
	}
	w.flush()
	w.giveRoom()
	return w.err
}

// finish ends the answer, and reports whether it is whole.
func (w *Response) finish() bool {
	if w.switched {
		return false
	}
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if !w.framing.set {
		w.frame(true)
	}
	if w.framing.chunked {
		w.takeRoom()
		w.out = append(w.out, "0\r\n"...)
		w.out = w.framing.appendTrailers(w.out, w.header)
		w.out = append(w.out, "\r\n"...)
	}
	w.flush()
	w.giveRoom()
	short := w.length >= 0 && w.length != w.written && !w.head && hasBody(w.status)
	return w.err == nil && !short
}

// EnableFullDuplex is for http.ResponseController. It always is.
func (*Response) EnableFullDuplex() error { return nil }

// SetReadDeadline is for http.ResponseController. The next request has none of it.
func (w *Response) SetReadDeadline(t time.Time) error {
	if w.ended.Load() {
		return errEnded
	}
	return w.conn.reads.handle(t)
}

// SetWriteDeadline is for http.ResponseController. The connection ends with the answer.
func (w *Response) SetWriteDeadline(t time.Time) error {
	if w.ended.Load() {
		return errEnded
	}
	w.timed.Store(true)
	return w.conn.writes.end(t)
}

// Cut closes the connection at once. It may be called by any goroutine before the
// handler has returned.
func (w *Response) Cut() {
	if !w.ended.Load() {
		w.conn.Cut()
	}
}

// errEnded is for who goes on when the handler has returned.
var errEnded = errors.New("request has ended")

// Broken returns what was wrong with what the client has sent instead of waiting for its
// answer, nil for nothing: then the request's context has ended.
func (w *Response) Broken() *request.Error { return w.broken.Load() }

var errNoSwitch = errors.New("connection cannot change the protocol")

// Switch ends HTTP on the connection of a request with an Upgrade, to which nothing was
// answered, and returns what is left of it: what comes from the client from now on is
// handed on as it is. It belongs to the handler, and is closed when that returns. There
// is an error, and nothing else changes, if another protocol was not asked for, or the
// client did not wait for it.
func (w *Response) Switch() (*Conn, error) {
	c := w.conn
	if !w.upgrades || w.status != 0 || w.switched {
		return nil, errNoSwitch
	}
	c.watch.end()
	if why := w.broken.Load(); why != nil {
		return nil, why
	}
	c.reads.clear()
	w.switched = true
	return c, nil
}
