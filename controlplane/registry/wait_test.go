package registry_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/postgres"
	"github.com/sallyport/sallyport/storage/storagetest"
)

// waiting is a call of Wait, seen from its caller.
type waiting struct {
	testing.TB
	reports chan []*adminv1.EnvironmentProgress
	ended   chan error
	last    []*adminv1.EnvironmentProgress
	done    bool
}

func (l *lab) wait(r *replica, environments map[string]snapshot.Revision) *waiting {
	l.Helper()
	return l.waitBy(func(ctx context.Context, report registry.Report) error { return r.Wait(ctx, environments, report) })
}

func (l *lab) waitSecurity(r *replica, sequence snapshot.Revision, environments ...string) *waiting {
	l.Helper()
	return l.waitBy(func(ctx context.Context, report registry.Report) error {
		return r.WaitSecurity(ctx, environments, sequence, report)
	})
}

func (l *lab) waitBy(wait func(context.Context, registry.Report) error) *waiting {
	l.Helper()
	ctx, cancel := context.WithCancel(l.Context())
	w := &waiting{TB: l, reports: make(chan []*adminv1.EnvironmentProgress, 1000), ended: make(chan error, 1)}
	l.Cleanup(cancel)
	go func() {
		w.ended <- wait(ctx, func(p []*adminv1.EnvironmentProgress, done bool) error {
			w.reports <- p
			if done {
				w.done = true
			}
			return nil
		})
	}()
	return w
}

// until waits for a report that says, for each environment, "enforced/connected
// laggard: reason, ...".
func (w *waiting) until(want string) {
	w.Helper()
	late := time.After(patience)
	for w.text() != want {
		select {
		case w.last = <-w.reports:
		case <-late:
			w.Fatalf("the progress is %q, want %q", w.text(), want)
		}
	}
}

func (w *waiting) text() string {
	var all []string
	for _, e := range w.last {
		text := fmt.Sprintf("%s@%d %d/%d", e.GetEnvironment(), e.GetRevision(), e.GetEnforced(), e.GetConnected())
		for _, l := range e.GetLaggards() {
			text += fmt.Sprintf(" [%s %s]", l.GetId()[strings.LastIndexByte(l.GetId(), '/')+1:], l.GetReason())
		}
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}

// over waits for the end, which has to be a good one.
func (w *waiting) over() {
	w.Helper()
	select {
	case err := <-w.ended:
		if err != nil || !w.done {
			w.Errorf("it ended with %v, done %v", err, w.done)
		}
	case <-time.After(patience):
		w.Fatal("it does not end")
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "aws", "spiffe://prod.example/proxy/aws/*", "aws"), enroll(t, "gcp", "spiffe://prod.example/proxy/gcp/*", "gcp"))
	r := l.ready("a")
	l.admitted(r, one, "aws")
	a, b := open(t, r, one, "a"), open(t, r, two, "b")
	other := open(t, r, "spiffe://prod.example/proxy/gcp/x", "c")
	defer a.Close()
	defer b.Close()
	defer other.Close()
	six, seven, eight := at(t, 6, "p"), at(t, 7, "p", "q"), at(t, 8, "p", "q")

	w := l.wait(r, map[string]snapshot.Revision{"aws": 7})
	w.until("aws@7 0/2 [one#a has not acknowledged anything yet] [two#b has not acknowledged anything yet]")
	a.Acked(ackOf(six), six)
	w.until("aws@7 0/2 [one#a is at revision 6] [two#b has not acknowledged anything yet]")
	a.Acked(ackOf(seven, func(a *proxyv1.Ack) { a.EnforcedRoot = make([]byte, 32) }), seven)
	w.until("aws@7 0/2 [one#a drift: what it enforces is not what it received] [two#b has not acknowledged anything yet]")
	a.Acked(ackOf(seven, rejecting(seven, "q")), seven)
	w.until("aws@7 0/2 [one#a rejected 1 resources, the first is Policy/shop/q: too new] [two#b has not acknowledged anything yet]")
	a.Acked(ackOf(seven), nil)
	w.until("aws@7 0/2 [one#a its statement could not be compared yet] [two#b has not acknowledged anything yet]")
	a.Judged(ackOf(seven), seven)
	w.until("aws@7 1/2 [two#b has not acknowledged anything yet]")
	b.Acked(ackOf(six), six)
	b.Refused(&proxyv1.Refusal{Reason: "root_mismatch", Detail: "12"})
	w.until("aws@7 1/2 [two#b refused an update: root_mismatch: 12]")
	b.Acked(ackOf(eight), eight) // one after it will do
	w.until("aws@7 2/2")
	w.over()

	// At once when it is so already, or when there is nobody.
	w = l.wait(r, map[string]snapshot.Revision{"aws": 7, "onprem": 3})
	w.until("aws@7 2/2; onprem@3 0/0")
	w.over()

	// Who leaves is not waited for.
	w = l.wait(r, map[string]snapshot.Revision{"aws": 8})
	w.until("aws@8 1/2 [one#a is at revision 7]")
	a.Close()
	w.until("aws@8 1/1")
	w.over()
}

