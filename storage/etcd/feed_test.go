package etcd_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage/etcd"
	"github.com/sallyport/sallyport/storage/local"
	"github.com/sallyport/sallyport/storage/storagetest"
)

// follow runs a feed until the test ends.
func (l *lab) follow(s *etcd.Store, change ...func(*etcd.Feed)) *etcd.Feed {
	l.Helper()
	f := etcd.NewFeed(s)
	for _, c := range change {
		c(f)
	}
	run(l, f.Run)
	return f
}

// often makes a feed read everything every 200 ms.
func often(f *etcd.Feed) { f.ReadEvery(200 * time.Millisecond) }

// never makes a feed rely on its watch alone.
func never(f *etcd.Feed) { f.ReadEvery(time.Hour) }

func fedRevision(f *etcd.Feed) snapshot.Revision {
	head, err := ours.Verifier().VerifyHead(f.Heads()["aws-prod"].GetHead())
	if err != nil {
		return 0
	}
	return head.Revision
}

// wantFed waits until the feed has said that something changed, and has the
// revision.
func (l *lab) wantFed(f *etcd.Feed, want snapshot.Revision) {
	l.Helper()
	late := time.After(patience)
	for fedRevision(f) != want {
		select {
		case <-f.Changed():
		case <-late:
			l.Fatalf("revision %d never came, it is %d", want, fedRevision(f))
		}
	}
}

func (l *lab) confirm(s *etcd.Store, snap *snapshot.Snapshot, at time.Time) *proxyv1.SignedFreshness {
	l.Helper()
	f, err := ours.SignFreshness(snapshot.Freshness{
		Epoch: 1, Environment: "aws-prod", Revision: snap.Head().Revision, HeadDigest: snap.Head().Digest(), IssuedAt: at,
	})
	if err != nil {
		l.Fatal(err)
	}
	if err := s.PublishFreshness(l.Context(), "aws-prod", f); err != nil {
		l.Fatal(err)
	}
	return f
}

func fedFreshness(f *etcd.Feed) time.Time {
	v, err := ours.Verifier().VerifyFreshness(f.Freshness()["aws-prod"])
	if err != nil {
		return time.Time{}
	}
	return v.IssuedAt
}

func TestFeedSeesWhatIsPublished(t *testing.T) {
	t.Parallel()
	for how, reading := range map[string]func(*etcd.Feed){"by watching": never, "by reading": often} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			s := l.store()
			l.publish(s, at(t, 1, many(10)))
			f := l.follow(l.store(), reading)
			l.wantFed(f, 1)
			for r := range snapshot.Revision(5) {
				l.publish(s, at(t, r+2, many(10+int(r))))
				l.wantFed(f, r+2)
			}
			issued := time.Now().UTC()
			l.confirm(s, at(t, 6, many(14)), issued)
			eventually(t, "freshness is fed", func() bool { return fedFreshness(f).Equal(issued) })
		})
	}
}

// What is read while a watch is late is not undone by it.
func TestFeedDoesNotGoBack(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := l.store()
	f := l.follow(l.store(), func(f *etcd.Feed) { f.ReadEvery(100 * time.Microsecond) })
	snap := at(t, 1, nil)
	first := time.Now().UTC()
	last := first
	written := make(chan struct{})
	go func() {
		defer close(written)
		for range 500 {
			last = last.Add(time.Second)
			l.confirm(s, snap, last)
		}
	}()
	for newest, done := first, false; !done; {
		select {
		case <-written:
			done = true
		default:
		}
		if now := fedFreshness(f); !now.IsZero() && now.Before(newest) {
			t.Fatalf("%s came after %s", now, newest)
		} else if !now.IsZero() {
			newest = now
		}
	}
	eventually(t, "the last one is fed", func() bool { return fedFreshness(f).Equal(last) })
}

// quiet fails if the feed says that something changed before another head,
// which is put last, is there.
func (l *lab) quiet(f *etcd.Feed, s *etcd.Store) {
	l.Helper()
	select {
	case <-f.Changed():
		l.Error("the feed said that something changed")
	default:
	}
	if fedRevision(f) != 1 {
		l.Errorf("the feed holds revision %d", fedRevision(f))
	}
	l.publish(s, at(l, 2, many(11)))
	l.wantFed(f, 2)
}

func drain(f *etcd.Feed) {
	select {
	case <-f.Changed():
	default:
	}
}

func TestFeedTakesNoDeletionForAChange(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := l.store()
	snap := at(t, 1, many(10))
	l.publish(s, snap)
	var log lines
	f := l.follow(l.logging(&log), never)
	l.wantFed(f, 1)
	drain(f)
	l.remove(l.prefix, clientv3.WithPrefix())
	l.publish(s, snap) // the same again is no change either
	l.put(l.prefix+"/env/marker/head", "\xff")
	eventually(t, "the feed has come so far", func() bool { return log.count("environment=marker") > 0 })
	l.quiet(f, s)
}

func TestFeedForgetsWhatIsNotThere(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := l.store()
	l.publish(s, at(t, 1, many(10)))
	l.confirm(s, at(t, 1, many(10)), time.Now())
	f := l.follow(l.store(), often)
	l.wantFed(f, 1)
	eventually(t, "freshness is fed", func() bool { return len(f.Freshness()) == 1 })
	l.remove(l.prefix, clientv3.WithPrefix())
	eventually(t, "nothing is remembered", func() bool { return len(f.Heads())+len(f.Freshness()) == 0 })
	l.publish(s, at(t, 1, many(10)))
	l.wantFed(f, 1)
}

