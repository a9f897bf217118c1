package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/internal/failpoint"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1/proxyv1connect"
)

const (
	// silence is how long a proxy may say nothing: three heartbeats and a half.
	silence = 35 * time.Second
	// sendWithin is how long a proxy may take to receive a message before it is
	// cut off.
	sendWithin = 10 * time.Second
	// ackWithin is how long a proxy may take to apply an update before it is cut
	// off.
	ackWithin = time.Minute
	// pendingRetry is when a proxy that is not admitted asks again.
	pendingRetry = 2 * time.Second
	// reconnectWithin spreads the proxies of a replica that ends.
	reconnectWithin = time.Second
)

// Config is what a Service needs. All fields are required.
type Config struct {
	Hub      *Hub
	Registry *registry.Registry
	Log      *slog.Logger
}

// Service serves proxies. Use Handler to mount it.
type Service struct {
	hub      *Hub
	registry *registry.Registry
	log      *slog.Logger

	drained sync.Once
	drain   chan struct{} // closed when this replica is about to end
}

var _ proxyv1connect.ProxyServiceHandler = (*Service)(nil)

// NewService returns a service that is ready to be mounted.
func NewService(c Config) *Service {
	return &Service{hub: c.Hub, registry: c.Registry, log: c.Log, drain: make(chan struct{})}
}

// Drain asks every proxy to connect elsewhere and ends its stream.
func (s *Service) Drain() { s.drained.Do(func() { close(s.drain) }) }

// peer is the other end of a connection, for the life of one call.
type peer struct {
	id      identity.ID
	expires time.Time
	control *http.ResponseController
}

type peerKey struct{}

// Handler returns the path and the handler of the service. Calls of a peer
// without a verified SPIFFE ID are refused before anything of them is read.
// Nothing is compressed: see docs/decisions.
func (s *Service) Handler(opts ...connect.HandlerOption) (string, http.Handler) {
	opts = append(opts,
		connect.WithReadMaxBytes(4<<20),
		connect.WithCompression("gzip", nil, nil),
	)
	path, next := proxyv1connect.NewProxyServiceHandler(s, opts...)
	return path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := identity.PeerID(r.TLS)
		if err != nil {
			http.Error(w, "a client certificate with a SPIFFE ID is required", http.StatusUnauthorized)
			return
		}
		p := peer{id: id, expires: r.TLS.PeerCertificates[0].NotAfter, control: http.NewResponseController(w)}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), peerKey{}, p)))
	})
}

func peerOf(ctx context.Context) (peer, error) {
	p, ok := ctx.Value(peerKey{}).(peer)
	if !ok {
		return peer{}, connect.NewError(connect.CodeUnauthenticated, errors.New("no verified peer"))
	}
	return p, nil
}

// Register implements proxyv1connect.ProxyServiceHandler.
func (s *Service) Register(ctx context.Context, req *connect.Request[proxyv1.RegisterRequest]) (*connect.Response[proxyv1.RegisterResponse], error) {
	p, err := peerOf(ctx)
	if err != nil {
		return nil, err
	}
	if !s.registry.Ready() {
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("enrollments are not known yet"))
	}
	admission, err := s.registry.Register(registry.Registration{
		SPIFFEID:        string(p.id),
		Instance:        req.Msg.GetInstance(),
		Build:           req.Msg.GetBuild(),
		ProtocolVersion: req.Msg.GetProtocolVersion(),
	})
	switch {
	case errors.Is(err, registry.ErrNotAdmitted):
		s.log.InfoContext(ctx, "proxy is pending", "spiffe_id", string(p.id), "err", err)
		return connect.NewResponse(&proxyv1.RegisterResponse{
			Admission:  proxyv1.Admission_ADMISSION_PENDING,
			RetryAfter: durationpb.New(pendingRetry),
		}), nil
	case err != nil:
		return nil, connect.NewError(connect.CodeResourceExhausted, err)
	}
	return connect.NewResponse(&proxyv1.RegisterResponse{
		Admission:   proxyv1.Admission_ADMISSION_ADMITTED,
		Environment: admission.Environment,
	}), nil
}

