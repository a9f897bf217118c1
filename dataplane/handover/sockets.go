// Package handover takes listening sockets over from the service manager, shares
// addresses with the process that comes next, and tells the manager how this one is
// doing.
package handover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// Sockets opens what a process listens on. It is safe for concurrent use.
type Sockets struct {
	inherited map[netip.AddrPort]*os.File // never changed
}

// Inherit takes the sockets that the service manager has opened (sd_listen_fds(3)),
// and forgets how it was told of them, so that no child takes them for its own.
// Whatever else was handed over is an error. Only the first call finds any.
func Inherit() (*Sockets, error) {
	s := &Sockets{inherited: map[netip.AddrPort]*os.File{}}
	var errs []error
	for _, f := range activation.Files(true) {
		at, err := listensAt(f)
		if err == nil && s.inherited[at] != nil {
			err = fmt.Errorf("listens on %s, as another one does", at)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("inherited socket %s: %w", f.Name(), err))
			continue
		}
		s.inherited[at] = f
	}
	return s, errors.Join(errs...)
}

func listensAt(f *os.File) (netip.AddrPort, error) {
	ln, err := net.FileListener(f)
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer ln.Close() // a copy
	tcp, ok := ln.Addr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, errors.New("is not one of TCP")
	}
	return tcp.AddrPort(), nil
}

// Len is how many sockets were inherited.
func (s *Sockets) Len() int { return len(s.inherited) }

// Share listens on an address, host:port: with the socket that was inherited for it,
// or one of its own, beside those of other processes of the same user that share it.
// New connections go to any of them.
func (s *Sockets) Share(ctx context.Context, address string) (net.Listener, error) {
	if f := s.find(address); f != nil {
		return net.FileListener(f)
	}
	config := net.ListenConfig{Control: share}
	// With Multipath TCP the kernel could not move connections from one process to
	// another (net.ipv4.tcp_migrate_req).
	config.SetMultipathTCP(false)
	return config.Listen(ctx, "tcp", address)
}

// Alone listens on an address as Share does, but shares it with nobody.
func (s *Sockets) Alone(ctx context.Context, address string) (net.Listener, error) {
	if f := s.find(address); f != nil {
		return net.FileListener(f)
	}
	var config net.ListenConfig
	return config.Listen(ctx, "tcp", address)
}

func share(_, _ string, c syscall.RawConn) error {
	var err error
	if failed := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}); failed != nil {
		return failed
	}
	return os.NewSyscallError("setsockopt", err)
}

// find returns the socket that was inherited for an address, nil for none. An empty
// host is every address, of either family.
func (s *Sockets) find(address string) *os.File {
	host, port, err := net.SplitHostPort(address)
	if err != nil || len(s.inherited) == 0 {
		return nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil
	}
	if host == "" {
		for _, every := range []netip.Addr{netip.IPv6Unspecified(), netip.IPv4Unspecified()} {
			if f := s.inherited[netip.AddrPortFrom(every, uint16(n))]; f != nil {
				return f
			}
		}
		return nil
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return nil
	}
	return s.inherited[netip.AddrPortFrom(ip, uint16(n))]
}
