package revocation

import (
	"iter"
	"sync"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
)

// bucket is what was read of a bucket of the snapshot. A nil bucket is empty.
type bucket struct {
	digest    snapshot.Digest // that the snapshot has it by
	documents []*document     // in its order, rejected ones too
	rejects   []resource.Reject

	// What is to be found in the indexes of it, and its digest.
	enforced tally
	whole    func() snapshot.Digest
}

func (b *bucket) signed() snapshot.Digest {
	if b == nil {
		return snapshot.Digest{}
	}
	return b.digest
}

func (b *bucket) byKey() map[resource.Key]*document {
	if b == nil {
		return nil
	}
	m := make(map[resource.Key]*document, len(b.documents))
	for _, r := range b.documents {
		m[r.entry.Key] = r
	}
	return m
}

// seal computes what follows from the documents.
func (b *bucket) seal() {
	enforced := make([]*snapshot.Entry, 0, len(b.documents))
	for _, r := range b.documents {
		if r.reject != "" {
			b.rejects = append(b.rejects, resource.Reject{Key: r.entry.Key, Reason: r.reject})
			continue
		}
		for range r.places {
			b.enforced.add(r)
		}
		enforced = append(enforced, &r.entry)
	}
	b.whole = sync.OnceValue(func() snapshot.Digest { return snapshot.DigestOfBucket(enforced) })
}

// EnforcedRoot returns the root over what is enforced: the snapshot's root when
// nothing was rejected, else that of its set without the rejects. It is read
// off the indexes that requests meet and not off the snapshot, so that what got
// lost on the way there is missing in it. Only where all is as it should be
// nothing is hashed again.
func (s *Set) EnforcedRoot() snapshot.Digest {
	var digests [snapshot.BucketCount]snapshot.Digest
	if s == nil {
		return snapshot.RootOfBuckets(&digests)
	}
	if s.live() != s.meant() {
		return snapshot.RootOf(s.found())
	}
	for i, b := range &s.buckets {
		if b != nil {
			digests[i] = b.whole()
		}
	}
	return snapshot.RootOfBuckets(&digests)
}

// Live yields the digests of all that is enforced, as EnforcedRoot finds them: read off
// the indexes.
func (s *Set) Live() iter.Seq2[resource.Key, snapshot.Digest] {
	return func(yield func(resource.Key, snapshot.Digest) bool) {
		if s == nil {
			return
		}
		for _, e := range s.found() {
			if !yield(e.Key, e.Digest) {
				return
			}
		}
	}
}

// live counts what requests may meet, and meant what they should.
func (s *Set) live() (t tally) {
	for _, x := range &s.indexes {
		if x == nil {
			continue
		}
		for _, shard := range &x.shards {
			if shard != nil {
				t.join(shard.live)
			}
		}
	}
	return t
}

func (s *Set) meant() (t tally) {
	for _, b := range &s.buckets {
		if b != nil {
			t.join(b.enforced)
		}
	}
	return t
}

// found returns what requests may meet, wherever they should.
func (s *Set) found() (all []*snapshot.Entry) {
	met := map[*document]int{}
	for _, x := range &s.indexes {
		if x == nil {
			continue
		}
		for _, shard := range &x.shards {
			if shard == nil {
				continue
			}
			for _, list := range shard.lists {
				for _, r := range list {
					if met[r]++; met[r] == len(r.places) {
						all = append(all, &r.entry)
					}
				}
			}
		}
	}
	return all
}
