package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/internal/failpoint"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1/proxyv1connect"
)

const (
	// sendWithin is how long the control plane may take to receive a message.
	sendWithin = 10 * time.Second
	// maxListeners bounds the listeners of a heartbeat.
	maxListeners = 256
)

var (
	errSilent = errors.New("the control plane fell silent")
	errStuck  = errors.New("the control plane does not receive")
	errMove   = errors.New("the control plane asked to reconnect")
)

// session is one stream. The goroutine of follow receives and applies, another
// sends, and run joins them.
type session struct {
	*Link
	url    string
	stream *connect.BidiStreamForClient[proxyv1.StreamRequest, proxyv1.StreamResponse]
	cut    context.CancelCauseFunc

	policy, security *course

	// told has room for one: the sender is to say how we are.
	told chan struct{}
	// inspected has room for one: what the sender is to answer.
	inspected chan *proxyv1.Inspection

	// What follows belongs to the receiver.
	heard  time.Time // when the first message came; zero before
	moveAt time.Time // when to go elsewhere, as told; zero if not
}

func newSession(l *Link, environment, url string) *session {
	return &session{
		Link: l, url: url, told: make(chan struct{}, 1), inspected: make(chan *proxyv1.Inspection, 1),
		policy: newCourse(l.policy, environment), security: newCourse(l.security, environment),
	}
}

// run opens the stream on c and follows it until it ends.
func (s *session) run(ctx context.Context, c *connection, client proxyv1connect.ProxyServiceClient) outcome {
	ctx, s.cut = context.WithCancelCause(ctx)
	defer s.cut(nil)
	// HTTP/2 does not look at the context while the request's body is open.
	stop := context.AfterFunc(ctx, c.close)
	defer stop()
	s.stream = client.Stream(ctx)
	var sender sync.WaitGroup
	sender.Go(func() {
		// Why the control plane ended the stream is for the receiver to learn.
		if err := s.send(ctx); err != nil && !errors.Is(err, io.EOF) {
			s.cut(err)
		}
	})
	err := s.receive(ctx)
	s.cut(err)
	sender.Wait()
	_ = s.stream.CloseRequest() // ctx has ended the stream
	_ = s.stream.CloseResponse()
	s.metrics.connected.Set(0)
	return s.outcome(context.Cause(ctx))
}

// outcome says how the stream ended.
func (s *session) outcome(err error) outcome {
	o := outcome{err: fmt.Errorf("stream of %s: %w", s.url, err), result: resultFailed}
	if !s.heard.IsZero() {
		o.result = resultEnded
		o.healthy = time.Since(s.heard) >= healthyAfter
	}
	if !s.moveAt.IsZero() {
		o.told, o.wait = true, time.Until(s.moveAt)
	}
	return o
}

// receive takes what the control plane says until the stream ends.
func (s *session) receive(ctx context.Context) error {
	for {
		m, err := s.next()
		if err != nil {
			s.broken(ctx, err)
			return err
		}
		if s.heard.IsZero() {
			s.heard = time.Now()
			s.failing = false
			s.metrics.connected.Set(1)
			s.log.InfoContext(ctx, "connected to the control plane", "url", s.url, "environment", s.policy.environment)
		}
		switch lane := m.GetLane().(type) {
		case *proxyv1.StreamResponse_Security:
			s.security.update(ctx, lane.Security)
		case *proxyv1.StreamResponse_Update:
			s.policy.update(ctx, lane.Update)
		case *proxyv1.StreamResponse_Freshness:
			s.confirm(ctx, lane.Freshness)
		case *proxyv1.StreamResponse_Directive:
			s.obey(ctx, lane.Directive)
		case *proxyv1.StreamResponse_KeySets:
			s.keys.take(ctx, lane.KeySets.GetSets())
		case *proxyv1.StreamResponse_Keys:
			s.cookies.take(ctx, s.policy.environment, lane.Keys)
		}
	}
}

// next receives a message, within the time that silence may last.
func (s *session) next() (*proxyv1.StreamResponse, error) {
	watch := time.AfterFunc(s.cfg.Silence, func() { s.cut(errSilent) })
	defer watch.Stop()
	return s.stream.Receive()
}

// broken counts a message that was refused before it was read.
func (s *session) broken(ctx context.Context, err error) {
	if connect.CodeOf(err) == connect.CodeResourceExhausted && !connect.IsWireError(err) {
		s.metrics.policy.refusals.WithLabelValues(reason(snapshot.ErrTooLarge)).Inc()
		s.log.ErrorContext(ctx, "message of the control plane is too large", "err", err)
	}
}

// confirm has the lane that a freshness statement speaks of take it.
func (s *session) confirm(ctx context.Context, signed *proxyv1.SignedFreshness) {
	s.keys.write(ctx) // if that has failed before
	f, err := s.cfg.Verifier.VerifyFreshness(signed)
	lane := s.policy
	if f.Environment == s.security.environment {
		lane = s.security
	}
	lane.confirm(ctx, fresh{f, signed}, err)
}

// obey does what a directive asks for. One that is not known is left alone.
func (s *session) obey(ctx context.Context, d *proxyv1.Directive) {
	switch d := d.GetDirective().(type) {
	case *proxyv1.Directive_Reconnect:
		s.move(d.Reconnect)
	case *proxyv1.Directive_Drain:
		s.drain(ctx, d.Drain.GetDraining())
	case *proxyv1.Directive_Inspect:
		s.inspect(ctx, d.Inspect)
	}
}

