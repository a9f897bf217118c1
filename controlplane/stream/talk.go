package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/internal/failpoint"
	cookie "github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// talk is one stream. Its receiver runs in the goroutine of the call, its
// sender in another, and run joins them.
type talk struct {
	*Service
	conn        *connect.BidiStream[proxyv1.StreamRequest, proxyv1.StreamResponse]
	peer        // what it writes to belongs to the sender
	environment string
	session     *registry.Session
	log         *slog.Logger
	said        chan struct{} // wakes the sender after an answer
	shared      *cookie.Ring  // the cookie keys that the proxy was sent last
	introduced  int           // how many key sets the proxy was sent
	draining    atomic.Bool   // as the proxy said, or was told, last
	turn        turn          // to be sent freshness; it belongs to the sender

	unpacks bool // the proxy takes large updates compressed

	security, configuration *lane

	quiet *alarm // the proxy says nothing
	stuck *alarm // it does not receive
}

// long ago. A deadline that is past ends at once what waits.
var long = time.Unix(1, 0)

func (t *talk) run(ctx context.Context, hello *proxyv1.Hello, admissions <-chan struct{}) error {
	t.security.acked(ctx, hello.GetSecurity())
	t.configuration.acked(ctx, hello.GetCurrent())
	if t.shown != nil {
		t.show(t.security, hello.GetSecurity(), hello.GetInstance())
		t.show(t.configuration, hello.GetCurrent(), hello.GetInstance())
	}
	t.log.InfoContext(ctx, "proxy connected", "revision", hello.GetCurrent().GetRevision())
	disarm, err := t.arm()
	if err != nil {
		return err
	}
	defer disarm()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		end(t.send(ctx, admissions))
		// The receiver waits in a read; this ends it, and it looks at ctx before
		// it waits in another.
		_ = t.control.SetReadDeadline(long)
	}()
	end(t.receive(ctx))
	<-sent
	err = context.Cause(ctx)
	t.log.InfoContext(ctx, "proxy disconnected", "err", err)
	if connectErr := new(connect.Error); errors.As(err, &connectErr) {
		return err
	}
	return connect.NewError(connect.CodeUnavailable, err)
}

// show hands on the head that a proxy came with, if it is not known here and proves
// itself: what a proxy only says proves nothing. An older one than what is served tells
// as much as a later one: a database that was set back may have gone beyond it since.
func (t *talk) show(l *lane, ack *proxyv1.Ack, instance string) {
	if ack.GetHead() == nil || l.find(ack) != nil {
		return
	}
	head, err := t.hub.verifier.VerifyHead(ack.GetHead())
	if err != nil || head.Environment != l.name || head.Epoch < t.hub.State(l.name).Snapshot.Head().Epoch {
		return
	}
	t.shown(head, string(registry.ProxyID(string(t.id), instance)))
}

// arm has the alarms end the stream, from here on, instead of the deadline of its
// first message.
func (t *talk) arm() (disarm func(), err error) {
	if err := errors.Join(t.control.SetReadDeadline(time.Time{}), t.control.SetWriteDeadline(time.Time{})); err != nil {
		return nil, fmt.Errorf("set deadline: %w", err)
	}
	t.quiet = newAlarm(t.silence, func() error { return t.control.SetReadDeadline(long) })
	t.stuck = newAlarm(t.sendWithin, func() error { return t.control.SetWriteDeadline(long) })
	return func() { t.quiet.end(); t.stuck.end() }, nil
}

// receive takes what the proxy says until the stream ends.
func (t *talk) receive(ctx context.Context) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		t.quiet.set()
		m, err := t.conn.Receive()
		if err != nil {
			return heard(err)
		}
		// Thousands acknowledge a change while it is on its way to the others, who come
		// first.
		runtime.Gosched()
		if err := check(m); err != nil {
			return err
		}
		if err := t.hear(ctx, m); err != nil {
			return err
		}
	}
}

// hear takes one message of the proxy, and wakes the sender when there may be something
// to send because of it.
func (t *talk) hear(ctx context.Context, m *proxyv1.StreamRequest) error {
	if beat := m.GetHeartbeat(); beat != nil {
		if draining := beat.GetDraining(); t.draining.Swap(draining) != draining {
			defer t.wake()
		}
		t.session.Beat(beat)
		return nil
	}
	defer t.wake()
	switch m := m.GetMessage().(type) {
	case *proxyv1.StreamRequest_Ack:
		t.configuration.acked(ctx, m.Ack)
	case *proxyv1.StreamRequest_Refusal:
		return t.configuration.refuse(ctx, m.Refusal)
	case *proxyv1.StreamRequest_SecurityAck:
		t.security.acked(ctx, m.SecurityAck)
	case *proxyv1.StreamRequest_SecurityRefusal:
		return t.security.refuse(ctx, m.SecurityRefusal)
	case *proxyv1.StreamRequest_Inspection:
		t.session.Inspected(m.Inspection)
	case *proxyv1.StreamRequest_Hello:
		return connect.NewError(connect.CodeInvalidArgument, errors.New("a second hello"))
	}
	return nil
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

func (t *talk) wake() {
	select {
	case t.said <- struct{}{}:
	default:
	}
}

// send pushes what is new until ctx ends, the proxy is no longer admitted, or
// it is too slow.
func (t *talk) send(ctx context.Context, admissions <-chan struct{}) error {
	slow := time.NewTimer(t.ackWithin)
	defer slow.Stop()
	recheck, renewal := time.NewTicker(t.recheckEvery), time.NewTimer(t.renewIn())
	defer recheck.Stop()
	defer renewal.Stop()
	for {
		security, configuration := t.security.state(), t.configuration.state()
		if err := t.introduce(); err != nil {
			return err
		}
		if err := t.pushAll(ctx, security, configuration); err != nil {
			return err
		}
		wait, err := t.confirm(security, configuration)
		if err != nil {
			return err
		}
		if err := t.direct(); err != nil {
			return err
		}
		rotated, err := t.share(ctx)
		if err != nil {
			return err
		}
		slow.Reset(min(wait, t.left()))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.drain:
			return cmp.Or(t.move(t.moveWithin), errEnding)
		case <-renewal.C:
			if err := t.move(shortestMove); err != nil {
				return err
			}
		case <-recheck.C:
			if admissions, err = t.verify(); err != nil {
				return err
			}
		case <-t.session.Replaced():
			return errors.New("a later stream of this process has taken its place")
		case <-admissions:
			if admissions, err = t.readmit(); err != nil {
				return err
			}
		case <-t.session.Told():
			if admissions, err = t.readmit(); err != nil {
				return err
			}
		case <-t.session.Moved():
			if err := t.move(balanceWithin); err != nil {
				return err
			}
		case ask := <-t.session.Asked():
			directive := &proxyv1.Directive{Directive: &proxyv1.Directive_Inspect{Inspect: ask}}
			if err := t.say(&proxyv1.StreamResponse{Lane: &proxyv1.StreamResponse_Directive{Directive: directive}}); err != nil {
				return err
			}
		case <-security.Changed:
		case <-configuration.Changed:
		case <-rotated:
		case <-t.said:
		case <-slow.C:
			if t.left() <= 0 {
				return errors.New("the last update was not acknowledged in time")
			}
		}
	}
}

