// Package wire stands between a TLS connection and net/http's server and reads
// what the client sends before the server does: what the server would repair,
// merge or guess at is refused here, while it can still be seen.
package wire

import (
	"bytes"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/request"
)

// RefusedMethod is the method of the request that a server is handed in place
// of one that was refused. No client can make it pass for its own: Refused
// tells them apart, and package request refuses the method anyway.
const RefusedMethod = "REFUSED"

const refusedHead = RefusedMethod + " / HTTP/1.1\r\nHost: refused.invalid\r\nConnection: close\r\n\r\n"

// Bounds of what is held back until it is complete.
const (
	// maxHead has room for all that package request lets through.
	maxHead      = request.MaxMethodLength + request.MaxPathLength + request.MaxQueryLength + request.MaxHeaderBytes + 8<<10
	maxChunkLine = 256
	maxTrailer   = 8 << 10
	usualRoom    = 4 << 10
)

// lingering bounds how long, and for how many bytes, a refused client is heard
// out: closing a socket with unread input would take the answer back.
const (
	lingerTime  = 500 * time.Millisecond
	lingerBytes = 256 << 10
)

// HTTP1 is a connection from which HTTP/1.1 is read strictly. Every request
// head is looked at as a whole before its first byte is handed on, and bytes
// are handed on at most to the end of one message, so that a server that is
// wrong about where a message ends finds nothing to go on with.
//
// A head that is refused is replaced by one with RefusedMethod, so that the
// handler answers and records it as it does every other; it is the last one of
// the connection. What is wrong within a body fails reads from there on, with a
// *request.Error; so does every other error there, deadlines included.
//
// A head with an Upgrade is the last one of its connection, whatever becomes of
// it: what follows is either another protocol's, after Release, or refused.
//
// Reads come from one goroutine at a time, as net/http's do.
type HTTP1 struct {
	net.Conn

	refused   atomic.Pointer[request.Error]
	heads     atomic.Int64
	abandoned atomic.Bool // within a body
	reads     deadlines
	writes    patience

	// These belong to who reads.
	buf   buffer
	ready int   // how much of buf may be handed on
	part  part  // of a message, of which the rest of buf is the beginning
	left  int64 // of a body or chunk
	err   error // of all further reads
}

// part is a part of a message.
type part uint8

const (
	head part = iota
	body
	chunkLine
	chunkData
	chunkEnd
	trailer
	held    // what follows a wish for another protocol, before the answer
	foreign // another protocol
)

// Timeouts bound how long a client may take. Zero is for ever.
type Timeouts struct {
	Head  time.Duration // for a head that has begun
	Write time.Duration // for taking what it is sent, roughly
}

// NewHTTP1 returns conn with strict reads.
func NewHTTP1(conn net.Conn, t Timeouts) *HTTP1 {
	return &HTTP1{
		Conn: conn, reads: deadlines{conn: conn, headTimeout: t.Head}, writes: patience{conn: conn, most: t.Write},
	}
}

// Refused returns why the last head was refused, or nil if none was.
func (c *HTTP1) Refused() *request.Error { return c.refused.Load() }

// Heads returns how many heads were found, the refused one included. A server
// that has seen more requests than that has lost step with the client.
func (c *HTTP1) Heads() int64 { return c.heads.Load() }

// Read hands on what has been checked.
func (c *HTTP1) Read(p []byte) (int, error) {
	for {
		switch {
		case c.ready > 0:
			n := copy(p, c.buf.bytes()[:c.ready])
			c.buf.drop(n)
			c.ready -= n
			return n, nil
		case c.err != nil:
			return 0, c.err
		case len(p) == 0:
			return 0, nil
		case c.part == foreign:
			return c.Conn.Read(p)
		case (c.part == body || c.part == chunkData) && len(c.buf.bytes()) == 0:
			return c.readBody(p)
		}
		if err := c.advance(); err != nil {
			return 0, err
		}
	}
}

// advance makes bytes of buf ready or reads more of them.
func (c *HTTP1) advance() error {
	switch c.part {
	case head:
		return c.advanceHead()
	case body, chunkData:
		c.ready = int(min(int64(len(c.buf.bytes())), c.left))
		c.took(c.ready)
		return nil
	}
	switch c.part {
	case held:
		return c.advanceHeld()
	case chunkLine:
		c.abandon(c.advanceChunk())
	case chunkEnd:
		c.abandon(c.advanceChunkEnd())
	default:
		c.abandon(c.advanceTrailer())
	}
	return c.err
}

// abandon ends reading if there is an error within a body: the rest of it is
// lost, and with it the beginning of the next message.
func (c *HTTP1) abandon(err error) {
	if err != nil {
		c.err = err
		c.abandoned.Store(true)
	}
}

// advanceHead leaves errors of the connection to the next read: a server may
// give up waiting for the next request and wait again.
func (c *HTTP1) advanceHead() error {
	end, refusal := endOfHead(c.buf.bytes(), maxHead)
	if refusal != nil {
		c.refuse(refusal)
		return nil
	}
	if end == 0 {
		if len(c.buf.bytes()) > 0 {
			c.reads.beginHead()
		}
		return c.buf.fill(c.Conn)
	}
	f, refusal := checkHead(c.buf.bytes()[:end])
	if refusal == nil && f.upgrades && len(c.buf.bytes()) > end {
		refusal = errEarly
	}
	if refusal != nil {
		c.refuse(refusal)
		return nil
	}
	c.reads.endHead()
	c.heads.Add(1)
	c.ready = end
	switch {
	case f.upgrades:
		c.part = held
	case f.chunked:
		c.part = chunkLine
	case f.length > 0:
		c.part, c.left = body, f.length
	}
	return nil
}

