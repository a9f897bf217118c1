package etcd_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/snapshot"
	distributionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/distribution/v1"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/etcd"
)

func TestPublishThenLoad(t *testing.T) {
	t.Parallel()
	for name, d := range map[string]documents{
		"nothing":                 {},
		"one document":            {"a": "1"},
		"an empty document":       {"a": ""},
		"documents in all places": many(2000),
		"a chunk of many parts":   crowded(t, 3<<20),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			snap := at(t, 1, d)
			l.publish(l.store(), snap)
			l.wantPublished(snap)
			for key, v := range l.all(l.prefix) {
				if len(v.bytes) > 1<<20 {
					t.Errorf("%s holds %d bytes", key, len(v.bytes))
				}
			}
		})
	}
}

func TestPublishWritesOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := l.store()
	d := many(500)
	first := at(t, 1, d)
	l.publish(s, first)
	before := l.all(l.prefix)
	d = d.with("doc-7", "changed")
	second := at(t, 2, d)
	l.publish(s, second)
	l.wantPublished(second)
	after := l.all(l.prefix)
	written := slices.DeleteFunc(slices.Collect(maps.Keys(after)), func(key string) bool {
		return before[key].revision == after[key].revision
	})
	if len(written) != 2 || !slices.Contains(written, l.headKey()) {
		t.Errorf("one document changed, written was %v", written)
	}
	// Another process knows nothing of what was written, and writes as little.
	l.publish(l.store(), at(t, 3, d))
	for key, v := range l.all(l.chunkPrefix()) {
		if v.revision != after[key].revision {
			t.Errorf("%s was written again", key)
		}
	}
}

func TestPublishIsIdempotent(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	snap := at(t, 1, many(50))
	s := l.store()
	l.publish(s, snap)
	before := l.all(l.prefix)
	l.publish(s, snap)
	l.publish(l.store(), snap)
	if after := l.all(l.prefix); !maps.Equal(before, after) {
		t.Error("publishing again changed something")
	}
}

// Everything in etcd can be deleted, or spoilt, while it runs.
func TestPublishMends(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	snap := at(t, 1, crowded(t, 2<<20).with("elsewhere", "1"))
	s := l.store()
	l.publish(s, snap)
	whole := l.all(l.prefix)
	harms := map[string]func(key string){
		"deleted":        func(key string) { l.remove(key) },
		"emptied":        func(key string) { l.put(key, "") },
		"one bit is off": func(key string) { l.put(key, flip(whole[key].bytes)) },
		"too large":      func(key string) { l.put(key, strings.Repeat("x", 1<<20+1)) },
	}
	for name, harm := range harms {
		for key := range whole {
			for which, mender := range map[string]*etcd.Store{"this": s, "another": l.store()} {
				harm(key)
				l.publish(mender, snap)
				if got := l.all(key)[key].bytes; got != whole[key].bytes {
					t.Fatalf("%s: %s was not mended by %s publisher", key, name, which)
				}
			}
		}
	}
	l.remove(l.prefix, clientv3.WithPrefix())
	l.publish(s, snap)
	l.wantPublished(snap)
}

func flip(s string) string {
	b := []byte(s)
	b[len(b)/2] ^= 1
	return string(b)
}

func TestPublishOverwritesWhatIsNotOurs(t *testing.T) {
	t.Parallel()
	snap := at(t, 5, many(20))
	head := func(s statement) *distributionv1.PublishedHead {
		return &distributionv1.PublishedHead{Head: s.of(t, documents{"a": "b"}.set(t)).Head().Signed()}
	}
	tampered := head(statement{"aws-prod", 1, 9, ours})
	tampered.Head.Head = []byte(flip(string(tampered.GetHead().GetHead())))
	intact := func(l *lab) *distributionv1.PublishedHead { l.publish(l.store(), snap); return l.head() }
	for name, put := range map[string]func(l *lab){
		"older":                  func(l *lab) { l.putHead(head(statement{"aws-prod", 1, 4, ours})) },
		"later, not signed":      func(l *lab) { l.putHead(head(statement{"aws-prod", 1, 9, signer(2)})) },
		"later, tampered":        func(l *lab) { l.putHead(tampered) },
		"of another environment": func(l *lab) { l.putHead(head(statement{"gcp-prod", 1, 9, ours})) },
		"no head":                func(l *lab) { l.put(l.headKey(), "\xff") },
		"empty":                  func(l *lab) { l.put(l.headKey(), "") },
		"too large":              func(l *lab) { l.put(l.headKey(), strings.Repeat("\x00", 1<<20)) },
		"ours, without buckets": func(l *lab) {
			h := intact(l)
			h.Buckets = nil
			l.putHead(h)
		},
		"ours, with a bucket too many": func(l *lab) {
			h := intact(l)
			h.Buckets = append(h.Buckets, h.GetBuckets()[0])
			l.putHead(h)
		},
		"ours, with other parts": func(l *lab) {
			h := intact(l)
			h.GetBuckets()[0].Parts = 2
			l.putHead(h)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			put(l)
			l.publish(l.store(), snap)
			l.wantPublished(snap)
		})
	}
}

