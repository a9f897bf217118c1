package wire

import "net"

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

// errDry says that more would have to be read. TLS takes it for a timeout, after which
// a connection can be used further.
var errDry net.Error = dry{}

type dry struct{}

func (dry) Error() string   { return "nothing was read ahead" }
func (dry) Timeout() bool   { return true }
func (dry) Temporary() bool { return true }
