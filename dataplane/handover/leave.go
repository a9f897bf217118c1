package handover

import (
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxLeft bounds how many connections Leave takes.
const maxLeft = 4096

// Leave closes a socket, and returns the connections that nobody had taken yet: the
// system would reset them. The caller does not accept any more.
func Leave(ln net.Listener) []net.Conn {
	var left []int
	if c, ok := ln.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { left = take(int(fd)) }) // closed already, at worst
		}
	}
	_ = ln.Close() // it was only listened on
	conns := make([]net.Conn, 0, len(left))
	for _, fd := range left {
		f := os.NewFile(uintptr(fd), "")
		if conn, err := net.FileConn(f); err == nil {
			conns = append(conns, conn)
		}
		_ = f.Close() // conn has a copy
	}
	return conns
}

// take accepts all that wait. Whatever ends that, it is the end.
func take(fd int) (left []int) {
	if unix.SetNonblock(fd, true) != nil {
		return nil
	}
	for len(left) < maxLeft {
		conn, _, err := unix.Accept(fd)
		switch {
		case err == unix.EINTR || err == unix.ECONNABORTED:
			continue
		case err != nil:
			return left
		}
		unix.CloseOnExec(conn)
		left = append(left, conn)
	}
	return left
}
