package publish_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/controlplane/publish"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
)

var discard = slog.DiscardHandler

// faulty is a store that calls at before and after each step that a publisher
// takes, with the context to go on with. Underneath it is the real one.
type faulty struct {
	publish.Store
	mu   sync.Mutex
	at   func(ctx context.Context, step string) context.Context
	fail func(step string) error // instead of the step, when not nil
}

func (f *faulty) replace(s publish.Store) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Store = s
}

func (f *faulty) store() publish.Store {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.Store
}

func (f *faulty) step(ctx context.Context, step string) context.Context {
	if f.at == nil {
		return ctx
	}
	return f.at(ctx, step)
}

// around is a step with what happens before and after it.
func around[T any](f *faulty, ctx context.Context, name string, do func(context.Context) (T, error)) (T, error) { //nolint:revive // the context comes with the step
	if f.fail != nil {
		if err := f.fail(name); err != nil {
			var none T
			return none, err
		}
	}
	v, err := do(f.step(ctx, "before "+name))
	f.step(ctx, "after "+name)
	return v, err
}

func (f *faulty) BeginTerm(ctx context.Context, holder string) (storage.Term, error) {
	return around(f, ctx, "BeginTerm", func(ctx context.Context) (storage.Term, error) { return f.store().BeginTerm(ctx, holder) })
}

func (f *faulty) Heads(ctx context.Context) ([]storage.EnvironmentHead, error) {
	return around(f, ctx, "Heads", f.store().Heads)
}

func (f *faulty) Head(ctx context.Context, environment string, at snapshot.Revision) (storage.EnvironmentHead, error) {
	return around(f, ctx, "Head", func(ctx context.Context) (storage.EnvironmentHead, error) {
		return f.store().Head(ctx, environment, at)
	})
}

func (f *faulty) Position(ctx context.Context) (snapshot.Position, error) {
	return around(f, ctx, "Position", f.store().Position)
}

func (f *faulty) EnvironmentRevisions(ctx context.Context, environment string, after snapshot.Revision, limit int) ([]storage.EnvironmentRevision, error) {
	return around(f, ctx, "EnvironmentRevisions", func(ctx context.Context) ([]storage.EnvironmentRevision, error) {
		return f.store().EnvironmentRevisions(ctx, environment, after, limit)
	})
}

func (f *faulty) EnvironmentState(ctx context.Context, environment string, at snapshot.Revision) ([]storage.Version, error) {
	return around(f, ctx, "EnvironmentState", func(ctx context.Context) ([]storage.Version, error) {
		return f.store().EnvironmentState(ctx, environment, at)
	})
}

func (f *faulty) SaveHeads(ctx context.Context, term storage.Term, heads []snapshot.Head) error {
	_, err := around(f, ctx, "SaveHeads", func(ctx context.Context) (struct{}, error) {
		return struct{}{}, f.store().SaveHeads(ctx, term, heads)
	})
	return err
}

func (f *faulty) Cursor(ctx context.Context, target, environment string) (snapshot.Revision, error) {
	return around(f, ctx, "Cursor", func(ctx context.Context) (snapshot.Revision, error) {
		return f.store().Cursor(ctx, target, environment)
	})
}

func (f *faulty) AdvanceCursor(ctx context.Context, term storage.Term, target, environment string, to snapshot.Revision) error {
	_, err := around(f, ctx, "AdvanceCursor", func(ctx context.Context) (struct{}, error) {
		return struct{}{}, f.store().AdvanceCursor(ctx, term, target, environment, to)
	})
	return err
}

func (f *faulty) KeepCursors(ctx context.Context, term storage.Term, targets []string) ([]string, error) {
	return around(f, ctx, "KeepCursors", func(ctx context.Context) ([]string, error) {
		return f.store().KeepCursors(ctx, term, targets)
	})
}

func (f *faulty) Settled(ctx context.Context) error {
	_, err := around(f, ctx, "Settled", func(ctx context.Context) (struct{}, error) { return struct{}{}, f.store().Settled(ctx) })
	return err
}

func (f *faulty) Witness(ctx context.Context, witness string, head snapshot.Head) error {
	_, err := around(f, ctx, "Witness", func(ctx context.Context) (struct{}, error) {
		return struct{}{}, f.store().Witness(ctx, witness, head)
	})
	return err
}