// errEarly is for a client that takes the answer for granted: if it is not what
// the client expects, what it sent would be read as something else.
var errEarly = refusal(ReasonEarly, "bytes follow a request for another protocol before its answer")

// advanceHeld notices that the client leaves, or goes on without waiting for
// its answer; nothing of what it sends then is ever handed on. Errors of the
// connection are left to the next read.
func (c *HTTP1) advanceHeld() error {
	if err := c.buf.fill(c.Conn); err != nil {
		return err
	}
	c.refused.Store(errEarly)
	c.err = errEarly
	return c.err
}

// Whole reports whether all of the body that the last head has announced by its
// length was read from the connection, and none of it handed on. No read is under
// way.
func (c *HTTP1) Whole() bool {
	return c.part == body && c.ready == 0 && int64(len(c.buf.bytes())) >= c.left
}

// Release ends the strict reading of a connection that a head has asked another
// protocol for: what comes from now on is handed on as it is. No read is under
// way. It reports false, and changes nothing, when there is no such head behind
// which nothing was read.
func (c *HTTP1) Release() bool {
	if c.part != held || c.ready > 0 || c.err != nil {
		return false
	}
	c.part, c.buf = foreign, buffer{}
	c.writes.begin()
	return true
}

// Hurry leaves d from now for all that is still to be written.
func (c *HTTP1) Hurry(d time.Duration) { c.writes.end(d) }

// refuse hands on the head that stands for a refused one, and then the end.
func (c *HTTP1) refuse(err *request.Error) {
	c.refused.Store(err)
	c.heads.Add(1)
	c.buf = bufferOf(refusedHead)
	c.ready, c.err = len(refusedHead), io.EOF
}

// readBody reads past buf.
func (c *HTTP1) readBody(p []byte) (int, error) {
	n, err := c.Conn.Read(p[:min(int64(len(p)), c.left)])
	c.took(n)
	c.abandon(err)
	return n, err
}

// took counts n bytes of a body or chunk.
func (c *HTTP1) took(n int) {
	c.left -= int64(n)
	switch {
	case c.left > 0:
	case c.part == body:
		c.part = head
	default:
		c.part = chunkEnd
	}
}

func (c *HTTP1) advanceChunk() error {
	buf := c.buf.bytes()
	end := bytes.IndexByte(buf, '\n') + 1
	switch {
	case end > maxChunkLine || end == 0 && len(buf) > maxChunkLine:
		return refusal(ReasonChunk, "a chunk begins with a line that is too long")
	case end == 0:
		return c.buf.fill(c.Conn)
	}
	size, err := chunkSize(buf[:end])
	if err != nil {
		return err
	}
	c.ready, c.part, c.left = end, chunkData, size
	if size == 0 {
		c.part = trailer
	}
	return nil
}

func (c *HTTP1) advanceChunkEnd() error {
	buf := c.buf.bytes()
	switch {
	case len(buf) < 2:
		return c.buf.fill(c.Conn)
	case buf[0] != '\r' || buf[1] != '\n':
		return refusal(ReasonChunk, "a chunk is longer than it says")
	}
	c.ready, c.part = 2, chunkLine
	return nil
}

func (c *HTTP1) advanceTrailer() error {
	end, err := endOfTrailer(c.buf.bytes())
	if err != nil {
		return err
	}
	if end == 0 {
		return c.buf.fill(c.Conn)
	}
	c.ready, c.part = end, head
	return nil
}

// Write writes. A client that stops reading is given up.
func (c *HTTP1) Write(p []byte) (int, error) {
	c.writes.extend()
	return c.Conn.Write(p)
}

// SetWriteDeadline does nothing: Timeouts has said how long a write may take.
func (c *HTTP1) SetWriteDeadline(time.Time) error { return nil }

// SetReadDeadline is that of net.Conn. A head that has begun may end sooner.
func (c *HTTP1) SetReadDeadline(t time.Time) error { return c.reads.set(t) }

// CloseWrite tells the client that nothing more will come.
func (c *HTTP1) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

// Cut closes the connection at once, whatever else is being done with it:
// unlike Close, it says nothing to the client, for which it might have to wait.
func (c *HTTP1) Cut() {
	conn := c.Conn
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = t.NetConn() // below TLS
	}
	_ = conn.Close() // who uses it will notice
}

// Close closes the connection. A client that may still be sending what was
// refused is heard out, within bounds, so that it can read the answer.
func (c *HTTP1) Close() error {
	if c.refused.Load() != nil || c.abandoned.Load() {
		c.linger()
	}
	return c.Conn.Close()
}

func (c *HTTP1) linger() {
	if c.CloseWrite() != nil || c.Conn.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, c.Conn, lingerBytes) // whatever ends it, the end is near
}
