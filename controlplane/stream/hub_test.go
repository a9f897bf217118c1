package stream_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sallyport/sallyport/controlplane/stream"
	"github.com/sallyport/sallyport/internal/snapshot"
	distributionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/distribution/v1"
)

func TestHubRefusesHeads(t *testing.T) {
	t.Parallel()
	l := build(t)
	l.follow()
	current := aws(t, 5, documents{"a": "5"})
	older := aws(t, 4, documents{"a": "4"})
	l.publish(older)
	l.served("aws", 4)
	was := l.published("aws")
	l.publish(current)
	l.served("aws", 5)
	tampered := l.published("aws")
	tampered.Head.Head[3] ^= 1
	forked := aws(t, 5, documents{"a": "fork"})
	refused := 0
	for _, c := range []struct {
		what string
		head *distributionv1.PublishedHead
	}{
		{"an older one", was},
		{"a tampered one", tampered},
		{"another one at the same place", &distributionv1.PublishedHead{Head: forked.Head().Signed()}},
		{"one of another fleet", &distributionv1.PublishedHead{Head: statement{"aws", 9, signer(2)}.of(t, nil).Head().Signed()}},
		{"one of another environment", &distributionv1.PublishedHead{Head: statement{"gcp", 9, ours}.of(t, nil).Head().Signed()}},
		{"none", &distributionv1.PublishedHead{}},
	} {
		l.publishRaw("aws", c.head)
		refused++
		eventually(t, c.what+" is refused", func() bool { return l.log.count("head in etcd was refused") == refused })
		if got := l.hub.State("aws").Snapshot.Head(); got.Digest() != current.Head().Digest() {
			t.Fatalf("%s: revision %d is served", c.what, got.Revision)
		}
	}
	if _, err := l.raw.Delete(t.Context(), l.prefix, clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	l.publish(statement{"gcp", 1, ours}.of(t, nil))
	l.served("gcp", 1)
	l.served("aws", 5)
	l.publish(aws(t, 6, documents{"a": "6"}))
	l.served("aws", 6)
	if n := l.log.count("head in etcd was refused"); n != refused {
		t.Errorf("%d refusals were said, want one each: %d", n, refused)
	}
}

// A head whose chunks are not whole is tried again, and others go on.
func TestHubWaitsForChunks(t *testing.T) {
	t.Parallel()
	l := build(t)
	snap := aws(t, 1, documents{"a": "1", "b": "2", "c": "3"})
	l.publish(snap)
	r, err := l.raw.Get(t.Context(), l.prefix+"/chunk/", clientv3.WithPrefix())
	if err != nil || len(r.Kvs) == 0 {
		t.Fatal(err)
	}
	if _, err := l.raw.Put(t.Context(), string(r.Kvs[0].Key), "damaged"); err != nil {
		t.Fatal(err)
	}
	l.follow()
	eventually(t, "it was tried", func() bool { return l.log.count("could not be loaded yet") == 1 })
	l.publish(statement{"gcp", 1, ours}.of(t, nil))
	l.served("gcp", 1)
	if l.hub.State("aws").Snapshot != nil {
		t.Fatal("a damaged snapshot is served")
	}
	l.publish(snap) // mends the chunk, and leaves the head as it is
	l.served("aws", 1)
	if n := l.log.count("could not be loaded yet"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
}

func TestHubRemembersForAWhile(t *testing.T) {
	t.Parallel()
	l := build(t)
	l.follow()
	var all []*snapshot.Snapshot
	for r := range snapshot.Revision(40) {
		snap := aws(t, r+1, documents{"a": fmt.Sprint(r)})
		all = append(all, snap)
		l.publish(snap)
		l.served("aws", r+1)
	}
	for i, snap := range all {
		found, at := l.hub.Find("aws", snap.Head().Digest()), l.hub.At("aws", snap.Head().Position())
		if want := i >= 8; (found != nil) != want || at != found || found != nil && found.Set().Root() != snap.Set().Root() {
			t.Errorf("revision %d is remembered: %v", i+1, found != nil)
		}
	}
	if l.hub.Find("gcp", all[39].Head().Digest()) != nil {
		t.Error("it is remembered for another environment")
	}
}

// What takes much memory is not remembered for long.
func TestLargeChangesAreForgotten(t *testing.T) {
	t.Parallel()
	l := build(t)
	l.hub.RecentBytes(100_000)
	l.follow()
	var all []*snapshot.Snapshot
	for r := range snapshot.Revision(6) {
		snap := aws(t, r+1, documents{"changes": strings.Repeat(fmt.Sprint(r), 30_000), "stays": strings.Repeat("x", 90_000)})
		all = append(all, snap)
		l.publish(snap)
		l.served("aws", r+1)
	}
	for i, snap := range all { // of which 30 KB each are not in the next one
		if found := l.hub.Find("aws", snap.Head().Digest()); (found != nil) != (i >= 2) {
			t.Errorf("revision %d is remembered: %v", i+1, found != nil)
		}
	}
}

// Proxies that need the same share it.
func TestUpdatesAreShared(t *testing.T) {
	t.Parallel()
	l := build(t)
	l.follow()
	l.publish(aws(t, 1, documents{"a": "1", "b": "1"}))
	l.served("aws", 1)
	base := l.hub.State("aws").Snapshot
	l.publish(aws(t, 2, documents{"a": "2", "b": "1"}))
	l.served("aws", 2)
	next := l.hub.State("aws").Snapshot
	for name, from := range map[string]*snapshot.Snapshot{"full": nil, "delta": base} {
		var all [8][]stream.Part
		var wg sync.WaitGroup
		for i := range all {
			wg.Go(func() { all[i] = l.hub.Updates(from, next) })
		}
		wg.Wait()
		for _, u := range all {
			if len(u) != 1 || u[0].Update != all[0][0].Update {
				t.Errorf("%s: made more than once", name)
			}
		}
	}
	// What is not the newest any more is made all the same.
	l.publish(aws(t, 3, documents{"a": "3"}))
	l.served("aws", 3)
	if u := l.hub.Updates(base, next); len(u) != 1 || len(u[0].Update.GetDocuments()) != 1 {
		t.Errorf("got %v", u)
	}
	newest := l.hub.State("aws").Snapshot
	if u := l.hub.Updates(base, newest); len(u) != 1 || len(u[0].Update.GetRemoved()) != 1 {
		t.Errorf("it is taken for what leads to the newest: %v", u)
	}
}
