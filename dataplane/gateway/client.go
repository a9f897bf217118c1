package gateway

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"net"
	"net/netip"
	"sync/atomic"

	"github.com/sallyport/sallyport/dataplane/gateway/wire"
	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/clientip"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/identity/authority"
)

// client is who is at the other end of a connection, as far as the connection
// tells. But for the last fields it is immutable.
type client struct {
	listener   string // namespace/name
	speaker    *speaker
	remote     netip.Addr       // who connected, which need not be the client
	address    clientip.Address // of the connection; a request's may be another
	text       string           // of address
	tlsVersion string           // "1.2" or "1.3"
	serverName string
	alpn       string

	peer authn.Peer // zero without a client certificate

	http1  *wire.HTTP1  // nil for HTTP/2
	served atomic.Int64 // requests over http1
}

// newClient reads a connection whose handshake is complete. The certificate was
// verified in it; what is wrong with its names is an error.
func newClient(listener string, state *tls.ConnectionState) (*client, error) {
	c := &client{listener: listener, serverName: state.ServerName, alpn: state.NegotiatedProtocol, tlsVersion: "1.2"}
	if state.Version == tls.VersionTLS13 {
		c.tlsVersion = "1.3"
	}
	if len(state.PeerCertificates) == 0 {
		return c, nil
	}
	leaf := state.PeerCertificates[0]
	c.peer = authn.Peer{IssuedAt: leaf.NotBefore, Expires: leaf.NotAfter, Thumbprint: sha256.Sum256(leaf.Raw)}
	if !identity.IsSVID(leaf) {
		c.peer.Certificate = authority.NewCertificate(state.PeerCertificates)
		return c, nil
	}
	id, err := identity.PeerID(state)
	if err != nil {
		return nil, err
	}
	c.peer.ID = string(id)
	return c, nil
}

// locate returns the address of who sent a request with this header, as it came.
func (c *client) locate(header map[string][]string) clientip.Address {
	if c.speaker == nil {
		return c.address
	}
	return c.speaker.addresses.OfRequest(c.address, header)
}

// written is an address as text: nearly always that of the connection.
func (c *client) written(a netip.Addr) string {
	if a == c.address.IP && c.text != "" {
		return c.text
	}
	return a.String()
}

// peerOf returns the address at the other end of a connection, in its one form:
// no network has one with a zone in it.
func peerOf(conn net.Conn) netip.Addr {
	tcp, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return tcp.AddrPort().Addr().Unmap().WithZone("")
}

// inStep reports whether the server has not seen more requests than were found
// on the wire. If it has, it takes a body for a request.
func (c *client) inStep() bool {
	return c.http1 == nil || c.served.Add(1) <= c.http1.Heads()
}

// http1Conn and http2Conn are what the server is given.
type (
	http1Conn struct {
		*wire.HTTP1
		client *client
	}
	http2Conn struct {
		*wire.HTTP2
		client *client
	}
)

type clientKey struct{}

// withClient is the server's ConnContext.
func withClient(ctx context.Context, conn net.Conn) context.Context {
	switch c := conn.(type) {
	case http1Conn:
		return context.WithValue(ctx, clientKey{}, c.client)
	case http2Conn:
		return context.WithValue(ctx, clientKey{}, c.client)
	}
	return ctx
}

// clientOf returns whose request ctx is. There is nobody without one.
func clientOf(ctx context.Context) *client {
	c, ok := ctx.Value(clientKey{}).(*client)
	if !ok {
		return &client{}
	}
	return c
}
