package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"sync/atomic"
	"syscall"

	"github.com/sallyport/sallyport/dataplane/upstream/http1"
	"github.com/sallyport/sallyport/dataplane/upstream/slots"
)

// connections are those to the endpoints of an upstream. Specs that follow on one
// another share them, unless they connect in other ways.
type connections struct {
	pool      *Pool
	upstream  string
	plaintext bool
	tls       *TLS
	spiffe    *SPIFFE
	roots     *roots // nil for the system's

	slots slots.Slots

	// transport is nil until the first request, and replaced by renew.
	transport atomic.Pointer[transport]
	// wanted are the places that connections are kept to; nil for none.
	wanted atomic.Pointer[map[place]bool]
}

func (p *Pool) newConnections(s *Spec) *connections {
	c := &connections{pool: p, upstream: s.Key().String(), plaintext: s.Plaintext, tls: s.TLS, spiffe: s.SPIFFE}
	if s.TLS != nil && s.TLS.CAFile != "" {
		c.roots = &roots{file: s.TLS.CAFile}
	}
	return c
}

// connectAlike reports whether connections of the one can be the other's.
func connectAlike(a, b *Spec) bool {
	return a.Plaintext == b.Plaintext && reflect.DeepEqual(a.TLS, b.TLS) && reflect.DeepEqual(a.SPIFFE, b.SPIFFE)
}

// identified returns why we cannot prove who we are to a SPIFFE peer, nil if we can. It
// is asked for each request: connections outlive what they were made with.
func (c *connections) identified() error {
	if c.spiffe == nil {
		return nil
	}
	_, err := c.pool.identity.SVID()
	return err
}

func (c *connections) current() *transport {
	for {
		if t := c.transport.Load(); t != nil {
			return t
		}
		c.transport.CompareAndSwap(nil, &transport{connections: c, origins: map[place]*origin{}})
	}
}

// renew lets new requests have new connections. Old ones are closed when no
// request uses them any more.
func (c *connections) renew() {
	if old := c.transport.Swap(nil); old != nil {
		old.close()
	}
}

// want says which places connections are kept to from now on. To others, leave closes
// them.
func (c *connections) want(places map[place]bool) { c.wanted.Store(&places) }

// leave closes the connections to where none are wanted as soon as no request uses them,
// or, with HTTP/2, a minute and a half later.
func (c *connections) leave() {
	if t := c.transport.Load(); t != nil {
		t.leave()
	}
}

// close closes all connections in the same way.
func (c *connections) close() {
	if t := c.transport.Load(); t != nil {
		t.close()
	}
}

func (c *connections) wants(at place) bool {
	wanted := c.wanted.Load()
	return wanted != nil && (*wanted)[at]
}

// dial connects to an address, or to those that a name stands for. Plaintext does not
// leave the machine, whatever a name of it stands for.
func (c *connections) dial(ctx context.Context, address string) (*http1.Socket, error) {
	d := net.Dialer{Timeout: c.pool.connectTimeout}
	if c.plaintext {
		d.Control = onlyLoopback
	}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, c.unconnected(ctx, address, err)
	}
	return http1.NewSocket(conn), nil
}

// onlyLoopback is net.Dialer's Control.
func onlyLoopback(_, address string, _ syscall.RawConn) error {
	if a, err := netip.ParseAddrPort(address); err != nil || !a.Addr().Unmap().IsLoopback() {
		return fmt.Errorf("%s is not on this machine, which plaintext does not leave", address)
	}
	return nil
}

// unconnected counts a connection that could not be made, unless it was given up.
func (c *connections) unconnected(ctx context.Context, address string, err error) error {
	if ctx.Err() == nil {
		c.pool.metrics.failures.WithLabelValues(c.upstream).Inc()
	}
	return &connectError{address: address, err: err}
}

// connectError is why there is no connection, over which nothing was sent.
type connectError struct {
	address string
	err     error
	ours    bool // the fault, and not the endpoint's
}

func (e *connectError) Error() string { return "connect to " + e.address + ": " + e.err.Error() }
func (e *connectError) Unwrap() error { return e.err }

func isConnect(err error) bool {
	var c *connectError
	return errors.As(err, &c)
}
