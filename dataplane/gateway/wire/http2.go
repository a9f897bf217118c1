package wire

import (
	"encoding/binary"
	"errors"
	"net"
	"sync/atomic"
	"time"
)

// ErrNotHTTP2 says that a client which agreed on HTTP/2 speaks something else.
// net/http would try HTTP/1.1 then, past all that this package checks of it.
var ErrNotHTTP2 = errors.New("connection does not begin as HTTP/2 does")

// ErrFlood says that a client sent more frames that cost much and carry
// nothing than its budget allows.
var ErrFlood = errors.New("too many HTTP/2 frames that carry nothing")

// Budget is what a connection may spend on frames that carry nothing: settings,
// pings, priorities, window updates, continuations, and data that is empty or may be
// padding alone, one point each but for settings: those change the window of every stream,
// and may have each say something. A request costs a point too, and a reset PerReset: by
// then the request has been decided on and sent on, for nothing. Of a request that has
// taken its time a reset costs one: the bound of streams bounds those.
//
// The zero Budget affords nothing.
type Budget struct {
	Start     int           // points at the start
	Burst     int           // the most that are ever saved
	PerSecond int           // points that time brings
	PerKiB    int           // points that each KiB of answers brings
	PerAnswer int           // points that each answer brings when it begins, and when it is complete, however small
	PerPart   int           // points that each part of an answer brings which is told by Part
	PerReset  int           // points that a reset costs; 1 when 0
	PerChange int           // points that settings cost; 1 when 0
	Settled   time.Duration // how long a request has been open, at least, whose reset costs one; none does when 0
}

// DefaultBudget is far more than clients need that want answers: an answer that is complete
// pays for its request, and for being reset by who does not read it to its end; one that has
// begun pays for most of that. It begins with little: who connects again has it again.
var DefaultBudget = Budget{Start: 500, Burst: 2000, PerSecond: 500, PerKiB: 1, PerAnswer: 8, PerPart: 4, PerReset: 10, PerChange: 20, Settled: 500 * time.Millisecond}

// WaryBudget is for connections of those who have spent the budgets of others. Clients that
// want their answers can do with it: what is dear is to give up on many before they come.
var WaryBudget = Budget{Start: 150, Burst: 2000, PerSecond: 500, PerKiB: 1, PerAnswer: 26, PerPart: 4, PerReset: 50, PerChange: 20, Settled: 500 * time.Millisecond}

// HTTP2 is a connection from which HTTP/2 is read within a budget. It looks at
// frame headers alone and changes nothing.
//
// Reads come from one goroutine at a time, and so do writes.
type HTTP2 struct {
	net.Conn
	budget Budget
	now    func() time.Time

	written  atomic.Int64 // bytes
	answered atomic.Int64 // beginnings and ends of answers
	parts    atomic.Int64 // of answers
	foreign  atomic.Bool  // what was read is not HTTP/2
	initial  atomic.Int64 // window of each stream at its beginning, as the client has last said
	window   atomic.Int64 // what is left of the connection's
	writing  atomic.Bool
	wrote    func() // is told of writes that have ended; nil for nobody

	// These belong to who reads.
	preface int // bytes of it that were seen
	header  [frameHeader]byte
	headed  int // bytes of header that were seen
	payload int // bytes of the frame that are still to come
	item    [6]byte
	itemed  int // bytes of item that were seen
	points  int
	last    time.Time // when time was last paid for
	paid    int64     // written bytes that were paid for
	settled int64     // of answered that were
	shared  int64     // parts that were
	err     error     // of all further reads
	spent   func()    // is told when all is; nil for nobody
	streams ages

	// These belong to who writes.
	out     [frameHeader]byte
	outHead int // bytes of out that were seen
	outLeft int // bytes of the frame that are still to come
}

const (
	preface     = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" // RFC 9113, section 3.4
	frameHeader = 9
	firstWindow = 1<<16 - 1 // section 6.9.2
)