func (f *faulty) Predecessor(ctx context.Context, environment string, before snapshot.Epoch) (snapshot.Position, snapshot.Digest, error) {
	return f.store().Predecessor(ctx, environment, before)
}

// faultyTarget is a target in the same manner.
type faultyTarget struct {
	publish.Target
	*faulty
}

func (f faultyTarget) Heads(ctx context.Context, v *snapshot.Verifier) ([]snapshot.Head, error) {
	return around(f.faulty, ctx, "Target.Heads", func(ctx context.Context) ([]snapshot.Head, error) { return f.Target.Heads(ctx, v) })
}

func (f faultyTarget) Publish(ctx context.Context, v *snapshot.Verifier, snap *snapshot.Snapshot) error {
	_, err := around(f.faulty, ctx, "Publish", func(ctx context.Context) (struct{}, error) { return struct{}{}, f.Target.Publish(ctx, v, snap) })
	return err
}

func (f faultyTarget) PublishFreshness(ctx context.Context, environment string, s *proxyv1.SignedFreshness) error {
	_, err := around(f.faulty, ctx, "PublishFreshness", func(ctx context.Context) (struct{}, error) {
		return struct{}{}, f.Target.PublishFreshness(ctx, environment, s)
	})
	return err
}

// steps are those of a publisher, in about the order in which they come. Each
// comes before and after what it names.
var steps = []string{
	"BeginTerm", "KeepCursors", "Settled", "Target.Heads", "Position", "Witness", "Heads", "EnvironmentState", "Cursor", "EnvironmentRevisions",
	"SaveHeads", "Publish", "AdvanceCursor", "PublishFreshness",
}

// begin prepares a publisher that has to restore, to catch up and to go on, so
// that it takes every step.
func begin(t *testing.T) (l *lab, from int64) {
	t.Helper()
	l = newLab(t)
	r, err := l.raw.Get(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	first := l.start()
	l.commit(environment(t, "aws", "1"))
	l.wantPublished()
	first.stop()
	for i := range 3 {
		l.commit(put(t, policy("p"), fmt.Sprint("backlog ", i)))
	}
	return l, r.Header.Revision + 1
}

// A publisher that dies at any step leaves nothing that another cannot go on
// from.
func TestPublisherDies(t *testing.T) {
	t.Parallel()
	for _, step := range both(steps) {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			l, from := begin(t)
			s := &faulty{Store: l.open(discard)}
			ctx, die := context.WithCancel(t.Context())
			died := make(chan struct{})
			var once sync.Once
			s.at = func(ctx context.Context, now string) context.Context {
				if now == step {
					die()
					once.Do(func() { close(died) })
				}
				return ctx
			}
			r := l.configure(func(c *publish.Config) { c.Store, c.Targets[0].Target = s, faultyTarget{c.Targets[0].Target, s} })
			run(t, func(context.Context) error { return r.Run(ctx) })
			await(t, "it dies", died)
			l.start()
			l.commit(put(t, policy("p"), "after"))
			l.wantPublished()
			l.wantForward("aws", from)
		})
	}
}

// A publisher that is frozen at any step, deposed meanwhile, and wakes up
// again, changes nothing any more.
func TestPublisherIsDeposed(t *testing.T) {
	t.Parallel()
	for _, step := range both(steps) {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			l, from := begin(t)
			s := &faulty{Store: l.open(discard)}
			frozen, thaw := make(chan struct{}), make(chan struct{})
			var once sync.Once
			s.at = func(ctx context.Context, now string) context.Context {
				if now == step {
					once.Do(func() { close(frozen) })
					<-thaw
				}
				select {
				case <-frozen: // from here on it notices nothing of its being deposed
					return context.WithoutCancel(ctx)
				default:
					return ctx
				}
			}
			r := l.configure(func(c *publish.Config) { c.Store, c.Targets[0].Target = s, faultyTarget{c.Targets[0].Target, s} })
			stop := run(t, r.Run)
			wakes := sync.OnceFunc(func() { close(thaw) })
			t.Cleanup(wakes) // else it could not be stopped
			await(t, "it freezes", frozen)
			l.depose()
			for i := range 3 {
				l.commit(put(t, policy("p"), fmt.Sprint("by the other ", i)))
			}
			other := l.configure()
			other.Every(time.Hour, 10*time.Millisecond) // the first head of its term is confirmed
			run(t, other.Run)
			l.wantPublished()
			eventually(t, "it is confirmed", func() bool { return l.freshness("aws").Revision == l.newest("aws") })
			wake := time.Now()
			wakes()
			eventually(t, "the first term ends", func() bool { return r.log.count("publishing ended") > 0 })
			stop()
			l.wantPublished()
			l.wantForward("aws", from)
			l.wantNoneConfirmed("aws", from, wake)
			if r.log.count("level=ERROR") > 0 {
				t.Errorf("a false alarm: %s", r.log)
			}
		})
	}
}

