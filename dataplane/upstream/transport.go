package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/dataplane/upstream/http1"
)

// Habits of the connections to an upstream.
const (
	aliveAfter  = 30 * time.Second // without a frame of HTTP/2
	aliveWithin = 15 * time.Second
)

// maxUnread is how much of one answer over HTTP/2 is taken ahead of whoever reads it, in
// bytes: net/http's 4 MiB, for each stream of a client that reads none, would be much.
const maxUnread = 256 << 10

// limits bound the connections to one endpoint.
var limits = http1.Limits{
	Head: 64 << 10, Idle: 256, Rest: 90 * time.Second, Age: 30 * time.Minute,
	Write: time.Minute, Silence: 10 * time.Minute, Continue: time.Second,
}

// transport has the connections to an upstream's endpoints, and sends requests
// over them. It has neither a proxy of the environment nor compression of its own:
// what is sent and received is the client's business.
//
// HTTP/1.1 is spoken by package http1, and HTTP/2, where an endpoint prefers it, by
// net/http.
type transport struct {
	connections *connections

	// usual is one of origins, which is found first: most upstreams have one. It is
	// written with mu held.
	usual atomic.Pointer[origin]

	mu      sync.Mutex
	origins map[place]*origin
	closed  bool // no connection is kept any more
}

// origin is what is known of an endpoint, and the connections to it.
type origin struct {
	place
	http1 *http1.Pool
	http2 *http.Transport // has connections to this endpoint alone
	// prefers says that HTTP/2 was agreed on last.
	prefers atomic.Bool
	// spare is a new connection on which HTTP/2 was agreed on.
	spare atomic.Pointer[tls.Conn]
}

// newOrigin connects to nobody yet.
func (c *connections) newOrigin(at place) (*origin, error) {
	pool, err := http1.NewPool(limits, c.pool.now)
	if err != nil {
		return nil, err
	}
	o := &origin{place: at, http1: pool}
	pool.OnFree(func() { c.slots.Offer(o) })
	protocols := &http.Protocols{}
	protocols.SetHTTP2(true)
	o.http2 = &http.Transport{
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dialHTTP2(ctx, o) },
		Protocols:      protocols, DisableCompression: true,
		MaxIdleConnsPerHost: limits.Idle, IdleConnTimeout: limits.Rest, ExpectContinueTimeout: limits.Continue,
		MaxResponseHeaderBytes: int64(limits.Head),
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream: maxUnread,
			SendPingTimeout:           aliveAfter, PingTimeout: aliveWithin, WriteByteTimeout: aliveAfter,
		},
	}
	return o, nil
}

// RoundTrip is http.RoundTripper's, for a Call. An endpoint that has ended a connection
// between requests is asked again over a new one, if it cannot have seen the request
// or the request changes nothing.
func (t *transport) RoundTrip(r *http.Request, at place, by *Call) (*http.Response, error) {
	o, err := t.origin(at)
	if err != nil {
		return nil, err
	}
	if o.prefers.Load() {
		response, err := o.roundTripHTTP2(r, by.Hint)
		if !errors.Is(err, errNotHTTP2) {
			return response, err
		}
		r = again(r)
	}
	if c := t.connections.free(o); c != nil {
		response, err := c.RoundTripIn(by.room(), r, by.Hint)
		if err == nil || !http1.Repeatable(r, err) || r.Context().Err() != nil {
			return response, err
		}
	}
	c, err := t.connections.connect(r.Context(), o)
	switch {
	case err != nil:
		return nil, err
	case c == nil:
		defer o.set(nil) // unless it was needed
		return o.roundTripHTTP2(r, by.Hint)
	}
	return c.RoundTripIn(by.room(), r, by.Hint)
}

func (o *origin) roundTripHTTP2(r *http.Request, hint Hint) (*http.Response, error) {
	response, err := o.hinted(r, hint)
	_, malformed := errors.AsType[http1.Malformed](err)
	if err == nil || malformed || hasBody(r) || isConnect(err) || errors.Is(err, errNotHTTP2) || errors.Is(err, errOverloaded) {
		return response, err // what goes wrong with a body may be the fault of who sends it
	}
	return nil, &http1.Unanswered{Sent: true, Err: err}
}

// hinted has hint be told of what comes before the answer.
func (o *origin) hinted(r *http.Request, hint Hint) (*http.Response, error) {
	if hint == nil {
		return o.http2.RoundTrip(r)
	}
	before := interim{hint: hint}
	ctx := httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{Got1xxResponse: before.add})
	response, err := o.http2.RoundTrip(r.WithContext(ctx))
	if why := before.end(); why != nil {
		if err == nil {
			_ = response.Body.Close() // nobody wants it any more
		}
		return nil, why
	}
	return response, err
}

// free returns a connection that can be used once more, unless others wait for one.
func (c *connections) free(o *origin) *http1.Conn {
	if c.slots.Busy() {
		return nil
	}
	return o.http1.Take()
}

