package snapshot

import (
	"bytes"
	"slices"
)

// Spread are entries by the bucket that they are in.
type Spread [BucketCount][]*Entry

// Add puts an entry into its bucket.
func (s *Spread) Add(e *Entry) { s[e.key[0]] = append(s[e.key[0]], e) }

// Bucket returns which bucket of a Set the entry is in.
func (e *Entry) Bucket() int { return int(e.key[0]) }

// Sums are the digests of the buckets of a set, kept to compute those of another that
// holds mostly the same entries: digests of entries that are the very same are not
// made again. They are immutable. Nil are those of nothing.
type Sums struct {
	ordered, others *Spread
	digests         [BucketCount]Digest
	root            Digest
}

// Sum returns the sums of the set that holds exactly these entries: ordered ones, which
// are in the order of All, and others in any. Neither is to be changed from then on.
func Sum(before *Sums, ordered, others *Spread) *Sums {
	if before == nil {
		before = &Sums{ordered: &Spread{}, others: &Spread{}}
	}
	next := &Sums{ordered: ordered, others: others, digests: before.digests}
	for i := range next.digests {
		slices.SortFunc(others[i], func(a, b *Entry) int { return bytes.Compare(a.key[:], b.key[:]) })
		if !slices.Equal(ordered[i], before.ordered[i]) || !slices.Equal(others[i], before.others[i]) {
			next.digests[i] = DigestOfBucket(slices.Concat(ordered[i], others[i]))
		}
	}
	next.root = RootOfBuckets(&next.digests)
	return next
}

// Root returns the root of the set, as that of a Set is.
func (s *Sums) Root() Digest { return s.root }