// keySetsAtOnce is how many key sets make a message, of at most 100 KiB.
const keySetsAtOnce = 100

// introduce sends the key sets that the proxy was not sent yet. Called after a
// snapshot was looked up, it sends those that its head is signed with.
func (t *talk) introduce() error {
	sets := t.hub.KeySets()
	for some := range slices.Chunk(sets[t.introduced:], keySetsAtOnce) {
		m := &proxyv1.KeySets{}
		for _, set := range some {
			m.Sets = append(m.Sets, set.Signed())
		}
		if err := t.say(&proxyv1.StreamResponse{Lane: &proxyv1.StreamResponse_KeySets{KeySets: m}}); err != nil {
			return err
		}
	}
	t.introduced = len(sets)
	return nil
}

// share sends the cookie keys of the environment, sealed to the proxy, if it asks
// for them and has not been sent them yet. It returns what is closed when there may
// be others.
func (t *talk) share(ctx context.Context) (<-chan struct{}, error) {
	public := t.session.SealingKey()
	if t.keys == nil || len(public) == 0 {
		return nil, nil
	}
	state := t.keys.State(t.environment)
	if state.Ring == nil || state.Ring == t.shared {
		return state.Changed, nil
	}
	t.shared = state.Ring
	sealed, err := cookie.Share(state.Ring, public)
	if err != nil {
		// It gets no keys, and goes on with everything else.
		t.log.WarnContext(ctx, "cookie keys were not sealed to the proxy", "err", err)
		return state.Changed, nil
	}
	return state.Changed, t.say(&proxyv1.StreamResponse{Lane: &proxyv1.StreamResponse_Keys{Keys: &proxyv1.SealedKeys{Sealed: sealed}}})
}

// left returns how long the proxy may still take to answer.
func (t *talk) left() time.Duration {
	return min(t.security.left(t.ackWithin), t.configuration.left(t.ackWithin))
}

// pushAll pushes what is new, the security lane first: of nothing else is
// anything sent to a proxy that has nothing of that yet.
func (t *talk) pushAll(ctx context.Context, security, configuration State) error {
	t.security.reconsider()
	t.configuration.reconsider()
	if err := t.push(ctx, t.security, security.Snapshot); err != nil || !t.security.begun() {
		return err
	}
	return t.push(ctx, t.configuration, configuration.Snapshot)
}

// push sends what leads to next, unless the proxy has it, or has not answered
// the last push of the lane yet. What is merged meanwhile goes with the next
// one. Between the parts of a large snapshot goes what is new in the security
// lane, which does not wait.
func (t *talk) push(ctx context.Context, l *lane, next *snapshot.Snapshot) error {
	base, due := l.begin(next)
	if !due {
		return nil
	}
	if err := t.introduce(); err != nil {
		return err
	}
	for _, part := range t.hub.Updates(base, next) {
		if l != t.security {
			if err := t.push(ctx, t.security, t.security.state().Snapshot); err != nil {
				return err
			}
		}
		encode := part.plain
		if t.unpacks {
			encode = part.packed
		}
		f, err := encode()
		if err != nil {
			return err
		}
		if err := t.write(f); err != nil {
			return err
		}
	}
	t.turn.yield(time.Now(), t.spread())
	failpoint.Hit("stream.pushed")
	l.log.DebugContext(ctx, "update pushed", "revision", next.Head().Revision, "full", base == nil)
	return nil
}

// say sends one message, or cuts the proxy off.
func (t *talk) say(m *proxyv1.StreamResponse) error {
	f, err := messageFrame(m)
	if err != nil {
		return err
	}
	return t.write(f)
}

// write sends what is encoded already, or cuts the proxy off. Connect would encode
// it again, in buffers that it has streams keep that wait for something small.
func (t *talk) write(f frame) error {
	t.stuck.set()
	defer t.stuck.stop()
	err := f.writeTo(t.out)
	if err == nil {
		err = t.control.Flush()
	}
	if err != nil {
		return fmt.Errorf("send to proxy: %w", err)
	}
	return nil
}
