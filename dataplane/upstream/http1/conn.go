package http1

import (
	"errors"
	"net"
	"time"
)

// Conn is a connection to an endpoint, for one request at a time. It belongs to
// who has it from a Pool, until RoundTrip, which gives it back when the answer has
// been read.
type Conn struct {
	conn   net.Conn // with TLS where there is any
	socket *Socket  // below it
	pool   *Pool
	made   time.Time
	rested time.Time // when it was last given back; zero for never

	room       []byte // of what was read
	start, end int    // of what was read and not looked at
	out        []byte // what is written next

	one [1]byte // that was not asked for
}

// Used reports whether the connection has carried a request before, and may have
// been ended since.
func (c *Conn) Used() bool { return !c.rested.IsZero() }

// quiet reports whether nothing has come since the last answer, not even an end.
func (c *Conn) quiet() bool {
	if c.socket.raw == nil {
		return true
	}
	c.socket.polling = true
	_, err := c.conn.Read(c.one[:])
	c.socket.polling = false
	return errors.Is(err, errNothing)
}

// unread is what was read and not looked at.
func (c *Conn) unread() []byte { return c.room[c.start:c.end] }

// skip forgets the first n bytes of it. Room beyond the usual is given back as
// soon as it is empty.
func (c *Conn) skip(n int) {
	if c.start += n; c.start < c.end {
		return
	}
	c.start, c.end = 0, 0
	if len(c.room) > usualRoom {
		c.room = nil
	}
}

// fill reads once. It returns an error only when it read nothing.
func (c *Conn) fill() error {
	c.makeRoom()
	n, err := c.conn.Read(c.room[c.end:])
	c.end += n
	if n > 0 {
		return nil
	}
	return err
}

func (c *Conn) makeRoom() {
	const least = 512
	switch {
	case c.room == nil:
		c.room = make([]byte, usualRoom)
	case len(c.room)-c.end >= least:
	case c.start > 0:
		c.end = copy(c.room, c.room[c.start:c.end])
		c.start = 0
		c.makeRoom()
	default:
		grown := make([]byte, 2*len(c.room))
		copy(grown, c.room[:c.end])
		c.room = grown
	}
}

// write writes what is in out.
func (c *Conn) write() error {
	_, err := c.conn.Write(c.out)
	if cap(c.out) > 2*usualRoom {
		c.out = nil
	}
	return err
}

// cut ends the connection at once, whatever else is being done with it.
func (c *Conn) cut() { _ = c.socket.Close() } // who uses it will notice

// close ends a connection that nobody uses, and says so.
func (c *Conn) close() { _ = c.conn.Close() } // it is gone either way
