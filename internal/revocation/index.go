package revocation

import (
	"hash/maphash"
	"slices"
	"strings"
	"time"
)

// index finds the documents of one kind by subject. It is spread over shards,
// so that changing one document copies one of them. A nil index is empty.
type index struct {
	seed   maphash.Seed
	shards [256]*shard // nil where empty
}

// shard does not change once a set has it.
type shard struct {
	lists map[subject][]*document // ordered by name
	live  tally                   // of what is in lists
}

func (x *index) place(id string) uint64 {
	return maphash.String(x.seed, id) % uint64(len(x.shards))
}

// of returns the revocations of an identifier, which may be empty for none.
func (x *index) of(issuer, id string) []*document {
	if x == nil || id == "" {
		return nil
	}
	return x.lookup(issuer, id)
}

func (x *index) lookup(issuer, id string) []*document {
	s := x.shards[x.place(id)]
	if s == nil {
		return nil
	}
	return s.lists[subject{issuer, id}]
}

// first returns the first of the list that cuts off a credential issued at a
// time.
func first(list []*document, issued, now time.Time) *document {
	for _, r := range list {
		if r.cuts(issued, now) {
			return r
		}
	}
	return nil
}

// count makes live what is to be found.
func (s *shard) count() {
	s.live = tally{}
	for _, list := range s.lists {
		for _, r := range list {
			s.live.add(r)
		}
	}
}

// inserted and without return another list than the one they are given, which
// an older set may hold.
func inserted(list []*document, r *document) []*document {
	at, _ := slices.BinarySearchFunc(list, r, func(a, b *document) int {
		return strings.Compare(a.entry.Key.Name, b.entry.Key.Name)
	})
	return slices.Insert(slices.Clip(list), at, r)
}

func without(list []*document, r *document) []*document {
	return slices.DeleteFunc(slices.Clone(list), func(o *document) bool { return o == r })
}
