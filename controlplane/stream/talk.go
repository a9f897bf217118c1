package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/internal/failpoint"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// talk is one stream. Its receiver runs in the goroutine of the call, its
// sender in another, and run joins them.
type talk struct {
	*Service
	conn        *connect.BidiStream[proxyv1.StreamRequest, proxyv1.StreamResponse]
	control     *http.ResponseController
	id          string // the peer's SPIFFE ID
	environment string
	session     *registry.Session
	log         *slog.Logger
	said        chan struct{} // wakes the sender after an answer

	mu sync.Mutex
	// pushed is the snapshot that the proxy was sent and has not answered yet;
	// full says whether it was sent whole.
	pushed   *snapshot.Snapshot
	pushedAt time.Time
	full     bool
	// ack is the last one. held is the snapshot that it is about, nil if that is
	// not known here.
	ack  *proxyv1.Ack
	held *snapshot.Snapshot
	// refused says that the last update was: the next one is sent whole.
	refused bool
}

func (t *talk) run(ctx context.Context, hello *proxyv1.Hello, admissions <-chan struct{}) error {
	if ack := hello.GetCurrent(); ack != nil {
		t.acked(ctx, ack)
	}
	t.log.InfoContext(ctx, "proxy connected", "revision", hello.GetCurrent().GetRevision())
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		end(t.send(ctx, admissions))
		// The receiver waits in a read; this ends it, and it looks at ctx before
		// it waits in another.
		_ = t.control.SetReadDeadline(time.Now())
	}()
	end(t.receive(ctx))
	<-sent
	err := context.Cause(ctx)
	t.log.InfoContext(ctx, "proxy disconnected", "err", err)
	if connectErr := new(connect.Error); errors.As(err, &connectErr) {
		return err
	}
	return connect.NewError(connect.CodeUnavailable, err)
}

// receive takes what the proxy says until the stream ends.
func (t *talk) receive(ctx context.Context) error {
	for {
		if err := t.control.SetReadDeadline(time.Now().Add(t.silence)); err != nil {
			return fmt.Errorf("set deadline: %w", err)
		}
		if ctx.Err() != nil { // looked at after the deadline was set: see run
			return context.Cause(ctx)
		}
		m, err := t.conn.Receive()
		if err != nil {
			return heard(err)
		}
		if err := check(m); err != nil {
			return err
		}
		switch m := m.GetMessage().(type) {
		case *proxyv1.StreamRequest_Ack:
			t.acked(ctx, m.Ack)
		case *proxyv1.StreamRequest_Refusal:
			if err := t.refuse(ctx, m.Refusal); err != nil {
				return err
			}
		case *proxyv1.StreamRequest_Heartbeat:
			t.session.Beat(m.Heartbeat)
		case *proxyv1.StreamRequest_Hello:
			return connect.NewError(connect.CodeInvalidArgument, errors.New("a second hello"))
		}
	}
}

// heard turns an error of receiving into why the stream ends.
func heard(err error) error {
	switch {
	case errors.Is(err, io.EOF):
		return connect.NewError(connect.CodeUnavailable, errors.New("the proxy has ended the stream"))
	case errors.Is(err, os.ErrDeadlineExceeded):
		return connect.NewError(connect.CodeUnavailable, errors.New("the proxy fell silent"))
	}
	return err
}

func (t *talk) acked(ctx context.Context, ack *proxyv1.Ack) {
	failpoint.Hit("stream.acked")
	at := position(ack)
	held := t.find(ack)
	t.mu.Lock()
	t.ack, t.held = ack, held
	if t.pushed != nil && !t.pushed.Head().Position().After(at) {
		t.pushed, t.refused = nil, false
	}
	t.mu.Unlock()
	enforcement := t.session.Acked(ack, held)
	t.log.DebugContext(ctx, "ack received", "revision", ack.GetRevision(), "enforcement", enforcement.String())
	t.wake()
}

func position(ack *proxyv1.Ack) snapshot.Position {
	return snapshot.Position{Epoch: snapshot.Epoch(ack.GetEpoch()), Revision: snapshot.Revision(ack.GetRevision())}
}

// find returns the snapshot that an ack is about, nil if it is not known here.
func (t *talk) find(ack *proxyv1.Ack) *snapshot.Snapshot {
	digest, ok := snapshot.ParseDigest(ack.GetHeadDigest())
	if !ok {
		return nil
	}
	return t.hub.Find(t.environment, digest)
}

// reconsider looks again at an ack that is about a snapshot that this replica
// did not have: it may have it by now, or another one for the same place in
// history.
func (t *talk) reconsider() {
	t.mu.Lock()
	ack, held := t.ack, t.held
	t.mu.Unlock()
	if ack == nil || held != nil {
		return
	}
	held = t.find(ack)
	known := held
	if known == nil {
		known = t.hub.At(t.environment, position(ack))
	}
	if known == nil {
		return
	}
	t.mu.Lock()
	current := t.ack == ack
	if current {
		t.held = held
	}
	t.mu.Unlock()
	if current { // else it is judged as it comes
		t.session.Judged(ack, known)
	}
}