func TestFeedLeavesRubbish(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var log lines
	s := l.store()
	l.publish(s, at(t, 1, many(10)))
	f := l.follow(l.logging(&log), often)
	l.wantFed(f, 1)
	drain(f)
	for _, key := range []string{
		"/env/aws-prod/head", "/env/other/head", "/env/other/freshness", // known keys
		"/env/aws-prod/unknown", "/env/a/b/head", "/env//head", "/env/head", "/env/", "/env/aws-prod/head/more",
	} {
		l.put(l.prefix+key, "\xff")
	}
	l.put(l.prefix+"/env/large/head", strings.Repeat("\x0a\x00", 64<<10))
	l.put(l.prefix+"/env/large/freshness", strings.Repeat("\x0a\x00", 64<<10))
	l.put(l.prefix+"/env/last/head", "\xff")
	eventually(t, "everything was looked at", func() bool { return log.count("environment=last") > 0 })
	if got := len(f.Heads()) + len(f.Freshness()); got != 1 {
		t.Errorf("the feed holds %d values", got)
	}
	l.quiet(f, s)
	if got := log.count("could not be read"); got != 6 {
		t.Errorf("%d complaints, want one for each value that was put", got)
	}
}

// A watch is told nothing about a server that is slow to be wiped: it may only
// be trusted as far as what is read beside it.
func TestFeedOutlives(t *testing.T) {
	t.Parallel()
	stop := func(t *testing.T, e *local.Etcd) {
		t.Helper()
		if err := e.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	start := func(t *testing.T, e *local.Etcd) {
		t.Helper()
		if err := e.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for name, hit := range map[string]func(t *testing.T, l *lab, e *local.Etcd){
		"a restart": func(t *testing.T, _ *lab, e *local.Etcd) { stop(t, e); start(t, e) },
		"a wiped etcd": func(t *testing.T, _ *lab, e *local.Etcd) {
			stop(t, e)
			if err := os.RemoveAll(e.DataDir()); err != nil {
				t.Fatal(err)
			}
			start(t, e)
		},
		"an old backup": func(t *testing.T, l *lab, e *local.Etcd) {
			stop(t, e)
			if err := os.RemoveAll(e.DataDir()); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(e.DataDir(), os.DirFS(e.DataDir()+".old")); err != nil {
				t.Fatal(err)
			}
			start(t, e)
		},
		"a compaction": func(t *testing.T, l *lab, _ *local.Etcd) {
			r, err := l.raw.Put(t.Context(), "elsewhere", "")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := l.raw.Compact(t.Context(), r.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := storagetest.NewEtcd(t)
			stop(t, server)
			if err := os.CopyFS(server.DataDir()+".old", os.DirFS(server.DataDir())); err != nil {
				t.Fatal(err)
			}
			start(t, server)
			l := labAt(t, server.Endpoints())
			s := l.store()
			for r := range snapshot.Revision(20) { // so that a wiped etcd is far behind
				l.publish(s, at(t, r+1, many(10)))
			}
			var log lines
			f := l.follow(l.logging(&log), often)
			l.wantFed(f, 20)
			hit(t, l, server)
			eventually(t, "etcd takes writes again", func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				return l.store().Publish(ctx, ours.Verifier(), at(t, 21, many(10))) == nil
			})
			l.wantFed(f, 21)
			l.publish(s, at(t, 22, many(10)))
			l.wantFed(f, 22)
			// Reading is slow help: what went back has to be watched anew.
			if wiped := name == "a wiped etcd" || name == "an old backup"; wiped != (log.count("went back") > 0) {
				t.Errorf("the feed noticed that etcd went back: %v", !wiped)
			}
		})
	}
}

// A watch that was cut off resumes behind what etcd still remembers.
func TestFeedComesBackAfterCompaction(t *testing.T) {
	t.Parallel()
	server := storagetest.NewEtcd(t)
	l := labAt(t, server.Endpoints())
	s := l.store()
	l.publish(s, at(t, 1, many(10)))
	way := newRelay(t, server)
	var log lines
	f := l.follow(l.through(way).logging(&log), never)
	l.wantFed(f, 1)
	way.cut()
	for r := range snapshot.Revision(5) {
		l.publish(s, at(t, r+2, many(10)))
	}
	r, err := l.raw.Put(t.Context(), "elsewhere", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.raw.Compact(t.Context(), r.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	way.open()
	l.wantFed(f, 6)
	if log.count("compacted") == 0 {
		t.Error("the watch was not compacted: this test shows nothing")
	}
	l.publish(s, at(t, 7, many(10)))
	l.wantFed(f, 7)
}

// A connection that swallows everything ends nothing.
func TestFeedOutlivesSilence(t *testing.T) {
	t.Parallel()
	server := storagetest.NewEtcd(t)
	l := labAt(t, server.Endpoints())
	s := l.store()
	l.publish(s, at(t, 1, many(10)))
	way := newRelay(t, server)
	f := l.follow(l.through(way).store(), often)
	l.wantFed(f, 1)
	way.swallow()
	l.publish(s, at(t, 2, many(10)))
	l.wantFed(f, 2)
}

func TestFeedEndsWithItsContext(t *testing.T) {
	t.Parallel()
	server := storagetest.NewEtcd(t)
	l := labAt(t, server.Endpoints())
	f := etcd.NewFeed(l.store())
	stop := run(t, f.Run)
	l.publish(l.store(), at(t, 1, many(10)))
	l.wantFed(f, 1)
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	stop()
	// Else it had waited for what it has asked, for five seconds.
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("it took %s", took)
	}
}