func TestPublishNeverGoesBack(t *testing.T) {
	t.Parallel()
	d := many(20)
	for name, there := range map[string]*snapshot.Snapshot{
		"a later revision":              at(t, 6, d),
		"a later epoch":                 statement{"aws-prod", 2, 1, ours}.of(t, d.set(t)),
		"another head at this revision": at(t, 5, d.with("doc-1", "other")),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.publish(l.store(), there)
			before := l.all(l.prefix)
			err := l.store().Publish(t.Context(), ours.Verifier(), at(t, 5, d))
			if !errors.Is(err, storage.ErrAhead) {
				t.Errorf("got %v", err)
			}
			if !maps.Equal(before, l.all(l.prefix)) {
				t.Error("something was written")
			}
		})
	}
}

func TestPublishOfANewEpoch(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := many(20)
	l.publish(l.store(), at(t, 900, d))
	recovered := statement{"aws-prod", 2, 7, ours}.of(t, d.set(t))
	l.publish(l.store(), recovered)
	l.wantPublished(recovered)
}

func TestPublishNoticesThatItWasOvertaken(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.publish(l.store(), at(t, 1, many(20)))
	slow, fast := l.store(), l.store()
	later := at(t, 3, many(30))
	var once sync.Once
	slow.Before(func() { once.Do(func() { l.publish(fast, later) }) })
	err := slow.Publish(t.Context(), ours.Verifier(), at(t, 2, many(25)))
	if !errors.Is(err, etcd.ErrRaced) {
		t.Errorf("got %v", err)
	}
	l.wantPublished(later)
}