// refuse makes the next push a full snapshot. A proxy that refuses that as
// well has to come again: it would refuse it for ever.
func (t *talk) refuse(ctx context.Context, refusal *proxyv1.Refusal) error {
	t.log.ErrorContext(ctx, "update was refused by the proxy", "revision", refusal.GetRevision(),
		"reason", refusal.GetReason(), "err", refusal.GetDetail())
	t.session.Refused(refusal)
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.pushed == nil:
		return connect.NewError(connect.CodeFailedPrecondition, errors.New("nothing was sent that could be refused"))
	case t.full:
		return connect.NewError(connect.CodeFailedPrecondition, errors.New("a full snapshot was refused"))
	}
	t.pushed, t.refused = nil, true
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
func (t *talk) send(ctx context.Context, admissions <-chan struct{}) error {
	var confirmed *proxyv1.SignedFreshness
	slow := time.NewTimer(t.ackWithin)
	defer slow.Stop()
	for {
		state := t.hub.State(t.environment)
		t.reconsider()
		pushed, err := t.push(ctx, state.Snapshot)
		if err != nil {
			return err
		}
		if pushed {
			slow.Reset(t.ackWithin)
		}
		if state.Freshness != nil && state.Freshness != confirmed {
			if err := t.say(&proxyv1.StreamResponse{Lane: &proxyv1.StreamResponse_Freshness{Freshness: state.Freshness}}); err != nil {
				return err
			}
			confirmed = state.Freshness
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.drain:
			return t.reconnect()
		case <-t.session.Replaced():
			return errors.New("a later stream of this process has taken its place")
		case <-admissions:
			if admissions, err = t.readmit(); err != nil {
				return err
			}
		case <-state.Changed:
		case <-t.said:
		case <-slow.C:
			if t.overdue() {
				return errors.New("the last update was not acknowledged in time")
			}
		}
	}
}

func (t *talk) overdue() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pushed != nil && time.Since(t.pushedAt) >= t.ackWithin
}

// readmit ends the stream unless the proxy still belongs where it is. It
// returns what is closed when that may have changed again.
func (t *talk) readmit() (<-chan struct{}, error) {
	a, err := t.registry.Admit(t.id)
	switch {
	case err != nil:
		return nil, public(err)
	case a.Environment != t.environment:
		return nil, fmt.Errorf("the proxy now belongs to environment %s", a.Environment)
	}
	t.session.Admitted(a)
	return a.Changed, nil
}

func (t *talk) reconnect() error {
	directive := &proxyv1.Directive{Directive: &proxyv1.Directive_Reconnect{
		Reconnect: &proxyv1.Reconnect{Within: durationpb.New(reconnectWithin)},
	}}
	if err := t.say(&proxyv1.StreamResponse{Lane: &proxyv1.StreamResponse_Directive{Directive: directive}}); err != nil {
		return err
	}
	return errors.New("this replica is ending")
}

// push sends what leads to next, unless the proxy has it, or has not answered
// the last push yet. What is merged meanwhile goes with the next one. It
// reports whether anything was sent.
func (t *talk) push(ctx context.Context, next *snapshot.Snapshot) (bool, error) {
	base, due := t.begin(next)
	if !due {
		return false, nil
	}
	for _, u := range t.hub.Updates(base, next) {
		if err := t.say(&proxyv1.StreamResponse{Lane: &proxyv1.StreamResponse_Update{Update: u}}); err != nil {
			return false, err
		}
	}
	failpoint.Hit("stream.pushed")
	t.log.DebugContext(ctx, "update pushed", "revision", next.Head().Revision, "full", base == nil)
	return true, nil
}

// begin reports whether next is to be pushed, and what it builds on.
func (t *talk) begin(next *snapshot.Snapshot) (base *snapshot.Snapshot, due bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if next == nil || t.pushed != nil || !next.Head().Position().After(position(t.ack)) {
		return nil, false
	}
	if base = t.held; t.refused {
		base = nil
	}
	t.pushed, t.pushedAt, t.full = next, time.Now(), base == nil
	return base, true
}

// say sends one message, or cuts the proxy off.
func (t *talk) say(m *proxyv1.StreamResponse) error {
	if err := t.control.SetWriteDeadline(time.Now().Add(t.sendWithin)); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	if err := t.conn.Send(m); err != nil {
		return fmt.Errorf("send to proxy: %w", err)
	}
	// The deadline would end the stream even when nothing is being sent.
	if err := t.control.SetWriteDeadline(time.Time{}); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	return nil
}
