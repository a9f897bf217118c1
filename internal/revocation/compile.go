package revocation

import (
	"hash/maphash"
	"maps"
	"runtime"
	"slices"
	"sync"

	"github.com/sallyport/sallyport/internal/failpoint"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
)

// Compile makes s ready to answer. It never fails: see Set.Rejects. What prev
// has of the same documents is used again, so that a change costs what it
// touches; prev may be nil, and is not changed.
func Compile(prev *Set, s *snapshot.Snapshot) *Set {
	b := &builder{set: &Set{}, shards: make(map[*shard]bool)}
	if prev != nil {
		*b.set = *prev
	}
	b.set.snapshot = s
	var wanted [snapshot.BucketCount]snapshot.Bucket
	for bucket := range s.Set().Buckets() {
		wanted[bucket.Index] = bucket
	}
	var changes []*change
	var unread []*document
	for i := range wanted {
		if before := b.set.buckets[i]; wanted[i].Digest != before.signed() {
			c := before.change(i, wanted[i])
			changes, unread = append(changes, c), append(unread, c.added...)
		}
	}
	inParallel(len(unread), func(i int) { unread[i].read() })
	for _, c := range changes {
		b.replace(c)
	}
	b.finish()
	return b.set
}

// inParallel calls do with 0 to n-1, on every processor when it is worth it.
func inParallel(n int, do func(int)) {
	const share = 256
	var wg sync.WaitGroup
	workers := min(runtime.GOMAXPROCS(0), (n+share-1)/share)
	for w := range workers {
		wg.Go(func() {
			for i := n * w / workers; i < n*(w+1)/workers; i++ {
				do(i)
			}
		})
	}
	wg.Wait()
}

// change is what becomes of a bucket.
type change struct {
	index   int
	next    *bucket
	removed map[resource.Key]*document
	added   []*document // of next, to be read
}

// change returns what makes of a bucket the one that is wanted.
func (b *bucket) change(i int, wanted snapshot.Bucket) *change {
	c := &change{index: i, removed: b.byKey()}
	c.next = &bucket{digest: wanted.Digest, documents: make([]*document, 0, len(wanted.Entries))}
	for _, e := range wanted.Entries {
		r := c.removed[e.Key]
		if r == nil || r.entry.Digest != e.Digest {
			r = &document{entry: e}
			c.added = append(c.added, r)
		} else {
			delete(c.removed, e.Key)
		}
		c.next.documents = append(c.next.documents, r)
	}
	return c
}

// builder makes a set, which begins as the one before. It copies what it
// changes for the first time.
type builder struct {
	set     *Set
	indexes [kinds]bool
	shards  map[*shard]bool
}

// replace takes over what a bucket of the snapshot holds.
func (b *builder) replace(c *change) {
	for _, r := range c.removed {
		b.edit(r, without)
	}
	for _, r := range c.added {
		b.edit(r, inserted)
	}
	c.next.seal()
	b.set.buckets[c.index] = c.next
}

// edit changes the lists that a document belongs to, if it belongs to any.
func (b *builder) edit(r *document, change func([]*document, *document) []*document) {
	if r.reject != "" || failpoint.Active("revocation.drop") {
		return
	}
	for _, at := range r.places {
		lists := b.lists(at)
		if list := change(lists[at.subject], r); len(list) > 0 {
			lists[at.subject] = list
		} else {
			delete(lists, at.subject)
		}
	}
}

// lists returns the lists that the one of a place is among, ours to change.
func (b *builder) lists(of place) map[subject][]*document {
	x := b.index(of.kind)
	at := &x.shards[x.place(of.subject.id)]
	switch {
	case *at == nil:
		*at = &shard{lists: make(map[subject][]*document)}
	case !b.shards[*at]:
		*at = &shard{lists: maps.Clone((*at).lists)}
	}
	b.shards[*at] = true
	return (*at).lists
}

// index returns the index of a kind, ours to change but for its shards.
func (b *builder) index(k kind) *index {
	if !b.indexes[k] {
		b.indexes[k] = true
		x := &index{seed: maphash.MakeSeed()}
		if old := b.set.indexes[k]; old != nil {
			*x = *old
		}
		b.set.indexes[k] = x
	}
	return b.set.indexes[k]
}

// finish computes what follows from the rest.
func (b *builder) finish() {
	for s := range b.shards {
		s.count()
	}
	b.set.rejects = nil
	for _, bucket := range &b.set.buckets {
		if bucket != nil {
			b.set.rejects = append(b.set.rejects, bucket.rejects...)
		}
	}
	slices.SortFunc(b.set.rejects, func(a, b resource.Reject) int { return a.Key.Compare(b.Key) })
	b.set.unavailable = b.set.doubt()
}