// NewHTTP2 returns conn with its reads on a budget. A nil now is time.Now.
func NewHTTP2(conn net.Conn, budget Budget, now func() time.Time) *HTTP2 {
	if now == nil {
		now = time.Now
	}
	c := &HTTP2{Conn: conn, budget: budget, now: now, points: budget.Start, last: now(), streams: ages{settled: budget.Settled}}
	c.initial.Store(firstWindow)
	c.window.Store(firstWindow)
	return c
}

// OnFlood has f be called once, by who reads, when the budget is spent. It is to be called
// before c is used.
func (c *HTTP2) OnFlood(f func()) { c.spent = f }

// OnWrite has f be called, by who writes, whenever a write has ended. It is to be called
// before c is used.
func (c *HTTP2) OnWrite(f func()) { c.wrote = f }

// Writing reports whether a write has begun and not ended: the client has not taken all
// that it was sent, unless it has just been sent. It is safe for concurrent use.
func (c *HTTP2) Writing() bool { return c.writing.Load() }

// Read reads, and fails for ever once the budget is spent.
func (c *HTTP2) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.Conn.Read(p)
	if c.err = c.see(p[:n]); c.err != nil {
		c.foreign.Store(errors.Is(c.err, ErrNotHTTP2))
		if c.spent != nil && errors.Is(c.err, ErrFlood) {
			c.spent()
		}
		return 0, c.err
	}
	return n, err
}

// Write writes. What the client reads earns it points. One that does not speak HTTP/2
// is told nothing: net/http would answer it in HTTP/1.1.
func (c *HTTP2) Write(p []byte) (int, error) {
	if c.foreign.Load() {
		return 0, ErrNotHTTP2
	}
	c.writing.Store(true)
	n, err := c.Conn.Write(p)
	c.writing.Store(false)
	c.written.Add(int64(n))
	c.sees(p[:n])
	if c.wrote != nil {
		c.wrote()
	}
	return n, err
}

// HasRoom reports whether the rest of an answer of so many bytes, which is little, will not
// have to wait for the client to open a window. It is safe for concurrent use.
func (c *HTTP2) HasRoom(answer int64) bool {
	return answer <= c.initial.Load() && c.window.Load() >= firstWindow/2
}

// Part is called for each part of an answer as an upstream says it, before it is written:
// clients of gRPC have a ping and a window update to say to each. How many frames it is
// written in is not for the client to be paid for, as its windows decide on that. It is
// safe for concurrent use.
func (c *HTTP2) Part() { c.parts.Add(1) }

// sees counts the frames that begin an answer, or end one.
func (c *HTTP2) sees(p []byte) {
	const data, headers, endStream = 0, 1, 1
	for len(p) > 0 {
		if c.outLeft > 0 {
			n := min(len(p), c.outLeft)
			c.outLeft -= n
			p = p[n:]
			continue
		}
		n := copy(c.out[c.outHead:], p)
		c.outHead += n
		p = p[n:]
		if c.outHead < frameHeader {
			return
		}
		h := c.out
		c.outHead, c.outLeft = 0, int(h[0])<<16|int(h[1])<<8|int(h[2])
		switch h[3] {
		case headers:
			c.answered.Add(1)
		case data:
			c.window.Add(-int64(c.outLeft))
		}
		if (h[3] == data || h[3] == headers) && h[4]&endStream != 0 {
			c.answered.Add(1)
		}
	}
}

func (c *HTTP2) see(p []byte) error {
	for len(p) > 0 {
		switch {
		case c.preface < len(preface):
			n := min(len(p), len(preface)-c.preface)
			if string(p[:n]) != preface[c.preface:c.preface+n] {
				return ErrNotHTTP2
			}
			c.preface += n
			p = p[n:]
		case c.payload > 0:
			n := min(len(p), c.payload)
			c.note(p[:n])
			c.payload -= n
			p = p[n:]
		default:
			n := copy(c.header[c.headed:], p)
			c.headed += n
			p = p[n:]
			if c.headed == frameHeader && !c.frame() {
				return ErrFlood
			}
		}
	}
	return nil
}

