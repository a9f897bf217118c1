package wire

import (
	"net"
	"syscall"
)

// Socket is a connection below TLS. It can be read dry: for what TLS has already
// taken from it, and nothing else.
//
// Reads come from one goroutine at a time.
type Socket struct {
	net.Conn

	dry bool // Read does not; belongs to who reads
}

// NewSocket returns conn as a Socket.
func NewSocket(conn net.Conn) *Socket { return &Socket{Conn: conn} }

// Read implements net.Conn.
func (s *Socket) Read(p []byte) (int, error) {
	if s.dry {
		return 0, errDry
	}
	return s.Conn.Read(p)
}

// dropAtOnce is for how many bytes at least, where the system can wait for them, whoever
// drops what comes is woken.
const dropAtOnce = 64 << 10

// drop reads what comes, and leaves it unread: until the other side ends, the deadline
// passes, or it was most bytes. Of TLS it does not even look at the records, so that who
// sends what nobody wants costs little. Nothing can be read behind it.
func (s *Socket) drop(most int, scratch []byte) {
	if c, ok := s.Conn.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { // it is woken more often else
				_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, dropAtOnce)
			})
		}
	}
	for most > 0 {
		n, _ := s.Conn.Read(scratch)
		if n == 0 {
			return
		}
		most -= n
	}
}

// errDry says that more would have to be read. TLS takes it for a timeout, after which
// a connection can be used further.
var errDry net.Error = dry{}

type dry struct{}

func (dry) Error() string   { return "nothing was read ahead" }
func (dry) Timeout() bool   { return true }
func (dry) Temporary() bool { return true }
