package wire

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/request"
)

// lingering bounds how long, and for how many bytes, a client is heard out that may
// still be sending what nobody wants: closing a socket with unread input would take the
// answer back.
const (
	lingerTime  = 500 * time.Millisecond
	lingerBytes = 256 << 10
)

// Conn is a connection from which HTTP/1.1 is read, and another protocol after
// Response.Switch. Its methods are for that one, but for Cut.
type Conn struct {
	conn    net.Conn // with TLS, if any
	socket  *Socket  // below it
	server  *Server
	handler Handler
	made    time.Time
	state   atomic.Uint32

	reads  deadline
	writes patience
	watch  watch

	// These belong to who reads.
	buf   buffer
	early [1]byte
	held  bool // early was read, and is the beginning of what comes next
	rude  bool // the client may still be sending what nobody wants
}

// The states of a connection. It ends once, and who has it end is who leaves it idle.
const (
	fresh uint32 = iota // nothing has come
	idle                // between requests
	busy
	ended
)

func newConn(s *Server, conn net.Conn, below *Socket, h Handler) *Conn {
	c := &Conn{conn: conn, socket: below, server: s, handler: h, made: time.Now()}
	c.reads.socket = below
	c.writes.socket, c.writes.most = below, s.timeouts.Write
	c.watch.conn = c
	c.buf.rooms = &s.rooms
	return c
}

// run serves until the connection ends.
func (c *Conn) run() {
	defer c.server.leave(c)
	for c.await() && c.serve() {
		c.state.Store(idle)
	}
	c.close()
}

// await waits for the next request, and reports whether it begins. What waits has no
// buffer.
func (c *Conn) await() bool {
	from := c.state.Load()
	if c.buf.empty() && !c.held {
		c.buf.release()
		c.reads.leave(c.server.timeouts.before(from))
		// Whoever retires the connection from here on interrupts the read.
		if c.state.Load() == ended || c.server.closing.Load() && from == idle {
			return false
		}
		// Who has just been answered has not asked again yet. Others go first: a read
		// that finds nothing, and being woken, cost more.
		runtime.Gosched()
		if n, _ := c.conn.Read(c.early[:]); n == 0 { // the end, or too long a wait
			return false
		}
		c.held = true
	}
	return c.state.CompareAndSwap(from, busy)
}

// retire ends a connection that carries nothing, and does nothing to others.
func (c *Conn) retire() {
	if c.state.CompareAndSwap(idle, ended) || time.Since(c.made) > freshTime && c.state.CompareAndSwap(fresh, ended) {
		c.reads.interrupt()
	}
}

// serve serves one request, and reports whether another one may follow.
func (c *Conn) serve() bool {
	text, refused, err := c.readHead()
	if err != nil {
		return false
	}
	w := c.server.rooms.takeResponse()
	if refused == nil {
		refused = w.asked.parse(text)
	}
	if refused == nil && w.asked.fields.upgrades && !c.buf.empty() {
		refused = errEarly
	}
	if refused != nil {
		w.asked, c.rude = head{}, true
	}
	r := c.exchange(w)
	w.closes = w.closes || refused != nil
	if c.buf.empty() {
		c.buf.release()
	}
	if refused == nil {
		c.watch.begin(w)
	}
	return c.conclude(w, c.answer(w, r, refused))
}

// conclude ends a request, of which whole says that its handler has returned, and reports
// whether another one may follow.
func (c *Conn) conclude(w *Response, whole bool) bool {
	c.watch.end()
	whole = whole && w.finish()
	w.ended.Store(true)
	w.release()
	w.gone()
	last := !whole || w.closes || w.timed.Load()
	if !w.body.end(!last) || w.broken.Load() != nil {
		c.rude, last = c.rude || whole, true
	}
	if w.isOurs() && !last {
		c.server.rooms.giveResponse(w)
	}
	return !last
}

// errEarly is for a client that takes the answer for granted: if it is not what
// the client expects, what it sent would be read as something else.
var errEarly = refusal(ReasonEarly, "bytes follow a request for another protocol before its answer")

// answer reports whether the handler has returned.
func (c *Conn) answer(w *Response, r *http.Request, refused *request.Error) (whole bool) {
	defer func() {
		if p := recover(); p != nil && p != http.ErrAbortHandler { //nolint:errorlint // it is this value
			c.server.log.Error("request panicked", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	c.handler(w, r, refused)
	return true
}

// readHead reads a head, of which the first byte has come. An error is the connection's.
func (c *Conn) readHead() (text string, refused *request.Error, err error) {
	if c.held {
		c.buf.add(c.early[0])
		c.held = false
	}
	c.socket.dry = true // until it turns out that the rest has to be waited for
	defer func() { c.socket.dry = false }()
	for from, most := 0, maxHead; ; {
		end, line, refused := endOfHead(c.buf.bytes(), from, most)
		if refused != nil || end > 0 {
			text = string(c.buf.bytes()[:end])
			c.buf.drop(end)
			return text, refused, nil
		}
		if from == 0 && line > 0 { // the request line is known
			most = min(bytes.IndexByte(c.buf.bytes(), '\n')+maxFields, maxHead)
		}
		from = line
		err := c.buf.fill(c.conn)
		if errors.Is(err, errDry) {
			c.socket.dry, err = false, nil
			if c.server.timeouts.Head > 0 {
				c.reads.limit(passing, c.server.timeouts.Head)
			}
		}
		if err != nil {
			return "", nil, err
		}
	}
}

// close closes the connection. A client that may still be sending is heard out, within
// bounds, so that it can read its answer.
func (c *Conn) close() {
	c.buf.drop(len(c.buf.bytes()))
	if c.rude {
		c.linger()
	}
	c.buf.release()
	_ = c.conn.Close() // it is gone either way
}

func (c *Conn) linger() {
	if c.CloseWrite() != nil {
		return
	}
	c.reads.limit(lasting, lingerTime)
	scratch := c.server.rooms.takeOut()
	defer c.server.rooms.out.Put(scratch)
	c.socket.drop(lingerBytes, scratch[:])
}

// write writes. A client that stops reading is given up.
func (c *Conn) write(p []byte) error {
	c.writes.extend()
	_, err := c.conn.Write(p)
	return err
}

// Read implements io.Reader.
func (c *Conn) Read(p []byte) (int, error) { return c.conn.Read(p) }

// Write implements io.Writer. A client that stops reading is given up.
func (c *Conn) Write(p []byte) (int, error) {
	c.writes.extend()
	return c.conn.Write(p)
}

// Hurry leaves d from now for all that is still to be written.
func (c *Conn) Hurry(d time.Duration) { _ = c.writes.end(time.Now().Add(d)) } // a write will tell

// CloseWrite tells the client that nothing more will come.
func (c *Conn) CloseWrite() error {
	if w, ok := c.conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

// Cut closes the connection at once, whatever else is being done with it, by whatever
// goroutine: it says nothing to the client, for which it might have to wait.
func (c *Conn) Cut() { _ = c.socket.Close() } // who uses it will notice

// isGone tells an error that is the end of a connection from that of a deadline.
func isGone(err error) bool {
	var timeout net.Error
	return err != nil && (!errors.As(err, &timeout) || !timeout.Timeout())
}

// unexpected makes an end that comes too early one that is not taken for an end.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
