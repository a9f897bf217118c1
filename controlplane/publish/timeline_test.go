package publish_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/sallyport/sallyport/controlplane/publish"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

// timeline returns the one of a replica that does not run yet.
func (l *lab) timeline(change ...func(*publish.TimelineConfig)) *publish.Timeline {
	l.Helper()
	c := publish.TimelineConfig{
		Store: l.open(discard), Targets: []publish.Place{{Name: "etcd", Target: l.target()}}, Verifier: signer.Verifier(), Log: slog.New(discard),
	}
	for _, f := range change {
		f(&c)
	}
	return publish.NewTimeline(c)
}

// A replica that was started on a database that was set back makes no change
// before it has noticed, whether it is the publisher or not.
func TestReplicaComparesAtItsStart(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	r := l.start()
	l.commit(environment(t, "aws", "1"))
	l.wantPublished()
	r.stop()
	back := l.restored()
	line := back.timeline()
	early, cancel := context.WithCancel(t.Context())
	cancel()
	if err := line.Compared(early); !errors.Is(err, context.Canceled) {
		t.Errorf("before it runs: %v", err)
	}
	run(t, line.Run)
	if err := line.Compared(t.Context()); err != nil {
		t.Fatal(err)
	}
	back.wantRefused(environment(t, "aws", "1"))
}

// etcdAway is a target that cannot be reached.
type etcdAway struct{ publish.Target }

func (etcdAway) Heads(context.Context, *snapshot.Verifier) ([]snapshot.Head, error) {
	return nil, errors.New("etcd is away")
}

// Changes do not wait for etcd. A proxy that comes with what the database does
// not hold stops them as well, and one that comes with what it holds does not.
func TestProxiesShow(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	r := l.start()
	l.commit(environment(t, "aws", "1"))
	l.wantPublished()
	r.stop()
	line := l.timeline(func(c *publish.TimelineConfig) { c.Targets[0].Target = etcdAway{} })
	run(t, line.Run)
	if err := line.Compared(t.Context()); err != nil {
		t.Fatal(err)
	}
	held, _ := l.published("aws")
	line.Show(held, "spiffe://prod.example/p#1")
	lost, err := signer.SignHead(snapshot.Statement{Epoch: 1, Environment: "aws", Revision: 3, Previous: held.Digest()})
	if err != nil {
		t.Fatal(err)
	}
	l.commit(put(t, policy("p"), "1"))
	line.Show(lost, "spiffe://prod.example/p#2")
	eventually(t, "it is noticed", func() bool { return errors.Is(l.store.Settled(t.Context()), storage.ErrAhead) })
	seen, err := l.store.Sightings(t.Context())
	if err != nil || len(seen) != 1 || seen[0].Witness != "proxy spiffe://prod.example/p#2" || seen[0].Head != lost.Digest() {
		t.Errorf("seen: %v, %v", seen, err)
	}
	l.wantRefused(put(t, policy("p"), "2"))
}
