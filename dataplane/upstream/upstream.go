package upstream

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// Bounds and habits of the connections to an upstream.
const (
	maxResponseHeader = 64 << 10
	maxIdlePerHost    = 256
	idleTimeout       = 90 * time.Second
	continueTimeout   = time.Second
	aliveAfter        = 30 * time.Second // without a frame of HTTP/2
	aliveWithin       = 15 * time.Second
	writeTimeout      = time.Minute
)

// Upstream sends requests to the endpoints of one Spec. It is safe for
// concurrent use.
type Upstream struct {
	spec   Spec
	name   string
	pool   *Pool
	scheme string
	roots  *roots // nil for the system's

	endpoints []*endpoint
	byAddress map[string]*endpoint
	turn      atomic.Uint32

	requests, switches line
}

// line is the transport for one kind of request.
type line struct {
	// transport is nil until the first request, and replaced by renew.
	transport atomic.Pointer[http.Transport]
}

// endpoint is one place to connect to.
type endpoint struct {
	address string
	// avoided is the time, in Unix nanoseconds, until which others come first.
	avoided atomic.Int64
}

// Name returns the upstream's name.
func (u *Upstream) Name() Name { return u.spec.Key() }

// Send sends r to one of the endpoints and returns its answer, the endpoint
// that was tried last, and an *Error when there is no answer. It sets Scheme
// and Host of r.URL; all else, above all Opaque and Host, is sent as it is. An
// endpoint that cannot be connected to has not seen the request, so the next
// one is tried, each once: until then r.Body is closed but not read.
//
// The caller closes the answer's body, as with http.RoundTripper.
func (u *Upstream) Send(r *http.Request) (*http.Response, string, error) {
	return u.send(r, &u.requests, u.newTransport)
}

// Switch is Send for a request that asks for another protocol, which only
// HTTP/1.1 can be changed to. The body of an answer with status 101 is an
// io.ReadWriteCloser with a CloseWrite, and belongs to the caller alone: the end
// of r's context does not end it. Writes fail when the endpoint takes nothing
// for a minute.
func (u *Upstream) Switch(r *http.Request) (*http.Response, string, error) {
	return u.send(r, &u.switches, u.newSwitchingTransport)
}

func (u *Upstream) send(r *http.Request, l *line, build func() *http.Transport) (*http.Response, string, error) {
	if err := u.identified(); err != nil {
		return nil, "", err
	}
	var tried tried
	for n := 0; ; n++ {
		e := u.next(&tried)
		if e == nil {
			return nil, "", explain(errNoEndpoint)
		}
		if n > 0 {
			r = again(r)
		}
		r.URL.Scheme, r.URL.Host = u.scheme, e.address
		response, err := l.current(build).RoundTrip(r)
		switch {
		case err == nil:
			return response, e.address, nil
		case !isConnect(err) || n == len(u.endpoints)-1 || r.Context().Err() != nil:
			return nil, e.address, explain(err)
		}
	}
}

var errNoEndpoint = errors.New("upstream has no endpoints")

// again is r for another attempt: a transport may look at what it was given for
// longer than it takes to fail.
func again(r *http.Request) *http.Request {
	next, target := *r, *r.URL
	next.URL = &target
	return &next
}

// tried is a set of endpoints by index, of the at most 256 of an upstream;
// those beyond are never tried.
type tried [4]uint64

func (t *tried) add(i int)      { t[i/64] |= 1 << (i % 64) }
func (t *tried) has(i int) bool { return t[i/64]>>(i%64)&1 != 0 }

// next returns the endpoint whose turn it is, avoided ones last; nil when all
// were tried.
func (u *Upstream) next(tried *tried) *endpoint {
	count := min(len(u.endpoints), 64*len(tried))
	if count == 0 {
		return nil
	}
	now, last := u.pool.now().UnixNano(), -1
	first := int(u.turn.Add(1) % uint32(count))
	for i := range count {
		i = (first + i) % count
		if tried.has(i) {
			continue
		}
		if last = i; u.endpoints[i].avoided.Load() <= now {
			break
		}
	}
	if last < 0 {
		return nil
	}
	tried.add(last)
	return u.endpoints[last]
}

