package wire

import (
	"net"
	"sync"
	"time"
)

// Room for what is read and for what is written. Connections take it from pools for
// as long as there is something in it.
const (
	usualRoom = 4 << 10
	outRoom   = 16 << 10 // what one record of TLS carries (RFC 8446, section 5.1)
)

// rooms is where they take it from. It is safe for concurrent use.
type rooms struct{ in, out, responses sync.Pool }

func (r *rooms) takeIn() *[usualRoom]byte {
	if room, ok := r.in.Get().(*[usualRoom]byte); ok {
		return room
	}
	return new([usualRoom]byte)
}

func (r *rooms) takeOut() *[outRoom]byte {
	if room, ok := r.out.Get().(*[outRoom]byte); ok {
		return room
	}
	return new([outRoom]byte)
}

// buffer holds what was read from a connection and not used.
type buffer struct {
	rooms      *rooms
	usual      *[usualRoom]byte // nil for none
	room       []byte           // it, or what it had to grow to
	start, end int
}

func (b *buffer) bytes() []byte { return b.room[b.start:b.end] }

func (b *buffer) empty() bool { return b.start == b.end }

// drop forgets the first n bytes.
func (b *buffer) drop(n int) {
	if b.start += n; b.start == b.end {
		b.start, b.end = 0, 0
	}
}

// release gives the room back. There is nothing in it.
func (b *buffer) release() {
	if b.usual != nil {
		b.rooms.in.Put(b.usual)
	}
	*b = buffer{rooms: b.rooms}
}

// add appends one byte.
func (b *buffer) add(c byte) {
	b.makeRoom()
	b.room[b.end] = c
	b.end++
}

// fill reads once. It returns an error only when it read nothing.
func (b *buffer) fill(conn net.Conn) error {
	b.makeRoom()
	n, err := conn.Read(b.room[b.end:])
	b.end += n
	if n > 0 {
		return nil
	}
	return err
}

func (b *buffer) makeRoom() {
	const least = 512
	switch {
	case b.room == nil:
		b.usual = b.rooms.takeIn()
		b.room = b.usual[:]
	case len(b.room)-b.end >= least:
	case b.start > 0:
		b.end = copy(b.room, b.room[b.start:b.end])
		b.start = 0
		b.makeRoom()
	default:
		grown := make([]byte, 2*len(b.room))
		copy(grown, b.room[:b.end])
		if b.usual != nil {
			b.rooms.in.Put(b.usual)
		}
		b.usual, b.room = nil, grown
	}
}

// deadline is that of reads.
type deadline struct {
	socket *Socket

	mu   sync.Mutex
	kind kind
	end  time.Time
}

// kind is what becomes of a deadline.
type kind uint8

const (
	none    kind = iota
	passing      // a body, or a watch, lifts it
	lasting      // it stays until the next request is waited for
	past         // it has ended a read, and is lifted as well
)

// leave leaves a client at least d from now, and at most a little more: the deadline
// is moved only now and then, because moving it costs. Zero is for ever.
func (d *deadline) leave(least time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if least == 0 {
		d.lift()
		return
	}
	if d.kind != passing || time.Until(d.end) < least {
		d.set(passing, time.Now().Add(least+least/8))
	}
}

// limit ends reads within most.
func (d *deadline) limit(k kind, most time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.set(k, time.Now().Add(most))
}

// handle sets a handler's.
func (d *deadline) handle(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kind = lasting
	return d.socket.SetReadDeadline(t)
}

// clear has reads wait for ever, unless the deadline lasts.
func (d *deadline) clear() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.kind != lasting {
		d.lift()
	}
}

// interrupt ends a read that is under way.
func (d *deadline) interrupt() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.set(past, time.Unix(1, 0))
}

func (d *deadline) lift() {
	if d.kind != none {
		d.set(none, time.Time{})
	}
}

func (d *deadline) set(k kind, t time.Time) {
	d.kind, d.end = k, t
	_ = d.socket.SetReadDeadline(t) // a read will tell
}

// patience keeps a write deadline ahead of a client that takes what it is sent.
// It is moved only now and then, because moving it costs.
type patience struct {
	socket *Socket
	most   time.Duration

	mu    sync.Mutex
	begun time.Time // when the deadline was last moved
	over  bool      // it is not moved any more
}

// end sets the last deadline.
func (p *patience) end(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	return p.socket.SetWriteDeadline(t)
}

func (p *patience) extend() {
	if p.most == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over && time.Since(p.begun) > p.most/8 {
		p.begun = time.Now()
		_ = p.socket.SetWriteDeadline(p.begun.Add(p.most)) // a write will tell
	}
}
