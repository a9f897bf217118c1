package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
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
	environment string // that the proxy was admitted to
	url         string
	stream      *connect.BidiStreamForClient[proxyv1.StreamRequest, proxyv1.StreamResponse]
	cut         context.CancelCauseFunc
	refusals    chan *proxyv1.Refusal // to the sender

	// What follows belongs to the receiver.
	assembly snapshot.Assembly
	skipping bool      // the rest of an update that was refused
	doubted  bool      // the last freshness statement was refused
	heard    time.Time // when the first message came; zero before
	moveAt   time.Time // when to go elsewhere, as told; zero if not

	// What follows belongs to the sender: what it acknowledged last.
	acked     *statement
	persisted snapshot.Revision
}

func newSession(l *Link, environment, url string) *session {
	return &session{Link: l, environment: environment, url: url, refusals: make(chan *proxyv1.Refusal, 1)}
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
			s.log.InfoContext(ctx, "connected to the control plane", "url", s.url, "environment", s.environment)
		}
		switch lane := m.GetLane().(type) {
		case *proxyv1.StreamResponse_Update:
			s.update(ctx, lane.Update)
		case *proxyv1.StreamResponse_Freshness:
			s.confirm(ctx, lane.Freshness)
		case *proxyv1.StreamResponse_Directive:
			s.obey(lane.Directive)
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
		s.metrics.refusals.WithLabelValues(reason(snapshot.ErrTooLarge)).Inc()
		s.log.ErrorContext(ctx, "message of the control plane is too large", "err", err)
	}
}

// update takes the next part of an update, and applies it with the last one.
func (s *session) update(ctx context.Context, part *proxyv1.Update) {
	last := part.GetHead() != nil
	if s.skipping {
		s.skipping = !last
		return
	}
	next, err := s.assembly.Add(s.cfg.Verifier, s.current, part)
	if err == nil && next == nil {
		return
	}
	if err == nil {
		err = s.marks.check(s.environment, next.Head())
	}
	if err != nil {
		s.skipping = !last
		s.refuse(ctx, part, err)
		return
	}
	from := s.current.Head().Revision
	st := s.enforce(next)
	s.keeper.keep(next, s.marks, s.clock.confirmed)
	s.tell()
	s.log.InfoContext(ctx, "snapshot applied", "environment", s.environment, "from", from, "revision", st.head.Revision,
		"rejects", len(st.enforced.Rejects), "took", st.took)
}

// refuse keeps what is enforced and says why.
func (s *session) refuse(ctx context.Context, part *proxyv1.Update, err error) {
	r := &proxyv1.Refusal{Reason: reason(err), Detail: clip(err.Error(), 1024)}
	if head, err := s.cfg.Verifier.VerifyHead(part.GetHead()); err == nil {
		r.Epoch, r.Revision = int64(head.Epoch), int64(head.Revision)
	}
	s.metrics.refusals.WithLabelValues(r.GetReason()).Inc()
	s.log.ErrorContext(ctx, "update was refused", "reason", r.GetReason(), "revision", r.GetRevision(), "err", err)
	select {
	case s.refusals <- r:
	default: // one is on its way
	}
}

// confirm takes a freshness statement.
func (s *session) confirm(ctx context.Context, signed *proxyv1.SignedFreshness) {
	f, err := s.cfg.Verifier.VerifyFreshness(signed)
	if err == nil {
		err = s.clock.check(f, s.environment, s.cfg.Now())
	}
	if err != nil {
		s.metrics.refusals.WithLabelValues(reason(err)).Inc()
		if !s.doubted {
			s.log.ErrorContext(ctx, "freshness was refused", "reason", reason(err), "err", err)
		}
		s.doubted = true
		return
	}
	s.doubted = false
	s.clock.take(fresh{f, signed}, s.current.Head())
	if s.clock.confirmed.signed == signed {
		s.keeper.keep(s.current, s.marks, s.clock.confirmed)
	}
}

// obey does what a directive asks for. One that is not known is left alone.
func (s *session) obey(d *proxyv1.Directive) {
	move := d.GetReconnect()
	if move == nil || !s.moveAt.IsZero() {
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
		case r := <-s.refusals:
			err = s.say(&proxyv1.StreamRequest{Message: &proxyv1.StreamRequest_Refusal{Refusal: r}})
		case <-s.news:
			err = s.ack()
		case <-beat.C:
			err = s.beat()
		case <-s.cfg.Enforcer.Changed():
			err = s.beat()
		}
		if err != nil {
			return err
		}
	}
}

func (s *session) hello() error {
	hello := &proxyv1.Hello{Instance: s.cfg.Instance}
	if s.due() {
		hello.Current = s.acked.ack(s.persisted)
	}
	return s.say(&proxyv1.StreamRequest{Message: &proxyv1.StreamRequest_Hello{Hello: hello}})
}

// ack says what is enforced, if that is news.
func (s *session) ack() error {
	if !s.due() {
		return nil
	}
	err := s.say(&proxyv1.StreamRequest{Message: &proxyv1.StreamRequest_Ack{Ack: s.acked.ack(s.persisted)}})
	failpoint.Hit("link.acked")
	return err
}

// due takes the newest statement. It reports false if there is none about this
// environment, or it was made already.
func (s *session) due() bool {
	st := s.said.Load()
	if st == nil || st.head.Environment != s.environment {
		return false
	}
	persisted := s.keeper.revision(st.head)
	if st == s.acked && persisted == s.persisted {
		return false
	}
	s.acked, s.persisted = st, persisted
	return true
}

func (s *session) beat() error {
	h := &proxyv1.Heartbeat{SentAt: timestamppb.New(s.cfg.Now())}
	if age, known := s.Age(); known {
		h.ConfigurationAge = durationpb.New(age)
	}
	if expires := s.cfg.Identity.Expiry(); !expires.IsZero() {
		h.IdentityExpiresAt = timestamppb.New(expires)
	}
	for _, l := range s.cfg.Enforcer.Listeners() {
		if len(h.Listeners) == maxListeners {
			break
		}
		h.Listeners = append(h.Listeners, &proxyv1.ListenerStatus{
			Namespace: l.Namespace, Name: l.Name, Address: clip(l.Address, 261), Error: clip(l.Err, maxReason),
		})
	}
	return s.say(&proxyv1.StreamRequest{Message: &proxyv1.StreamRequest_Heartbeat{Heartbeat: h}})
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
		{snapshot.ErrSignature, "bad_signature"},
		{snapshot.ErrRoot, "root_mismatch"},
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
