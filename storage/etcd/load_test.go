package etcd_test

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/snapshot"
	distributionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/distribution/v1"
	"github.com/sallyport/sallyport/storage/etcd"
	"github.com/sallyport/sallyport/storage/storagetest"
)

func TestLoadTakesWhatItHasFromBase(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := l.store()
	d := many(300)
	base := at(t, 1, d)
	l.publish(s, base)
	next := at(t, 2, d.with("doc-5", "changed"))
	l.publish(s, next)
	for b := range base.Set().Buckets() {
		l.remove(l.chunkKey(b.Digest, 0)) // the changed one has another key now
	}
	got, err := s.Load(t.Context(), ours.Verifier(), base.Set(), l.head())
	if err != nil || got.Set().Root() != next.Set().Root() {
		t.Fatalf("with base: %v", err)
	}
	if _, err := s.Load(t.Context(), ours.Verifier(), nil, l.head()); !errors.Is(err, etcd.ErrIncomplete) {
		t.Errorf("without base: %v", err)
	}
}

func TestLoadDropsBucketsThatAreGone(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := l.store()
	base := at(t, 1, many(300))
	next := at(t, 2, documents{"doc-1": "alone"})
	l.publish(s, next)
	got, err := s.Load(t.Context(), ours.Verifier(), base.Set(), l.head())
	if err != nil || got.Set().Len() != 1 {
		t.Fatalf("%v", err)
	}
}

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	snap := at(t, 2, crowded(t, 2<<20).with("doc-a", "1").with("doc-b", "2").with("doc-c", "3"))
	buckets := slices.Collect(snap.Set().Buckets())
	last := len(buckets) - 1
	chunk := func(l *lab) (string, *distributionv1.Chunk) {
		key := l.chunkKey(buckets[last].Digest, 0)
		c := &distributionv1.Chunk{}
		if err := proto.Unmarshal([]byte(l.all(key)[key].bytes), c); err != nil {
			t.Fatal(err)
		}
		return key, c
	}
	putChunk := func(l *lab, change func(c *distributionv1.Chunk)) {
		key, c := chunk(l)
		change(c)
		b, err := proto.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		l.put(key, string(b))
	}
	head := func(change func(h *distributionv1.PublishedHead)) func(*lab) {
		return func(l *lab) {
			h := l.head()
			change(h)
			l.putHead(h)
		}
	}
	bucket := func(change func(b *distributionv1.Bucket)) func(*lab) {
		return head(func(h *distributionv1.PublishedHead) { change(h.GetBuckets()[last]) })
	}
	type check struct {
		what string
		harm func(l *lab)
		want error
	}
	for _, c := range []check{
		{"head: one bit is off", head(func(h *distributionv1.PublishedHead) { h.Head.Head = []byte(flip(string(h.GetHead().GetHead()))) }), snapshot.ErrSignature},
		{"head: one bit of the signature is off", head(func(h *distributionv1.PublishedHead) {
			h.Head.Signature = []byte(flip(string(h.GetHead().GetSignature())))
		}), snapshot.ErrSignature},
		{"head: signed by another key", head(func(h *distributionv1.PublishedHead) {
			h.Head = statement{"aws-prod", 1, 2, signer(2)}.of(t, snap.Set()).Head().Signed()
		}), snapshot.ErrSignature},
		{"head: none", head(func(h *distributionv1.PublishedHead) { h.Head = nil }), snapshot.ErrSignature},
		{"head: of another snapshot", head(func(h *distributionv1.PublishedHead) { h.Head = at(t, 1, many(3)).Head().Signed() }), etcd.ErrBuckets},

		{"buckets: one is missing", head(func(h *distributionv1.PublishedHead) { h.Buckets = h.GetBuckets()[1:] }), etcd.ErrBuckets},
		{"buckets: none", head(func(h *distributionv1.PublishedHead) { h.Buckets = nil }), etcd.ErrBuckets},
		{"buckets: one is named twice", head(func(h *distributionv1.PublishedHead) { h.Buckets = append(h.GetBuckets(), h.GetBuckets()[0]) }), etcd.ErrBuckets},
		{"buckets: one too many", head(func(h *distributionv1.PublishedHead) {
			h.Buckets = append(h.GetBuckets(), &distributionv1.Bucket{Index: free(buckets), Digest: buckets[0].Digest[:], Parts: 1})
		}), etcd.ErrBuckets},
		{"buckets: two have changed places", head(func(h *distributionv1.PublishedHead) {
			a, b := h.GetBuckets()[0], h.GetBuckets()[last]
			a.Digest, b.Digest = b.GetDigest(), a.GetDigest()
		}), etcd.ErrBuckets},
		{"bucket: index is 256", bucket(func(b *distributionv1.Bucket) { b.Index = snapshot.BucketCount }), etcd.ErrBuckets},
		{"bucket: index is huge", bucket(func(b *distributionv1.Bucket) { b.Index = math.MaxUint32 }), etcd.ErrBuckets},
		{"bucket: digest is short", bucket(func(b *distributionv1.Bucket) { b.Digest = b.GetDigest()[1:] }), etcd.ErrBuckets},
		{"bucket: another digest", bucket(func(b *distributionv1.Bucket) { b.Digest = []byte(flip(string(b.GetDigest()))) }), etcd.ErrBuckets},
		{"bucket: no parts", bucket(func(b *distributionv1.Bucket) { b.Parts = 0 }), etcd.ErrBuckets},
		{"bucket: parts without end", bucket(func(b *distributionv1.Bucket) { b.Parts = math.MaxUint32 }), etcd.ErrBuckets},
		{"buckets: too many parts together", head(func(h *distributionv1.PublishedHead) {
			for _, b := range h.GetBuckets() {
				b.Parts = 500
			}
		}), etcd.ErrBuckets},
		{"bucket: a part too many", bucket(func(b *distributionv1.Bucket) { b.Parts++ }), etcd.ErrIncomplete},
		{"bucket: a part too few", head(func(h *distributionv1.PublishedHead) { widest(h).Parts-- }), etcd.ErrIncomplete},

		{"chunks: none", func(l *lab) { l.remove(l.chunkPrefix(), clientv3.WithPrefix()) }, etcd.ErrIncomplete},
		{"chunk: missing", func(l *lab) { l.remove(l.chunkKey(buckets[0].Digest, 0)) }, etcd.ErrIncomplete},
		{"chunk: one bit is off", func(l *lab) {
			key := l.chunkKey(buckets[0].Digest, 0)
			l.put(key, flip(l.all(key)[key].bytes))
		}, etcd.ErrIncomplete},
		{"chunk: cannot be parsed", func(l *lab) { l.put(l.chunkKey(buckets[0].Digest, 0), "\xff") }, etcd.ErrIncomplete},
		{"chunk: too large", func(l *lab) { l.put(l.chunkKey(buckets[0].Digest, 0), strings.Repeat("x", 1<<20+1)) }, etcd.ErrIncomplete},
		{"chunk: a part is missing", func(l *lab) {
			for _, b := range buckets {
				l.remove(l.chunkKey(b.Digest, 1))
			}
		}, etcd.ErrIncomplete},
		{"chunk: empty", func(l *lab) { putChunk(l, func(c *distributionv1.Chunk) { c.Documents = nil }) }, etcd.ErrIncomplete},
		{"chunk: a document is there twice", func(l *lab) {
			putChunk(l, func(c *distributionv1.Chunk) { c.Documents = append(c.GetDocuments(), c.GetDocuments()[0]) })
		}, etcd.ErrIncomplete},
		{"chunk: a document of another bucket", func(l *lab) {
			putChunk(l, func(c *distributionv1.Chunk) { c.Documents = append(c.GetDocuments(), buckets[0].Entries[0].Document) })
		}, etcd.ErrIncomplete},
		{"chunk: a document is no document", func(l *lab) {
			putChunk(l, func(c *distributionv1.Chunk) { c.Documents[0] = []byte("\xff") })
		}, etcd.ErrIncomplete},
		{"chunk: that of another bucket", func(l *lab) {
			key := l.chunkKey(buckets[0].Digest, 0)
			l.put(l.chunkKey(buckets[last].Digest, 0), l.all(key)[key].bytes)
		}, etcd.ErrIncomplete},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			s := l.store()
			l.publish(s, snap)
			c.harm(l)
			got, err := s.Load(t.Context(), ours.Verifier(), nil, l.head())
			if !errors.Is(err, c.want) || got != nil {
				t.Errorf("got %v, %v, want %v", got, err, c.want)
			}
			l.publish(s, snap)
			l.wantPublished(snap)
		})
	}
}

// free returns an index that no bucket has.
func free(buckets []snapshot.Bucket) uint32 {
	used := map[int]bool{}
	for _, b := range buckets {
		used[b.Index] = true
	}
	for i := range snapshot.BucketCount {
		if !used[i] {
			return uint32(i)
		}
	}
	return 0
}

func widest(h *distributionv1.PublishedHead) *distributionv1.Bucket {
	return slices.MaxFunc(h.GetBuckets(), func(a, b *distributionv1.Bucket) int { return int(a.GetParts()) - int(b.GetParts()) })
}

func TestLoadWithoutEtcd(t *testing.T) {
	t.Parallel()
	server := storagetest.NewEtcd(t)
	l := labAt(t, server.Endpoints())
	s := l.store()
	l.publish(s, at(t, 1, many(300)))
	h := l.head()
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(t.Context(), ours.Verifier(), nil, h); err == nil || errors.Is(err, etcd.ErrIncomplete) {
		t.Errorf("got %v", err)
	}
}
