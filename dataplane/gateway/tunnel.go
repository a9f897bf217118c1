package gateway

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/sallyport/sallyport/dataplane/gateway/wire"
)

// halfClosedTime is how long one side of a WebSocket may stay after the other
// has left: it can say nothing that anybody waits for.
const halfClosedTime = 2 * time.Second

// tunnel carries a WebSocket. It has two goroutines for as long as it lives:
// the handler's, and one for the other direction.
type tunnel struct {
	client   *wire.Conn
	upstream io.ReadWriteCloser
	down, up direction // to the client, and from it
	closed   func() *Cause

	first sync.Once   // of the sides that leave
	gone  *side       // it, set by first
	timer *time.Timer // set by first
}

// newTunnel takes over both connections. closed says why it is to be closed,
// once its context has ended.
func newTunnel(client *wire.Conn, upstream io.ReadWriteCloser, closed func() *Cause) *tunnel {
	t := &tunnel{client: client, upstream: upstream, closed: closed}
	near := &side{client, client.CloseWrite, ReasonClientGone}
	far := &side{upstream, func() error { return nil }, ReasonInterrupted}
	if w, ok := upstream.(interface{ CloseWrite() error }); ok {
		far.closeWrite = w.CloseWrite
	}
	t.down.from, t.down.to = far, near
	t.up.from, t.up.to = near, far
	return t
}

// run carries until both sides have left, or ctx ends. Then both connections
// are closed, and nothing runs any more.
func (t *tunnel) run(ctx context.Context) error {
	told := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(told)
		t.close()
	})
	var other sync.WaitGroup
	other.Go(func() { t.carry(&t.up) })
	t.carry(&t.down)
	other.Wait()
	if !stop() {
		<-told
	}
	t.timer.Stop()
	t.cut()
	_, closedDown := t.down.carried()
	_, closedUp := t.up.carried()
	if closedDown || closedUp {
		return nil
	}
	return failure{reason: t.gone.reason}
}

func (t *tunnel) carry(d *direction) {
	who, err := d.run()
	t.limit(who, halfClosedTime) // before the other side hears of it, and leaves as well
	d.shut()
	if err != nil && who == t.down.to {
		t.cut() // there is nobody to carry anything to
	}
}

// limit says that a side leaves, and bounds how long the other may stay. Only
// the first one counts.
func (t *tunnel) limit(who *side, within time.Duration) {
	t.first.Do(func() {
		t.gone = who
		t.timer = time.AfterFunc(within, t.cut)
	})
}

// close tells both sides that the tunnel is closed, as far as they listen.
func (t *tunnel) close() {
	t.limit(t.down.to, closePatience)
	why := t.closed()
	if why == nil {
		t.cut()
		return
	}
	t.client.Hurry(closePatience)
	code := uint16(policyViolation)
	if why.Status == http.StatusServiceUnavailable {
		code = goingAway
	}
	// A client may leave as soon as it is told: what its upstream is told is said
	// before.
	farewell := closeFrame(goingAway, why.Reason, true)
	t.up.prepare(farewell)
	hopeful := t.down.close(closeFrame(code, why.inWords(), false))
	t.up.stop(farewell)
	if !hopeful {
		t.cut()
	}
}

// cut closes both connections. It may be called again.
func (t *tunnel) cut() {
	t.client.Cut()
	_ = t.upstream.Close() // what was to be said was said
}