// Stream implements proxyv1connect.ProxyServiceHandler.
func (s *Service) Stream(ctx context.Context, conn *connect.BidiStream[proxyv1.StreamRequest, proxyv1.StreamResponse]) error {
	p, err := peerOf(ctx)
	if err != nil {
		return err
	}
	if err := p.control.SetReadDeadline(time.Now().Add(sendWithin)); err != nil {
		return connect.NewError(connect.CodeInternal, errors.New("internal"))
	}
	first, err := conn.Receive()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil {
		return connect.NewError(connect.CodeInvalidArgument, errors.New("the first message is not a hello"))
	}
	admission, err := s.registry.Admit(string(p.id))
	if err != nil {
		return connect.NewError(connect.CodePermissionDenied, err)
	}
	// A certificate that has expired proves nothing any more.
	ctx, cancel := context.WithDeadline(ctx, p.expires)
	defer cancel()
	session := s.registry.Open(registry.Registration{SPIFFEID: string(p.id), Instance: hello.GetInstance()}, admission)
	defer session.Close()
	t := &talk{
		Service:   s,
		conn:      conn,
		peer:      p,
		admission: admission,
		session:   session,
		log:       s.log.With("proxy", string(p.id)+"#"+hello.GetInstance(), "environment", admission.Environment),
		said:      make(chan struct{}, 1),
	}
	return t.run(ctx, hello)
}

// talk is one stream. Its receiver runs in the goroutine of the call, its
// sender in another, and run joins them.
type talk struct {
	*Service
	conn      *connect.BidiStream[proxyv1.StreamRequest, proxyv1.StreamResponse]
	peer      peer
	admission registry.Admission
	session   *registry.Session
	log       *slog.Logger
	said      chan struct{} // wakes the sender after an answer

	mu sync.Mutex
	// pushed is the snapshot that the proxy was sent and has not answered yet.
	pushed   *snapshot.Snapshot
	pushedAt time.Time
	// held is the snapshot that the proxy says it enforces, nil if unknown here.
	held *snapshot.Snapshot
	// heldAt is where the proxy says that it is, known or not.
	heldAt snapshot.Position
}

func (t *talk) run(ctx context.Context, hello *proxyv1.Hello) error {
	if ack := hello.GetCurrent(); ack != nil {
		t.acked(ctx, ack)
	}
	t.log.InfoContext(ctx, "proxy connected", "revision", hello.GetCurrent().GetRevision())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sent := make(chan error, 1)
	go func() {
		err := t.send(ctx)
		// The receiver waits in a read; this ends it.
		_ = t.peer.control.SetReadDeadline(time.Now())
		sent <- err
	}()
	received := t.receive(ctx)
	cancel()
	err := <-sent
	if err == nil || errors.Is(err, context.Canceled) {
		err = received
	}
	t.log.InfoContext(ctx, "proxy disconnected", "err", err)
	return err
}

// receive takes what the proxy says until the stream ends.
func (t *talk) receive(ctx context.Context) error {
	for {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := t.peer.control.SetReadDeadline(time.Now().Add(silence)); err != nil {
			return connect.NewError(connect.CodeInternal, errors.New("internal"))
		}
		m, err := t.conn.Receive()
		if err != nil {
			return connect.NewError(connect.CodeUnavailable, errors.New("the stream has ended"))
		}
		switch m := m.GetMessage().(type) {
		case *proxyv1.StreamRequest_Ack:
			t.acked(ctx, m.Ack)
		case *proxyv1.StreamRequest_Refusal:
			if err := t.refused(ctx, m.Refusal); err != nil {
				return err
			}
		case *proxyv1.StreamRequest_Heartbeat:
			t.session.Beat(m.Heartbeat)
		case *proxyv1.StreamRequest_Hello:
			return connect.NewError(connect.CodeInvalidArgument, errors.New("a second hello"))
		}
	}
}

func (t *talk) acked(ctx context.Context, ack *proxyv1.Ack) {
	failpoint.Hit("stream.acked")
	var known *snapshot.Snapshot
	if digest, ok := snapshot.ParseDigest(ack.GetHeadDigest()); ok {
		known = t.hub.Find(t.admission.Environment, digest)
	}
	t.mu.Lock()
	t.held = known
	t.heldAt = snapshot.Position{Epoch: snapshot.Epoch(ack.GetEpoch()), Revision: snapshot.Revision(ack.GetRevision())}
	if t.pushed != nil && !t.pushed.Head().Position().After(t.heldAt) {
		t.pushed = nil
	}
	t.mu.Unlock()
	enforcement := t.session.Acked(ack, known)
	t.log.DebugContext(ctx, "ack received", "revision", ack.GetRevision(), "enforcement", enforcement.String())
	t.wake()
}

