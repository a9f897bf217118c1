package gateway

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/pires/go-proxyproto"

	"github.com/sallyport/sallyport/internal/clientip"
)

// Why a connection is closed before its handshake.
var (
	errUnannounced = errors.New("connection has no header of the PROXY protocol, which it has to")
	errNotTLS      = errors.New("connection from elsewhere begins with what is not TLS")
	errNoStream    = errors.New("header of the PROXY protocol is not of a TCP connection")
)

// announce returns whose connection it is, after what proxies in front may say
// ahead of TLS, and the connection from there on. It reads nothing unless d
// declares the PROXY protocol, and waits for no longer than ctx.
func announce(ctx context.Context, raw net.Conn, peer netip.Addr, d *clientip.Declaration) (net.Conn, clientip.Address, error) {
	address := d.OfConnection(peer)
	may, must := d.SpeaksProxyProtocol()
	if !may {
		return raw, address, nil
	}
	trusted := d.Trusts(peer)
	if must && !trusted {
		return nil, clientip.Address{}, errUnannounced
	}
	// What else there is to do with a connection that says nothing is to close it.
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	ahead := bufio.NewReaderSize(raw, readAhead)
	first, err := ahead.Peek(1)
	switch {
	case err != nil:
		return nil, clientip.Address{}, fmt.Errorf("read the beginning: %w", err)
	case first[0] == tlsHandshake && must:
		return nil, clientip.Address{}, errUnannounced
	case first[0] == tlsHandshake:
		return &carried{raw, ahead}, address, nil
	case !trusted:
		return nil, clientip.Address{}, errNotTLS
	}
	header, err := proxyproto.Read(ahead)
	if err != nil {
		return nil, clientip.Address{}, fmt.Errorf("read header of the PROXY protocol: %w", err)
	}
	if address, err = sourceOf(header, peer); err != nil {
		return nil, clientip.Address{}, err
	}
	return &carried{raw, ahead}, address, nil
}

const (
	tlsHandshake = 0x16 // the first byte of TLS (RFC 8446, section 5.1)
	readAhead    = 256  // bytes; a header of version 1 is in one packet
)

// sourceOf reads who is meant by a header from peer.
func sourceOf(header *proxyproto.Header, peer netip.Addr) (clientip.Address, error) {
	unknown := clientip.Address{Source: clientip.ProxyProtocol, Unknown: "the header of the PROXY protocol has no source"}
	switch {
	case header.Version == 1 && header.TransportProtocol.IsUnspec():
		return unknown, nil
	case header.Command.IsLocal():
		return clientip.Address{IP: peer, Source: clientip.Direct}, nil
	}
	source, _, ok := header.TCPAddrs()
	if !ok {
		return clientip.Address{}, errNoStream
	}
	ip := source.AddrPort().Addr().Unmap().WithZone("")
	if !ip.IsValid() || ip.IsUnspecified() {
		return unknown, nil
	}
	return clientip.Address{IP: ip, Source: clientip.ProxyProtocol}, nil
}

// carried is a connection of which a part was read. It has one reader at a time.
type carried struct {
	net.Conn
	ahead *bufio.Reader // nil when all of it was read again
}

// Read implements net.Conn.
func (c *carried) Read(p []byte) (int, error) {
	if c.ahead != nil && c.ahead.Buffered() > 0 {
		return c.ahead.Read(p)
	}
	c.ahead = nil
	return c.Conn.Read(p)
}

// SyscallConn implements syscall.Conn.
func (c *carried) SyscallConn() (syscall.RawConn, error) { return socketOf(c.Conn) }