// drain has load balancers leave this process out, or not, and says so.
func (s *session) drain(ctx context.Context, draining bool) {
	if s.cfg.Drain == nil {
		return
	}
	if s.draining.Swap(draining) != draining {
		s.log.InfoContext(ctx, "load balancers are told otherwise, as an operator asked", "draining", draining)
		s.cfg.Drain(draining)
	}
	select {
	case s.told <- struct{}{}:
	default:
	}
}

// move leaves within the time that was told.
func (s *session) move(move *proxyv1.Reconnect) {
	if !s.moveAt.IsZero() {
		return
	}
	within := min(max(move.GetWithin().AsDuration(), 1), longestTold)
	wait := rand.N(within) //nolint:gosec // spreads load, hides nothing
	s.moveAt = time.Now().Add(wait)
	time.AfterFunc(wait, func() { s.cut(errMove) })
}

// send says hello, and then what is enforced and how we are, until ctx ends.
func (s *session) send(ctx context.Context) error {
	if err := s.hello(); err != nil {
		return err
	}
	beat := time.NewTicker(s.cfg.Heartbeat)
	defer beat.Stop()
	if err := s.beat(); err != nil {
		return err
	}
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case r := <-s.security.refusals:
			err = s.say(&proxyv1.StreamRequest{Message: &proxyv1.StreamRequest_SecurityRefusal{SecurityRefusal: r}})
		case r := <-s.policy.refusals:
			err = s.say(&proxyv1.StreamRequest{Message: &proxyv1.StreamRequest_Refusal{Refusal: r}})
		case <-s.news:
			err = s.ack()
		case m := <-s.inspected:
			err = s.say(&proxyv1.StreamRequest{Message: &proxyv1.StreamRequest_Inspection{Inspection: m}})
		case <-beat.C:
			err = s.beat()
		case <-s.told:
			err = s.beat()
		case <-s.cfg.Listeners.Changed():
			err = s.beat()
		}
		if err != nil {
			return err
		}
	}
}

func (s *session) hello() error {
	hello := &proxyv1.Hello{Instance: s.cfg.Instance, Current: s.policy.greet(), Security: s.security.greet()}
	return s.say(&proxyv1.StreamRequest{Message: &proxyv1.StreamRequest_Hello{Hello: hello}})
}

// ack says what is enforced, as far as that is news.
func (s *session) ack() error {
	runtime.Gosched() // what others enforce, and whoever waits for an answer, comes first
	if a := s.security.due(); a != nil {
		err := s.say(&proxyv1.StreamRequest{Message: &proxyv1.StreamRequest_SecurityAck{SecurityAck: a}})
		failpoint.Hit("link.acked")
		if err != nil {
			return err
		}
	}
	a := s.policy.due()
	if a == nil {
		return nil
	}
	err := s.say(&proxyv1.StreamRequest{Message: &proxyv1.StreamRequest_Ack{Ack: a}})
	failpoint.Hit("link.acked")
	return err
}

func (s *session) beat() error {
	h := &proxyv1.Heartbeat{SentAt: timestamppb.New(s.cfg.Now()), Draining: s.draining.Load()}
	if s.cfg.Load != nil {
		load := s.cfg.Load()
		h.Requests, h.OpenRequests = load.Requests, load.OpenRequests
		h.ProcessorTime, h.Processors = durationpb.New(load.ProcessorTime), int32(load.Processors) //nolint:gosec // processors of one machine
	}
	if age, known := s.Age(); known {
		h.ConfigurationAge = durationpb.New(age)
	}
	if age, known := s.SecurityAge(); known {
		h.SecurityAge = durationpb.New(age)
	}
	if s.cfg.RecordsDropped != nil {
		h.RecordsDropped = s.cfg.RecordsDropped()
	}
	if expires := s.cfg.Identity.Expiry(); !expires.IsZero() {
		h.IdentityExpiresAt = timestamppb.New(expires)
	}
	for _, l := range s.cfg.Listeners.Listeners() {
		if len(h.Listeners) == maxListeners {
			break
		}
		h.Listeners = append(h.Listeners, &proxyv1.ListenerStatus{
			Namespace: l.Namespace, Name: l.Name, Address: clip(l.Address, 261), Error: clip(l.Err, maxReason),
		})
	}
	if s.cfg.Assertions != nil {
		h.AssertionKeys = s.cfg.Assertions.Points()
	}
	if err := s.say(&proxyv1.StreamRequest{Message: &proxyv1.StreamRequest_Heartbeat{Heartbeat: h}}); err != nil {
		return err
	}
	if s.cfg.Assertions != nil {
		s.cfg.Assertions.Reported(h.GetAssertionKeys())
	}
	return nil
}

// say sends one message, or cuts the stream.
func (s *session) say(m *proxyv1.StreamRequest) error {
	watch := time.AfterFunc(sendWithin, func() { s.cut(errStuck) })
	defer watch.Stop()
	return s.stream.Send(m)
}

// reason is the word for why something was refused.
func reason(err error) string {
	for _, known := range [...]struct {
		err  error
		word string
	}{
		{snapshot.ErrRetired, "retired_key"}, // before ErrSignature, which it is
		{snapshot.ErrSignature, "bad_signature"},
		{snapshot.ErrKeySetFork, "key_set_fork"},
		{snapshot.ErrRoot, "root_mismatch"},
		{snapshot.ErrCounts, "count_mismatch"},
		{snapshot.ErrBase, "base_mismatch"},
		{snapshot.ErrTooLarge, "too_large"},
		{errOlder, "older_revision"},
		{errEnvironment, "wrong_environment"},
		{errFork, "fork"},
		{errForked, "fork"},
		{errFuture, "from_future"},
		{errMarks, "too_many_environments"},
	} {
		if errors.Is(err, known.err) {
			return known.word
		}
	}
	return "malformed"
}