// refused makes the next push a full snapshot. A proxy that refuses that as
// well has to come again: it would refuse it for ever.
func (t *talk) refused(ctx context.Context, refusal *proxyv1.Refusal) error {
	t.log.ErrorContext(ctx, "update was refused by the proxy", "revision", refusal.GetRevision(),
		"reason", refusal.GetReason(), "err", refusal.GetDetail())
	t.session.Refused(refusal)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pushed == nil || t.held == nil {
		return connect.NewError(connect.CodeFailedPrecondition, errors.New("a full snapshot was refused"))
	}
	t.pushed, t.held = nil, nil
	t.wake()
	return nil
}

func (t *talk) wake() {
	select {
	case t.said <- struct{}{}:
	default:
	}
}

// send pushes what is new until ctx ends, the proxy is no longer admitted, or
// it is too slow.
func (t *talk) send(ctx context.Context) error {
	var confirmed *proxyv1.SignedFreshness
	slow := time.NewTicker(time.Second)
	defer slow.Stop()
	for {
		state := t.hub.State(t.admission.Environment)
		if state.Freshness != nil && state.Freshness != confirmed {
			if err := t.say(&proxyv1.StreamResponse{Lane: &proxyv1.StreamResponse_Freshness{Freshness: state.Freshness}}); err != nil {
				return err
			}
			confirmed = state.Freshness
		}
		if err := t.push(ctx, state.Snapshot); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return t.ended(ctx)
		case <-t.drain:
			return t.reconnect()
		case <-t.admission.Changed:
			if err := t.readmit(); err != nil {
				return err
			}
		case <-state.Changed:
		case <-t.said:
		case <-slow.C:
			if t.overdue() {
				return connect.NewError(connect.CodeResourceExhausted, errors.New("the last update was not acknowledged in time"))
			}
		}
	}
}

func (t *talk) ended(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return connect.NewError(connect.CodeUnavailable, errors.New("the client certificate has expired"))
	}
	return ctx.Err()
}

func (t *talk) overdue() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pushed != nil && time.Since(t.pushedAt) > ackWithin
}

// readmit ends the stream unless the proxy still belongs where it is.
func (t *talk) readmit() error {
	a, err := t.registry.Admit(string(t.peer.id))
	switch {
	case err != nil:
		return connect.NewError(connect.CodePermissionDenied, err)
	case a.Environment != t.admission.Environment:
		return connect.NewError(connect.CodeUnavailable, errors.New("the proxy now belongs to environment "+a.Environment))
	}
	t.admission = a
	return nil
}

func (t *talk) reconnect() error {
	directive := &proxyv1.Directive{Directive: &proxyv1.Directive_Reconnect{
		Reconnect: &proxyv1.Reconnect{Within: durationpb.New(reconnectWithin)},
	}}
	if err := t.say(&proxyv1.StreamResponse{Lane: &proxyv1.StreamResponse_Directive{Directive: directive}}); err != nil {
		return err
	}
	return connect.NewError(connect.CodeUnavailable, errors.New("this replica is ending"))
}

// push sends what leads to next, unless the proxy has it, or has not answered
// the last push yet. What is merged meanwhile goes with the next one.
func (t *talk) push(ctx context.Context, next *snapshot.Snapshot) error {
	t.mu.Lock()
	held, busy := t.held, t.pushed != nil
	due := next != nil && !busy && next.Head().Position().After(t.heldAt)
	if due {
		t.pushed, t.pushedAt = next, time.Now()
	}
	t.mu.Unlock()
	if !due {
		return nil
	}
	for _, u := range t.hub.Updates(held, next) {
		if err := t.say(&proxyv1.StreamResponse{Lane: &proxyv1.StreamResponse_Update{Update: u}}); err != nil {
			return err
		}
	}
	failpoint.Hit("stream.pushed")
	t.log.DebugContext(ctx, "update pushed", "revision", next.Head().Revision, "full", held == nil)
	return nil
}

// say sends one message, or cuts the proxy off.
func (t *talk) say(m *proxyv1.StreamResponse) error {
	if err := t.peer.control.SetWriteDeadline(time.Now().Add(sendWithin)); err != nil {
		return connect.NewError(connect.CodeInternal, errors.New("internal"))
	}
	if err := t.conn.Send(m); err != nil {
		return connect.NewError(connect.CodeUnavailable, fmt.Errorf("send to proxy: %w", err))
	}
	// The deadline would end the stream even when nothing is being sent.
	if err := t.peer.control.SetWriteDeadline(time.Time{}); err != nil {
		return connect.NewError(connect.CodeInternal, errors.New("internal"))
	}
	return nil
}