// What fails once is tried again soon, in the same term.
func TestHiccup(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"EnvironmentState", "Position", "EnvironmentRevisions", "SaveHeads", "Publish", "AdvanceCursor", "PublishFreshness"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			s := &faulty{Store: l.open(discard)}
			var hiccups atomic.Int32
			s.fail = func(now string) error {
				if now == step && hiccups.Add(-1) >= 0 {
					return errors.New("hiccup")
				}
				return nil
			}
			var hours atomic.Int64 // so that each head is confirmed
			r := l.configure(func(c *publish.Config) {
				c.Store, c.Targets[0].Target = s, faultyTarget{c.Targets[0].Target, s}
				c.Now = func() time.Time { return time.Unix(3600*hours.Add(1), 0) }
			})
			r.Every(time.Hour, time.Hour)
			run(t, r.Run)
			// Two, since what begins a term confirms the first of them twice.
			for i := range 2 {
				l.commit(environment(t, "aws", fmt.Sprint(i)))
				eventually(t, "it is confirmed", func() bool { return l.freshness("aws").Revision == l.newest("aws") })
			}
			eventually(t, "the security lane is at rest", func() bool { return l.confirmations(snapshot.SecurityLane) == 2 })
			hiccups.Store(2)
			l.commit(environment(t, "aws", "2"))
			l.wantPublished()
			eventually(t, "it is confirmed", func() bool { return l.freshness("aws").Revision == l.newest("aws") })
			eventually(t, "it is over", func() bool { return r.log.count("environment is published again") == 1 })
			if n := r.terms(); n != 1 {
				t.Errorf("there were %d terms", n)
			}
			if n := r.log.count("hiccup"); n != 1 {
				t.Errorf("it was said %d times", n)
			}
		})
	}
}

func both(steps []string) (all []string) {
	for _, s := range steps {
		all = append(all, "before "+s, "after "+s)
	}
	return all
}

// A publisher that lost the election without being told stops by itself.
func TestPublisherIsDeposedSilently(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	first := l.configure()
	first.Every(time.Hour, 50*time.Millisecond)
	run(t, first.Run)
	l.commit(environment(t, "aws", "1"))
	l.wantPublished()
	second := l.configure()
	second.Every(time.Hour, 50*time.Millisecond)
	run(t, second.Run)
	eventually(t, "there is a candidate", func() bool { return len(l.candidates()) == 2 })
	if _, err := l.raw.Delete(t.Context(), l.candidates()[0]); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second publishes", func() bool { return second.log.count("became publisher") == 1 })
	eventually(t, "the first stops", func() bool { return first.log.count("publishing ended") == 1 })
	if n := first.log.count(storage.ErrFenced.Error()); n == 0 {
		t.Errorf("log: %s", first.log)
	}
	l.commit(put(t, policy("p"), "1"))
	l.wantPublished()
}

// Many replicas, deposed all the time, skip and double nothing.
func TestManyTakeovers(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	from, err := l.raw.Get(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		l.start()
	}
	l.commit(environment(t, "aws", "1"), environment(t, "gcp", "1"))
	l.wantPublished()
	for i := range 20 {
		l.depose()
		for j := range 3 {
			l.commit(put(t, policy(fmt.Sprint("p-", j)), fmt.Sprint(i), []string{"aws", "gcp"}[j%2]))
		}
		eventually(t, "somebody is elected", func() bool { return l.elected() })
	}
	l.wantPublished()
	l.wantForward("aws", from.Header.Revision+1)
	l.wantForward("gcp", from.Header.Revision+1)
}

func await[T any](t testing.TB, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("it never came to: %s", what)
	}
	return v
}
