package gateway

import (
	"net"

	"golang.org/x/sys/unix"
)

// maxUnsent is how much of what was written to a client its socket keeps that is not yet on
// its way, in bytes. What is on its way does not count, so long and wide links lose nothing.
const maxUnsent = 128 << 10

// boundUnsent has writes to a client that does not read wait at maxUnsent. Without it the
// kernel takes some MiB for each, and a proxy fetches and encrypts them for nobody.
func boundUnsent(conn net.Conn) {
	if raw, err := socketOf(conn); err == nil {
		// Who does not have the option keeps more: nothing else depends on it.
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, maxUnsent)
		})
	}
}