// identified reports whether we can prove who we are to a SPIFFE peer. It is
// asked for each request: connections outlive what they were made with.
func (u *Upstream) identified() error {
	if u.spec.SPIFFE == nil {
		return nil
	}
	if _, err := u.pool.identity.SVID(); err != nil {
		return explain(err)
	}
	return nil
}

func (l *line) current(build func() *http.Transport) *http.Transport {
	if t := l.transport.Load(); t != nil {
		return t
	}
	l.transport.CompareAndSwap(nil, build())
	return l.transport.Load()
}

// renew lets new requests have new connections. Old ones are closed when no
// request uses them any more.
func (u *Upstream) renew() {
	u.requests.renew()
	u.switches.renew()
}

func (l *line) renew() {
	if old := l.transport.Swap(nil); old != nil {
		old.CloseIdleConnections()
	}
}

func (u *Upstream) retire() {
	u.requests.retire()
	u.switches.retire()
}

func (l *line) retire() {
	if t := l.transport.Load(); t != nil {
		t.CloseIdleConnections()
	}
}

// newTransport has neither a proxy of the environment nor compression of its
// own: what is sent and received is the client's business.
func (u *Upstream) newTransport() *http.Transport {
	return &http.Transport{
		DialContext:            u.dial,
		DialTLSContext:         u.dialTLS,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    maxIdlePerHost,
		IdleConnTimeout:        idleTimeout,
		ExpectContinueTimeout:  continueTimeout,
		MaxResponseHeaderBytes: maxResponseHeader,
		HTTP2: &http.HTTP2Config{
			SendPingTimeout: aliveAfter, PingTimeout: aliveWithin, WriteByteTimeout: aliveAfter,
		},
	}
}

// newSwitchingTransport speaks HTTP/1.1 alone. Its connections bound writes, as
// nobody else can once they have changed their protocol.
func (u *Upstream) newSwitchingTransport() *http.Transport {
	t := u.newTransport()
	t.ForceAttemptHTTP2, t.HTTP2 = false, nil
	t.DialContext = patient(u.dial)
	t.DialTLSContext = patient(func(ctx context.Context, network, address string) (net.Conn, error) {
		return u.dialTLSFor(ctx, network, address, "http/1.1")
	})
	return t
}

type dial func(ctx context.Context, network, address string) (net.Conn, error)

func patient(connect dial) dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := connect(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return patientConn{conn}, nil
	}
}

// patientConn is a connection whose every write has a deadline.
type patientConn struct{ net.Conn }

func (c patientConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// CloseWrite tells the endpoint that nothing more will come.
func (c patientConn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

func (u *Upstream) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: u.pool.connectTimeout}
	conn, err := d.DialContext(ctx, network, address)
	return conn, u.connected(ctx, address, err)
}

// connected remembers how connecting to an endpoint went. Nobody is blamed for
// connections that were given up.
func (u *Upstream) connected(ctx context.Context, address string, err error) error {
	e := u.byAddress[address]
	switch {
	case err == nil:
		if e != nil {
			e.avoided.Store(0)
		}
		return nil
	case ctx.Err() == nil:
		u.pool.failures.WithLabelValues(u.name).Inc()
		if e != nil {
			e.avoided.Store(u.pool.now().Add(u.pool.avoid).UnixNano())
		}
	}
	return &connectError{address, err}
}

// connectError is why there is no connection, over which nothing was sent.
type connectError struct {
	address string
	err     error
}

func (e *connectError) Error() string { return "connect to " + e.address + ": " + e.err.Error() }
func (e *connectError) Unwrap() error { return e.err }

func isConnect(err error) bool {
	var c *connectError
	return errors.As(err, &c)
}