func TestWaitForProxiesOfOtherReplicas(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "aws", "spiffe://prod.example/proxy/aws/*", "aws"))
	r, elsewhere := l.ready("a"), l.ready("b")
	l.admitted(r, one, "aws")
	l.admitted(elsewhere, two, "aws")
	here, there := open(t, r, one, "a"), open(t, elsewhere, two, "b")
	defer here.Close()
	six, seven := at(t, 6, "p"), at(t, 7, "p")
	here.Acked(ackOf(seven), seven)
	eventually(t, "the other one is recorded", func() bool { _, err := l.store.Proxy(t.Context(), registry.ProxyID(two, "b")); return err == nil })
	w := l.wait(r, map[string]snapshot.Revision{"aws": 7})
	w.until("aws@7 1/2 [two#b has not acknowledged anything yet]")
	there.Acked(ackOf(six), six)
	w.until("aws@7 1/2 [two#b is at revision 6]")
	there.Acked(ackOf(seven), seven)
	w.until("aws@7 2/2")
	w.over()

	// It moves here, and counts once.
	w = l.wait(r, map[string]snapshot.Revision{"aws": 8})
	w.until("aws@8 0/2 [one#a is at revision 7] [two#b is at revision 7]")
	moved := open(t, r, two, "b")
	eight := at(t, 8, "p")
	here.Acked(ackOf(eight), eight)
	moved.Acked(ackOf(eight), eight)
	there.Close()
	w.until("aws@8 2/2")
	w.over()

	// It moves back, which is not noticed here at once.
	nine := at(t, 9, "p")
	here.Acked(ackOf(nine), nine)
	w = l.wait(r, map[string]snapshot.Revision{"aws": 9})
	w.until("aws@9 1/2 [two#b is at revision 8]")
	there = open(t, elsewhere, two, "b")
	there.Acked(ackOf(nine), nine)
	w.until("aws@9 2/2")
	w.over()
	moved.Close()
	there.Close()

	// One whose replica is gone counts until it is lost.
	l.clock.advance(time.Second)
	there = open(t, elsewhere, two, "b")
	there.Acked(ackOf(seven), seven)
	eventually(t, "it is recorded", func() bool {
		p := l.proxy(r, two, "b")
		return p.GetConnection() == adminv1.Connection_CONNECTION_CONNECTED && p.GetRevision() == 7
	})
	w = l.wait(r, map[string]snapshot.Revision{"aws": 8})
	w.until("aws@8 1/2 [two#b is at revision 7]")
	elsewhere.stop()
	l.clock.advance(registry.LostAfter + time.Second)
	w.until("aws@8 1/1")
	w.over()
}

