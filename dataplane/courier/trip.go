package courier

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/internal/identity"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1/proxyv1connect"
)

const (
	// pushWithin bounds a push, with its connection.
	pushWithin = 30 * time.Second
	dialWithin = 10 * time.Second
	// Bounds of the wait before the next attempt.
	firstRetry   = 50 * time.Millisecond
	longestRetry = 5 * time.Second
)

// trip goes from replica to replica. It is for one goroutine.
type trip struct {
	*Courier
	urls      []string // that are still to be tried
	transport *http.Transport
	client    proxyv1connect.RecordServiceClient // nil without a connection
	failing   bool
	spoolNext bool // whose turn it is
}

func newTrip(c *Courier) *trip {
	t := &trip{Courier: c}
	var http2 http.Protocols
	http2.SetHTTP2(true)
	t.transport = &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialWithin}).DialContext,
		TLSClientConfig:     identity.ClientConfig(c.cfg.Identity, identity.Only(c.cfg.ControlPlaneID)),
		TLSHandshakeTimeout: dialWithin,
		Protocols:           &http2,
		DisableCompression:  true,
		IdleConnTimeout:     time.Minute,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
	}
	return t
}

// load is what is pushed at once, and what to do when it was.
type load struct {
	*proxyv1.PushRequest
	done func()
}

// run pushes until ctx ends, and what is left then for a moment.
func (t *trip) run(ctx context.Context) error {
	defer t.transport.CloseIdleConnections()
	for ctx.Err() == nil {
		if l, ok := t.next(); ok {
			t.deliver(ctx, l)
			continue
		}
		select {
		case <-ctx.Done():
		case <-t.spool.Ready():
		case <-t.queue.ready:
			t.gather(ctx)
		}
	}
	t.flush()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	for l, ok := t.next(); ok && last.Err() == nil; l, ok = t.next() {
		t.deliver(last, l)
	}
	if left, _ := t.queue.waiting(); left > 0 {
		t.drop(int64(left))
		t.cfg.Log.ErrorContext(ctx, "decision records were lost: the control plane was away to the end", "records", left)
	}
	return nil
}

// gather waits until sending is worth it.
func (t *trip) gather(ctx context.Context) {
	timer := time.NewTimer(gather)
	defer timer.Stop()
	for !t.queue.brimming() {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case <-t.queue.ready:
		}
	}
}

// next returns what is to be pushed: of the spool and of the queue in turn.
func (t *trip) next() (load, bool) {
	t.spoolNext = !t.spoolNext
	if t.spoolNext {
		if l, ok := t.spooled(); ok {
			return l, true
		}
		return t.queued()
	}
	if l, ok := t.queued(); ok {
		return l, true
	}
	return t.spooled()
}

func (t *trip) queued() (load, bool) {
	c := t.queue.oldest()
	if c == nil {
		return load{}, false
	}
	return load{&proxyv1.PushRequest{
		Instance: t.cfg.Instance, Boot: t.queue.boot[:], FirstSequence: c.first, Decisions: c.records(),
	}, t.queue.drop}, true
}

func (t *trip) spooled() (load, bool) {
	b, ok := t.spool.Take(chunkBytes)
	if !ok {
		return load{}, false
	}
	return load{&proxyv1.PushRequest{
		Instance: t.cfg.Instance, Boot: b.Boot[:], FirstSequence: b.First, Decisions: b.Records,
	}, func() { t.spool.Done(b) }}, true
}

// deliver pushes l until that is answered, or ctx ends.
func (t *trip) deliver(ctx context.Context, l load) {
	for wait := firstRetry; ctx.Err() == nil; wait = min(2*wait, longestRetry) {
		refused, err := t.push(ctx, l.PushRequest)
		t.metrics.pushes.WithLabelValues(result(err)).Inc()
		switch {
		case err == nil:
			t.arrived(ctx, l, refused)
			return
		case connect.CodeOf(err) == connect.CodeInvalidArgument && connect.IsWireError(err):
			t.cfg.Log.ErrorContext(ctx, "decision records were lost: the control plane does not understand them", "records", len(l.GetDecisions()), "err", err)
			t.drop(int64(len(l.GetDecisions())))
			l.done()
			return
		}
		t.failed(ctx, err)
		pause(ctx, rand.N(wait)) //nolint:gosec // spreads load, hides nothing
	}
}

func result(err error) string {
	if err == nil {
		return "arrived"
	}
	return "failed"
}

func (t *trip) arrived(ctx context.Context, l load, refused int64) {
	t.metrics.arrived.Add(float64(int64(len(l.GetDecisions())) - refused))
	if refused > 0 {
		t.drop(refused)
	}
	if t.failing {
		t.failing = false
		t.cfg.Log.InfoContext(ctx, "decision records arrive at the control plane again")
	}
	l.done()
}

// failed goes elsewhere, and says once in a row that the control plane is away.
func (t *trip) failed(ctx context.Context, err error) {
	t.client = nil
	t.transport.CloseIdleConnections()
	if !t.failing {
		t.failing = true
		t.cfg.Log.WarnContext(ctx, "decision records do not arrive at the control plane", "err", err)
	}
}

var errAnswer = errors.New("the control plane kept other records than it was sent")

// push returns how many records were refused for good.
func (t *trip) push(ctx context.Context, r *proxyv1.PushRequest) (refused int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, pushWithin)
	defer cancel()
	if !t.cfg.Identity.Ready() {
		if err := t.cfg.Identity.Wait(ctx); err != nil {
			return 0, fmt.Errorf("wait for an identity: %w", err)
		}
	}
	res, err := t.connected().Push(ctx, connect.NewRequest(r))
	if err != nil {
		return 0, err
	}
	n := int64(len(r.GetDecisions()))
	if res.Msg.GetSequence() < r.GetFirstSequence()+n-1 || res.Msg.GetRefused() < 0 || res.Msg.GetRefused() > n {
		return 0, errAnswer
	}
	return res.Msg.GetRefused(), nil
}

// connected returns a client of the replica that we are at, or of the next one.
func (t *trip) connected() proxyv1connect.RecordServiceClient {
	if t.client != nil {
		return t.client
	}
	if len(t.urls) == 0 {
		t.urls = slices.Clone(t.cfg.ControlPlanes)
		rand.Shuffle(len(t.urls), func(i, j int) { t.urls[i], t.urls[j] = t.urls[j], t.urls[i] }) //nolint:gosec // spreads load, hides nothing
	}
	client := &http.Client{Transport: t.transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return errors.New("control planes do not redirect")
	}}
	t.client = proxyv1connect.NewRecordServiceClient(client, t.urls[0], connect.WithReadMaxBytes(64<<10), connect.WithAcceptCompression("gzip", nil, nil))
	t.urls = t.urls[1:]
	return t.client
}

// pause waits, but not beyond ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