// note follows the windows: p is of the payload of the frame that is read.
func (c *HTTP2) note(p []byte) {
	const settings, update, initialWindow = 4, 8, 4 // RFC 9113, sections 6.5 and 6.9
	size := 6
	switch kind := c.header[3]; {
	case kind == update && binary.BigEndian.Uint32(c.header[5:]) == 0:
		size = 4
	case kind != settings:
		return
	}
	for len(p) > 0 {
		n := copy(c.item[c.itemed:size], p)
		c.itemed += n
		p = p[n:]
		if c.itemed < size {
			return
		}
		c.itemed = 0
		switch {
		case size == 4:
			c.window.Add(int64(binary.BigEndian.Uint32(c.item[:]) &^ (1 << 31)))
		case binary.BigEndian.Uint16(c.item[:]) == initialWindow:
			c.initial.Store(int64(binary.BigEndian.Uint32(c.item[2:])))
		}
	}
}

// frame begins a frame and reports whether it can be afforded.
func (c *HTTP2) frame() bool {
	// RFC 9113, section 6.1. What is padded may be padding alone, up to its longest.
	const data, endStream, padded, maxPadding = 0, 1, 8, 256
	h := c.header
	c.headed, c.itemed, c.payload = 0, 0, int(h[0])<<16|int(h[1])<<8|int(h[2])
	carries := c.payload > 0 && (h[4]&padded == 0 || c.payload > maxPadding)
	if h[3] == data && (carries || h[4]&endStream != 0) {
		return true
	}
	costs := c.costs()
	if c.points < costs {
		c.earn()
	}
	if c.points < costs {
		return false
	}
	c.points -= costs
	return true
}

// costs is what the frame costs that begins.
func (c *HTTP2) costs() int {
	const headers, reset, settings, ack = 1, 3, 4, 1
	stream := binary.BigEndian.Uint32(c.header[5:]) & (1<<31 - 1)
	switch kind := c.header[3]; {
	case kind == headers:
		c.streams.begin(stream, c.now())
	case kind == reset && !c.streams.settles(stream, c.now()):
		return max(c.budget.PerReset, 1)
	case kind == settings && c.header[4]&ack == 0:
		return max(c.budget.PerChange, 1)
	}
	return 1
}

// ages tell streams that have been open for a while, from their numbers, which only grow
// (RFC 9113, section 5.1.1).
type ages struct {
	settled time.Duration // what a while is
	old     uint32        // this one and those before began that long ago
	mark    uint32        // this one and those before had begun when it was marked
	marked  time.Time
	newest  uint32
	begun   time.Time // newest was
}

// begin is for each head: the second of a stream is its trailer.
func (a *ages) begin(stream uint32, now time.Time) {
	if stream > a.newest {
		a.pass(now)
		a.newest, a.begun = stream, now
	}
}

// settles reports whether a stream has been open for a while. It takes twice as long for
// sure, if others have begun behind it meanwhile.
func (a *ages) settles(stream uint32, now time.Time) bool {
	a.pass(now)
	return a.settled > 0 && stream <= a.old
}

func (a *ages) pass(now time.Time) {
	switch {
	case now.Sub(a.begun) >= a.settled:
		a.old, a.mark, a.marked = a.newest, a.newest, now
	case now.Sub(a.marked) >= a.settled:
		a.old, a.mark, a.marked = a.mark, a.newest, now
	}
}

// earn pays for time and answers since it last did.
func (c *HTTP2) earn() {
	now, written, answered, parts := c.now(), c.written.Load(), c.answered.Load(), c.parts.Load()
	earned := int64(now.Sub(c.last).Seconds()*float64(c.budget.PerSecond)) + (written-c.paid)>>10*int64(c.budget.PerKiB) +
		(answered-c.settled)*int64(c.budget.PerAnswer) + (parts-c.shared)*int64(c.budget.PerPart)
	c.points = int(min(int64(c.points)+max(earned, 0), int64(c.budget.Burst)))
	c.last, c.paid, c.settled, c.shared = now, written, answered, parts
}