func TestWaitNamesAtMostAHundred(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "aws", "spiffe://prod.example/proxy/aws/*", "aws"))
	r := l.ready("a")
	l.admitted(r, one, "aws")
	for i := range 150 {
		t.Cleanup(open(t, r, one, fmt.Sprint("i-", i)).Close)
	}
	w := l.wait(r, map[string]snapshot.Revision{"aws": 1})
	w.last = <-w.reports
	if e := w.last[0]; e.GetConnected() != 150 || len(e.GetLaggards()) != 100 {
		t.Errorf("%d connected, %d named", e.GetConnected(), len(e.GetLaggards()))
	}
	var names, want []string
	for i := range 150 {
		want = append(want, one+"#i-"+fmt.Sprint(i))
	}
	for _, l := range w.last[0].GetLaggards() {
		names = append(names, l.GetId())
	}
	slices.Sort(want)
	if !slices.Equal(names, want[:100]) {
		t.Errorf("named are %v, want the first of all", names)
	}
}

// What somebody looks at stays as it is, whatever a proxy says later.
func TestWhatWasSaidStays(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "aws", "spiffe://prod.example/proxy/aws/*", "aws"))
	r := l.ready("a")
	l.admitted(r, one, "aws")
	s := open(t, r, one, "a")
	defer s.Close()
	six := at(t, 6, "p")
	for i := range 2 {
		text := fmt.Sprint(i)
		for n, say := range []func(){
			func() { s.Security().Acked(ackOf(six), six) },
			func() { s.Acked(ackOf(six, rejecting(six, "p")), six) },
			func() { s.Security().Judged(ackOf(six), nil) },
			func() { s.Security().Refused(&proxyv1.Refusal{Reason: text}) },
			func() {
				s.Beat(&proxyv1.Heartbeat{SecurityAge: durationpb.New(time.Hour), Listeners: []*proxyv1.ListenerStatus{{Name: text}}})
			},
		} {
			held := registry.Held(r.Registry, registry.ProxyID(one, "a"))
			before := proto.CloneOf(held)
			say()
			if !proto.Equal(held, before) {
				t.Errorf("after %d it is %v, and was %v", n, held, before)
			}
		}
	}
}

func TestWaitEnds(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "aws", "spiffe://prod.example/proxy/aws/*", "aws"))
	r := l.ready("a")
	l.admitted(r, one, "aws")
	s := open(t, r, one, "a")
	defer s.Close()
	never := map[string]snapshot.Revision{"aws": 99}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := r.Wait(ctx, never, func(_ []*adminv1.EnvironmentProgress, done bool) error {
		if done {
			t.Error("done")
		}
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	gone := errors.New("nobody listens any more")
	if err := r.Wait(t.Context(), never, func([]*adminv1.EnvironmentProgress, bool) error { return gone }); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
}

func TestWaitWithoutPostgres(t *testing.T) {
	t.Parallel()
	server := storagetest.NewPostgres(t)
	if err := server.CreateDatabase(t.Context(), "fleet", ""); err != nil {
		t.Fatal(err)
	}
	if err := postgres.Migrate(t.Context(), server.DSN("fleet")); err != nil {
		t.Fatal(err)
	}
	l := labAt(t, server.DSN("fleet"))
	l.commit(enroll(t, "aws", "spiffe://prod.example/proxy/aws/*", "aws"))
	r := l.ready("a")
	l.admitted(r, one, "aws")
	s := open(t, r, one, "a")
	defer s.Close()
	w := l.wait(r, map[string]snapshot.Revision{"aws": 7})
	w.until("aws@7 0/1 [one#a has not acknowledged anything yet]")
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := r.Wait(t.Context(), map[string]snapshot.Revision{"aws": 7}, nil); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("what others have is not known: %v", err)
	}
	seven := at(t, 7, "p")
	s.Acked(ackOf(seven), seven)
	w.until("aws@7 1/1")
	w.over()
}
