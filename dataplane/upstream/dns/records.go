package dns

import (
	"net"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// records listens to what servers answer, for what package net keeps to itself: how
// long records may be kept. Nothing else rests on it, and what it says is held between
// bounds, so that a forged answer, which package net drops, has a name looked up at
// another time at worst. The zero value has heard nothing. It is safe for concurrent
// use.
type records struct {
	mu    sync.Mutex
	ttl   time.Duration
	any   bool
	conns []net.Conn
	over  bool
}

// close ends what the lookup has left open: package net comes back before its own
// goroutines do if nobody waits for the answer any more.
func (r *records) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	for _, c := range r.conns {
		_ = c.Close()
	}
}

// add has conn be closed by close.
func (r *records) add(conn net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		_ = conn.Close()
	}
	r.conns = append(r.conns, conn)
}

// least returns the shortest time that a record heard of may be kept, and whether
// there was one.
func (r *records) least() (time.Duration, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ttl, r.any
}

// listen returns conn with its answers heard: package net treats what is a
// net.PacketConn as UDP, and all else as TCP.
func (r *records) listen(conn net.Conn) net.Conn {
	r.add(conn)
	if packets, ok := conn.(net.PacketConn); ok {
		return &overheardPackets{Conn: conn, packets: packets, records: r}
	}
	return &overheardStream{Conn: conn, records: r}
}

// hear takes note of an answer.
func (r *records) hear(message []byte) {
	var p dnsmessage.Parser
	header, err := p.Start(message)
	if err != nil || !header.Response || header.RCode != dnsmessage.RCodeSuccess || p.SkipAllQuestions() != nil {
		return
	}
	for {
		record, err := p.AnswerHeader()
		if err != nil {
			return // most often because there are no more
		}
		switch record.Type {
		case dnsmessage.TypeA, dnsmessage.TypeAAAA, dnsmessage.TypeCNAME:
			r.note(record.TTL)
		}
		if p.SkipAnswer() != nil {
			return
		}
	}
}

func (r *records) note(seconds uint32) {
	if seconds > 1<<31-1 {
		seconds = 0 // RFC 2181, section 8
	}
	ttl := time.Duration(seconds) * time.Second
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.any || ttl < r.ttl {
		r.ttl, r.any = ttl, true
	}
}

// overheardPackets is a connection of UDP.
type overheardPackets struct {
	net.Conn
	packets net.PacketConn
	records *records
}

// Read implements net.Conn.
func (c *overheardPackets) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.records.hear(b[:n])
	return n, err
}

// ReadFrom implements net.PacketConn.
func (c *overheardPackets) ReadFrom(b []byte) (int, net.Addr, error) { return c.packets.ReadFrom(b) }

// WriteTo implements net.PacketConn.
func (c *overheardPackets) WriteTo(b []byte, to net.Addr) (int, error) {
	return c.packets.WriteTo(b, to)
}

// overheardStream is a connection of TCP for one question, whose answer comes after
// two bytes with its length.
type overheardStream struct {
	net.Conn
	records *records
	got     []byte
}

// Read implements net.Conn.
func (c *overheardStream) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if len(c.got) < 2+1<<16 {
		c.got = append(c.got, b[:n]...)
	}
	return n, err
}

// Close implements net.Conn.
func (c *overheardStream) Close() error {
	if len(c.got) > 2 {
		c.records.hear(c.got[2:])
	}
	return c.Conn.Close()
}
