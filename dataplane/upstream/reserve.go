package upstream

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/sallyport/sallyport/dataplane/upstream/http1"
)

// reserve returns when there may be one more connection: with slot, and charge is to be
// called for it; or without. If shares, then also when another one will do: conn, that has
// become free, or one over HTTP/2, for which conn is nil.
func (c *connections) reserve(ctx context.Context, o *origin, shares bool) (conn *http1.Conn, slot bool, err error) {
	if c.slots.Take() {
		return nil, true, nil
	}
	w, err := c.slots.Join(o)
	if err != nil {
		c.pool.metrics.overflow.WithLabelValues(c.upstream, "pending").Inc()
		return nil, false, fmt.Errorf("%w: %w", errOverloaded, err)
	}
	defer w.Leave()
	for {
		if shares && o.prefers.Load() {
			return nil, false, nil
		}
		if err := w.Wait(ctx); err != nil {
			return nil, false, fmt.Errorf("%w: %w", errOverloaded, err)
		}
		if shares {
			if conn := o.http1.Take(); conn != nil {
				return conn, false, nil
			}
		}
		if w.Take() {
			return nil, true, nil
		}
		c.makeRoom(o, shares)
		if w.Take() {
			return nil, true, nil
		}
	}
}

// charge has a connection take a slot until it is closed, and none if there is none.
func (c *connections) charge(socket *http1.Socket, err error) {
	if err != nil {
		c.slots.Return()
		return
	}
	socket.OnClose(c.slots.Return)
}

// makeRoom closes a connection that no request uses. Those to o are left alone if
// they would do.
func (c *connections) makeRoom(o *origin, shares bool) {
	t := c.transport.Load()
	if t == nil {
		return
	}
	all := t.all()
	for _, other := range all {
		if (other != o || !shares) && other.http1.Drop() {
			return
		}
	}
	for _, other := range all {
		if other != o {
			other.http2.CloseIdleConnections()
		}
	}
}

func (t *transport) all() []*origin {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Values(t.origins))
}
