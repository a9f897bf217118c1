package http1

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// Socket is a connection to an endpoint, below TLS where there is any. Once it is
// part of a Conn it bounds how long reads and writes take, and it can be asked
// what has come without waiting for it.
//
// Reads come from one goroutine at a time, and so do writes.
type Socket struct {
	net.Conn
	raw syscall.RawConn // nil for what is no socket

	onClose func() // nil for nothing
	closed  atomic.Bool

	reads, writes patience
	written       atomic.Int64 // bytes

	// These belong to who reads.
	polling bool // Read does not wait
	ended   bool // the other side has ended, whatever TLS has said of it
	read    nowait
}

// NewSocket returns conn as the ground of a Conn.
func NewSocket(conn net.Conn) *Socket {
	s := &Socket{Conn: conn}
	s.reads.made = time.Now()
	s.writes.made = s.reads.made
	if c, ok := conn.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			s.raw = raw
		}
	}
	s.read.do = s.read.once
	return s
}

// OnClose has f be called once when s is closed. It is to be called before s is used.
func (s *Socket) OnClose(f func()) { s.onClose = f }

// Close implements net.Conn.
func (s *Socket) Close() error {
	err := s.Conn.Close()
	if s.closed.CompareAndSwap(false, true) && s.onClose != nil {
		s.onClose()
	}
	return err
}

// expect bounds how long the endpoint may be silent from now on; zero is for ever.
func (s *Socket) expect(silence time.Duration) {
	s.reads.most = silence
	if silence == 0 && s.reads.moved.Swap(0) != 0 {
		_ = s.SetReadDeadline(time.Time{}) // a read will tell
	}
}

// Read implements net.Conn.
func (s *Socket) Read(p []byte) (int, error) {
	s.reads.extend(s.SetReadDeadline)
	if s.polling {
		return s.read.from(s.raw, p)
	}
	n, err := s.Conn.Read(p)
	if errors.Is(err, io.EOF) {
		s.ended = true
	}
	return n, err
}

// Write implements net.Conn.
func (s *Socket) Write(p []byte) (int, error) {
	s.writes.extend(s.SetWriteDeadline)
	n, err := s.Conn.Write(p)
	s.written.Add(int64(n))
	return n, err
}

// CloseWrite tells the endpoint that nothing more will come.
func (s *Socket) CloseWrite() error {
	if w, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

// patience keeps a deadline ahead of a peer that goes on. It is moved only now and
// then, because moving it costs. Without a most there is none.
type patience struct {
	most  time.Duration
	made  time.Time
	moved atomic.Int64 // when it was, in nanoseconds since made; zero for never
}

func (p *patience) extend(set func(time.Time) error) {
	if p.most == 0 {
		return
	}
	now, moved := time.Since(p.made), p.moved.Load()
	if moved == 0 || int64(now)-moved > int64(p.most)/8 {
		p.moved.Store(max(int64(now), 1))
		_ = set(time.Now().Add(p.most)) // what follows will tell
	}
}

// nowait reads once, and only what is there. It is part of a Socket, so that
// looking costs no memory.
type nowait struct {
	do   func(fd uintptr) bool // once
	into []byte
	n    int
	err  error
}

func (r *nowait) from(raw syscall.RawConn, p []byte) (int, error) {
	r.into = p
	if err := raw.Read(r.do); err != nil {
		return 0, err
	}
	r.into = nil
	switch {
	case errors.Is(r.err, syscall.EAGAIN):
		return 0, errNothing
	case r.err != nil:
		return 0, r.err
	case r.n == 0:
		return 0, io.EOF
	}
	return r.n, nil
}

func (r *nowait) once(fd uintptr) bool {
	for {
		r.n, r.err = syscall.Read(int(fd), r.into)
		if !errors.Is(r.err, syscall.EINTR) {
			return true
		}
	}
}

// errNothing says that nothing has come. TLS takes it for a timeout, after which a
// connection can be used further.
var errNothing net.Error = nothing{}

type nothing struct{}

func (nothing) Error() string   { return "nothing has come" }
func (nothing) Timeout() bool   { return true }
func (nothing) Temporary() bool { return true }
