package gateway

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/sallyport/sallyport/dataplane/gateway/wire"
	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/clientip"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/identity/authority"
	"github.com/sallyport/sallyport/internal/request"
)

// client is who is at the other end of a connection, as far as the connection
// tells. It is immutable once it is served.
type client struct {
	listener   string // namespace/name
	speaker    *speaker
	remote     netip.Addr       // who connected, which need not be the client
	address    clientip.Address // of the connection; a request's may be another
	text       string           // of address
	tlsVersion string           // "1.2" or "1.3"
	serverName string
	alpn       string
	http2      *wire.HTTP2 // nil over HTTP/1.1
	crowd      *crowd      // nil over HTTP/1.1

	peer authn.Peer // zero without a client certificate
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

// part is told of each part of an answer that may be a stream.
func (c *client) part() {
	if c.http2 != nil {
		c.http2.Part()
	}
}

// waits is told of parts of answers that wait for the client to take them: one more, or
// one fewer.
func (c *client) waits(more int64) {
	if c.crowd != nil {
		c.crowd.home.untaken.Add(more)
	}
}

// finish reports whether the last of an answer of so many bytes is on its way. If the client's windows may not have room for it, this waits until they have,
// and not for ever: net/http would do that behind the request, where nobody counts it.
func (c *client) finish(w http.ResponseWriter, answer int64) bool {
	if c.http2 == nil || c.http2.HasRoom(answer) {
		return true
	}
	control := http.NewResponseController(w)
	if control.SetWriteDeadline(time.Now().Add(writeTimeout)) != nil {
		return false
	}
	c.waits(1)
	defer c.waits(-1)
	return control.Flush() == nil
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

// serveHTTP1 is a wire.Handler.
func (c *client) serveHTTP1(w *wire.Response, r *http.Request, refused *request.Error) {
	g := c.speaker.gateway
	x := g.exchanges.get()
	x.from, x.w, x.http1, x.r, x.refused = c, w, w, r, refused
	if g.serve(x); x.alone {
		w.Release(x)
	}
}

// http2Conn is what net/http's server is given.
type http2Conn struct {
	*wire.HTTP2
	client *client
}

type clientKey struct{}

// withClient is the server's ConnContext.
func withClient(ctx context.Context, conn net.Conn) context.Context {
	if c, ok := conn.(http2Conn); ok {
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