// connect returns a new connection, or one that has become free, nil for one on which
// HTTP/2 was agreed on: that is kept for dialHTTP2.
func (c *connections) connect(ctx context.Context, o *origin) (*http1.Conn, error) {
	if conn, slot, err := c.reserve(ctx, o, true); !slot {
		return conn, err
	}
	if c.plaintext {
		return c.connectPlaintext(ctx, o)
	}
	conn, socket, err := c.dialTLS(ctx, o.place, "h2", "http/1.1")
	c.charge(socket, err)
	if err != nil {
		return nil, err
	}
	if conn.ConnectionState().NegotiatedProtocol == "h2" {
		o.prefers.Store(true)
		o.set(conn)
		c.slots.Rouse(o)
		return nil, nil
	}
	return o.http1.New(conn, socket), nil
}

func (c *connections) connectPlaintext(ctx context.Context, o *origin) (*http1.Conn, error) {
	socket, err := c.dial(ctx, o.address)
	c.charge(socket, err)
	if err != nil {
		return nil, err
	}
	return o.http1.New(socket, socket), nil
}

// connectAlone returns a new connection that speaks HTTP/1.1 and nothing else.
func (c *connections) connectAlone(ctx context.Context, o *origin) (*http1.Conn, error) {
	if _, _, err := c.reserve(ctx, o, false); err != nil {
		return nil, err
	}
	if c.plaintext {
		return c.connectPlaintext(ctx, o)
	}
	conn, socket, err := c.dialTLS(ctx, o.place, "http/1.1")
	c.charge(socket, err)
	if err != nil {
		return nil, err
	}
	return o.http1.New(conn, socket), nil
}

// Switch is RoundTrip for a request that asks for another protocol, over a
// connection of its own.
func (t *transport) Switch(r *http.Request, at place, by *Call) (*http.Response, error) {
	o, err := t.origin(at)
	if err != nil {
		return nil, err
	}
	c, err := t.connections.connectAlone(r.Context(), o)
	if err != nil {
		return nil, err
	}
	return c.RoundTrip(r, by.Hint)
}

// maxOrigins bounds the endpoints that are remembered though none of them is wanted: those
// that requests of before still go to.
const maxOrigins = 1024

func (t *transport) origin(at place) (*origin, error) {
	if o := t.usual.Load(); o != nil && o.place == at {
		return o, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if o := t.origins[at]; o != nil {
		t.usual.CompareAndSwap(nil, o)
		return o, nil
	}
	if len(t.origins) >= maxOrigins {
		t.usual.Store(nil)
		maps.DeleteFunc(t.origins, func(at place, _ *origin) bool { return !t.connections.wants(at) })
	}
	o, err := t.connections.newOrigin(at)
	if err != nil {
		return nil, err
	}
	if t.closed || !t.connections.wants(at) {
		o.http1.Close()
	}
	t.origins[at] = o
	return o, nil
}

// close closes the connections that no request uses, and has the others not be
// kept. Requests may still be sent.
func (t *transport) close() {
	for _, o := range t.end() {
		o.close()
	}
}

func (t *transport) end() []*origin {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	return slices.Collect(maps.Values(t.origins))
}

// leave closes the connections to endpoints that are not wanted any more, as close does.
func (t *transport) leave() {
	for _, o := range t.unwanted() {
		o.close()
	}
}

func (t *transport) unwanted() (gone []*origin) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.usual.Store(nil)
	for at, o := range t.origins {
		if !t.connections.wants(at) {
			gone = append(gone, o)
			delete(t.origins, at)
		}
	}
	return gone
}

func (o *origin) close() {
	o.http1.Close()
	o.http2.CloseIdleConnections()
	o.set(nil)
}

// set keeps conn for the request that needs it, in place of what was kept.
func (o *origin) set(conn *tls.Conn) {
	if before := o.spare.Swap(conn); before != nil {
		_ = before.Close() // nothing was sent over it
	}
}

// errNotHTTP2 says that an endpoint which preferred HTTP/2 does so no more.
var errNotHTTP2 = errors.New("endpoint does not speak HTTP/2 any more")

// dialHTTP2 connects for http2, which takes whatever it is given for HTTP/2.
func (c *connections) dialHTTP2(ctx context.Context, o *origin) (net.Conn, error) {
	if conn := o.spare.Swap(nil); conn != nil {
		return conn, nil
	}
	if _, _, err := c.reserve(ctx, o, false); err != nil {
		return nil, err
	}
	conn, socket, err := c.dialTLS(ctx, o.place, "h2", "http/1.1")
	c.charge(socket, err)
	if err != nil {
		return nil, err
	}
	if conn.ConnectionState().NegotiatedProtocol != "h2" {
		o.prefers.Store(false)
		_ = conn.Close() // nothing was sent over it
		return nil, errNotHTTP2
	}
	return conn, nil
}