// Whatever publishers do at the same time, the head moves forward alone.
func TestRacingPublishers(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	start, err := l.raw.Get(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	const publishers, revisions = 4, 30
	var all sync.WaitGroup
	for p := range publishers {
		s := l.store()
		all.Go(func() {
			for r := range snapshot.Revision(revisions) {
				err := s.Publish(t.Context(), ours.Verifier(), at(t, r+1, documents{"a": fmt.Sprint(r), "b": "c"}))
				if err != nil && !errors.Is(err, etcd.ErrRaced) && !errors.Is(err, storage.ErrAhead) {
					t.Errorf("publisher %d, revision %d: %v", p, r+1, err)
				}
			}
		})
	}
	all.Wait()
	l.publish(l.store(), at(t, revisions+1, documents{"a": "b"}))
	watch := l.raw.Watch(t.Context(), l.headKey(), clientv3.WithRev(start.Header.Revision+1))
	for last := snapshot.Revision(0); last <= revisions; {
		for _, e := range (<-watch).Events {
			var p distributionv1.PublishedHead
			if err := proto.Unmarshal(e.Kv.Value, &p); err != nil {
				t.Fatal(err)
			}
			head, err := ours.Verifier().VerifyHead(p.GetHead())
			if err != nil {
				t.Fatal(err)
			}
			if head.Revision <= last {
				t.Fatalf("revision %d was published after %d", head.Revision, last)
			}
			last = head.Revision
		}
	}
}

func TestSweep(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := l.store()
	contents := func(i int) documents { return many(300).with("doc-1", fmt.Sprint("version ", i)) }
	var chunks []string // of the bucket that changes
	for i := range 4 {
		snap := at(t, snapshot.Revision(i+1), contents(i))
		l.publish(s, snap)
		for b := range snap.Set().Buckets() {
			for _, e := range b.Entries {
				if e.Key.Name == "doc-1" {
					chunks = append(chunks, l.chunkKey(b.Digest, 0))
				}
			}
		}
	}
	there := l.all(l.chunkPrefix())
	for i, want := range []bool{false, false, true, true} {
		if _, got := there[chunks[i]]; got != want {
			t.Errorf("chunk of revision %d is there: %v", i+1, got)
		}
	}
	// What was swept is written again when it is needed again.
	again := at(t, 5, contents(0))
	l.publish(s, again)
	l.wantPublished(again)
}

func TestSweepOfManyChunks(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := l.store()
	for i := range 3 {
		d := documents{}
		for j := range 400 {
			d[fmt.Sprint("doc-", j)] = fmt.Sprint(i)
		}
		l.publish(s, at(t, snapshot.Revision(i+1), d))
	}
	named := len(l.head().GetBuckets())
	if got := len(l.all(l.chunkPrefix())); got != 2*named {
		t.Errorf("%d chunks are there, want those of two heads with %d each", got, named)
	}
}

// A publisher that is late must not remove what a later head needs.
func TestSweepStopsForALaterHead(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	slow, fast := l.store(), l.store()
	l.publish(slow, at(t, 1, documents{"a": "1"}))
	l.publish(slow, at(t, 2, documents{"a": "2"}))
	later := at(t, 4, documents{"a": "1"})
	writes := 0
	slow.Before(func() {
		if writes++; writes == 3 { // chunk, head, and now what is to be removed
			l.publish(fast, later)
		}
	})
	err := slow.Publish(t.Context(), ours.Verifier(), at(t, 3, documents{"a": "3"}))
	if !errors.Is(err, etcd.ErrRaced) {
		t.Errorf("got %v", err)
	}
	l.wantPublished(later)
}

func TestHeads(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := l.store()
	d := documents{"a": "b"}
	l.publish(s, at(t, 3, d))
	l.publish(s, statement{"gcp-prod", 1, 4, ours}.of(t, d.set(t)))
	foreign := statement{"onprem", 1, 5, ours}.of(t, d.set(t)).Head().Signed()
	b, err := proto.Marshal(&distributionv1.PublishedHead{Head: foreign})
	if err != nil {
		t.Fatal(err)
	}
	l.put(l.prefix+"/env/other/head", string(b))
	l.put(l.prefix+"/env/rubbish/head", "\xff")
	l.put(l.prefix+"/env/a/b/head", string(b))
	if err := s.Publish(t.Context(), ours.Verifier(), statement{"not-signed", 1, 5, signer(2)}.of(t, d.set(t))); err != nil {
		t.Fatal(err)
	}
	heads, err := s.Heads(t.Context(), ours.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]snapshot.Revision{}
	for _, h := range heads {
		got[h.Environment] = h.Revision
	}
	if want := (map[string]snapshot.Revision{"aws-prod": 3, "gcp-prod": 4}); !maps.Equal(got, want) {
		t.Errorf("heads are %v, want %v", got, want)
	}
}

func TestHeadsOfManyEnvironments(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	const environments = 1100 // more than two pages
	for i := range environments {
		name := fmt.Sprintf("env-%04d", i)
		head := statement{name, 1, 1, ours}.of(t, nil).Head().Signed()
		b, err := proto.Marshal(&distributionv1.PublishedHead{Head: head})
		if err != nil {
			t.Fatal(err)
		}
		l.put(l.prefix+"/env/"+name+"/head", string(b))
	}
	heads, err := l.store().Heads(t.Context(), ours.Verifier())
	if err != nil || len(heads) != environments {
		t.Errorf("got %d heads, %v", len(heads), err)
	}
}

func TestStoresAreApart(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.publish(l.store(), at(t, 1, documents{"a": "b"}))
	l.prefix += "2"
	if all := l.all(l.prefix); len(all) > 0 {
		t.Errorf("another prefix holds %d keys", len(all))
	}
	heads, err := l.store().Heads(t.Context(), ours.Verifier())
	if err != nil || len(heads) > 0 {
		t.Errorf("another prefix has %d heads, %v", len(heads), err)
	}
}
