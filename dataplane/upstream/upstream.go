package upstream

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/textproto"
	"sync/atomic"

	"github.com/sallyport/sallyport/dataplane/upstream/http1"
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

	// transport is nil until the first request, and replaced by renew.
	transport atomic.Pointer[transport]
}

// endpoint is one place to connect to.
type endpoint struct {
	address string
	// avoided is the time, in Unix nanoseconds, until which others come first.
	avoided atomic.Int64
}

// Name returns the upstream's name.
func (u *Upstream) Name() Name { return u.spec.Key() }

// Hint is told, while Send waits for an answer, of what comes before it: a status
// below 200 and its fields. Its error ends the request. None is told when it is nil.
type Hint = func(status int, fields textproto.MIMEHeader) error

// Send sends r to one of the endpoints and returns its answer, the endpoint
// that was tried last, and an *Error when there is no answer. It sets Scheme
// and Host of r.URL; all else, above all Opaque and Host, is sent as it is. An
// endpoint that cannot be connected to has not seen the request, so the next
// one is tried, each once: until then r.Body is closed but not read.
//
// The caller closes the answer's body, as with http.RoundTripper.
func (u *Upstream) Send(r *http.Request, hint Hint) (*http.Response, string, error) {
	return u.send(r, hint, (*transport).RoundTrip)
}

// Switch is Send for a request that asks for another protocol, which only
// HTTP/1.1 can be changed to. The body of an answer with status 101 is an
// io.ReadWriteCloser with a CloseWrite, and belongs to the caller alone: the end
// of r's context does not end it. Writes fail when the endpoint takes nothing
// for a minute.
func (u *Upstream) Switch(r *http.Request, hint Hint) (*http.Response, string, error) {
	return u.send(r, hint, (*transport).Switch)
}

func (u *Upstream) send(r *http.Request, hint Hint, over way) (*http.Response, string, error) {
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
		response, err := over(u.current(), r, hint)
		switch {
		case err == nil:
			return response, e.address, nil
		case !isConnect(err) || n == len(u.endpoints)-1 || r.Context().Err() != nil:
			return nil, e.address, explain(err)
		}
	}
}

// way is how a transport sends a request.
type way func(*transport, *http.Request, Hint) (*http.Response, error)

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

func (u *Upstream) current() *transport {
	for {
		if t := u.transport.Load(); t != nil {
			return t
		}
		u.transport.CompareAndSwap(nil, u.newTransport())
	}
}

// renew lets new requests have new connections. Old ones are closed when no
// request uses them any more.
func (u *Upstream) renew() {
	if old := u.transport.Swap(nil); old != nil {
		old.close()
	}
}

// retire closes connections as soon as no request uses them.
func (u *Upstream) retire() {
	if t := u.transport.Load(); t != nil {
		t.close()
	}
}

func (u *Upstream) dial(ctx context.Context, address string) (*http1.Socket, error) {
	d := net.Dialer{Timeout: u.pool.connectTimeout}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err := u.connected(ctx, address, err); err != nil {
		return nil, err
	}
	return http1.NewSocket(conn), nil
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
