package wire

import (
	"net"
	"sync"
	"time"
)

// buffer holds what was read from a connection and not handed on. The zero
// value is empty.
type buffer struct {
	room       []byte
	start, end int
}

func bufferOf(s string) buffer { return buffer{room: []byte(s), end: len(s)} }

func (b *buffer) bytes() []byte { return b.room[b.start:b.end] }

// drop forgets the first n bytes. Room beyond the usual is given back as soon
// as it is empty.
func (b *buffer) drop(n int) {
	if b.start += n; b.start < b.end {
		return
	}
	b.start, b.end = 0, 0
	if len(b.room) > usualRoom {
		b.room = nil
	}
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
		b.room = make([]byte, usualRoom)
	case len(b.room)-b.end >= least:
	case b.start > 0:
		b.end = copy(b.room, b.room[b.start:b.end])
		b.start = 0
		b.makeRoom()
	default:
		grown := make([]byte, 2*len(b.room))
		copy(grown, b.room[:b.end])
		b.room = grown
	}
}

// deadlines keeps the server's read deadline and the one of a head that has
// begun apart: the earlier of the two counts.
type deadlines struct {
	conn        net.Conn
	headTimeout time.Duration

	mu           sync.Mutex
	server, head time.Time
}

func (d *deadlines) set(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.server = t
	return d.apply()
}

// beginHead starts the clock unless it runs. A deadline that cannot be set
// belongs to a connection that cannot be read either.
func (d *deadlines) beginHead() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.head.IsZero() && d.headTimeout > 0 {
		d.head = time.Now().Add(d.headTimeout)
		_ = d.apply()
	}
}

func (d *deadlines) endHead() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.head.IsZero() {
		d.head = time.Time{}
		_ = d.apply()
	}
}

func (d *deadlines) apply() error {
	t := d.server
	if t.IsZero() || !d.head.IsZero() && d.head.Before(t) {
		t = d.head
	}
	return d.conn.SetReadDeadline(t)
}

// patience keeps a write deadline ahead of a client that takes what it is sent.
// It is moved only now and then, because moving it costs.
type patience struct {
	conn net.Conn
	most time.Duration

	mu    sync.Mutex
	begun time.Time // when the deadline was last moved
	over  bool      // it is not moved any more
}

// begin has the next write move the deadline.
func (p *patience) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begun = time.Time{}
}

// end sets the last deadline.
func (p *patience) end(within time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	_ = p.conn.SetWriteDeadline(time.Now().Add(within)) // a write will tell
}

func (p *patience) extend() {
	if p.most == 0 {
		return
	}
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over && now.Sub(p.begun) > p.most/8 {
		p.begun = now
		_ = p.conn.SetWriteDeadline(now.Add(p.most)) // a write will tell
	}
}
