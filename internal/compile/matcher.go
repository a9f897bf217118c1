package compile

import (
	"errors"
	"strconv"
	"strings"
	"sync"

	"github.com/sallyport/sallyport/internal/route"
	"github.com/sallyport/sallyport/internal/snapshot"
)

// matcher finds the slot of the route that a request takes. It depends on the
// documents of routes alone, and is kept while they stay the same.
type matcher struct {
	documents []*document // by slot
	table     *route.Table[int32]

	// conflicts says, by slot, which other route claims the same. Requests that
	// make such a claim find one of the routes in conflict.
	conflicts map[int32]string

	// reached walks the table, once, for what it can find, by slot.
	reached func() []reached

	// buckets are the slots of the routes of each bucket of a set, in whose order they
	// are.
	buckets func() *[snapshot.BucketCount]span
}

// span are the slots from one up to another.
type span struct{ from, to int }

func spans(documents []*document) *[snapshot.BucketCount]span {
	all := &[snapshot.BucketCount]span{}
	for slot, d := range documents {
		at := &all[d.entry.Bucket()]
		if at.to == 0 {
			at.from = slot
		}
		at.to = slot + 1
	}
	return all
}

// reached is a route that the table finds wherever it matches.
type reached struct {
	slot   int32
	digest snapshot.Digest
}

// newMatcher builds the table. Routes in conflict are entered claim by claim,
// each claim once, until no conflict is left.
func newMatcher(documents []*document) *matcher {
	m := &matcher{documents: documents, conflicts: make(map[int32]string)}
	m.reached = sync.OnceValue(func() (all []reached) {
		for e := range m.table.All() {
			all = append(all, reached{e.Value, e.Digest})
		}
		return all
	})
	m.buckets = sync.OnceValue(func() *[snapshot.BucketCount]span { return spans(documents) })
	slots := make(map[[2]string]int32, len(documents))
	for slot, d := range documents {
		slots[[2]string{d.entry.Key.Namespace, d.entry.Key.Name}] = int32(slot)
	}
	for {
		entries, parts := m.entries()
		table, err := route.NewTable(entries)
		if err == nil {
			m.table = table
			return m
		}
		if !m.divide(err, slots, parts) {
			// Package route has refused what readClaims took: nothing matches, so
			// that everything is denied, and every route is rejected for it.
			m.table = &route.Table[int32]{}
			for slot := range documents {
				m.conflicts[int32(slot)] = "route table: " + err.Error()
			}
			return m
		}
	}
}

// entries returns the entries of all routes: one for each, or one for each
// claim of those in conflict. parts has the slots of the latter.
func (m *matcher) entries() (entries []route.Entry[int32], parts []int32) {
	entries = make([]route.Entry[int32], 0, len(m.documents))
	claimed := make(map[Claim]bool)
	for slot, d := range m.documents {
		if d.claims == nil || d.claims.none {
			continue
		}
		if _, divided := m.conflicts[int32(slot)]; !divided {
			entries = append(entries, d.claims.entry(d, int32(slot)))
			continue
		}
		for _, c := range d.claims.all() {
			if !claimed[c] {
				claimed[c] = true
				entries = append(entries, d.claims.part(c, len(parts), int32(slot)))
				parts = append(parts, int32(slot))
			}
		}
	}
	return entries, parts
}

// divide marks the routes that are in conflict by err. It reports whether there
// are any that were not marked before.
func (m *matcher) divide(err error, slots map[[2]string]int32, parts []int32) bool {
	var problems route.Problems
	if !errors.As(err, &problems) {
		return false
	}
	before := len(m.conflicts)
	for _, p := range problems {
		slot, other := m.slot(p.Namespace, p.Name, slots, parts), int32(-1)
		if namespace, name, ok := strings.Cut(p.Other, "/"); ok {
			other = m.slot(namespace, name, slots, parts)
		}
		m.conflict(slot, other)
		m.conflict(other, slot)
	}
	return len(m.conflicts) > before
}

// slot returns the slot of an entry, which is a route's or that of a part.
func (m *matcher) slot(namespace, name string, slots map[[2]string]int32, parts []int32) int32 {
	if namespace != "" {
		return slots[[2]string{namespace, name}]
	}
	part, err := strconv.Atoi(name)
	if err != nil || part >= len(parts) {
		return -1
	}
	return parts[part]
}

func (m *matcher) conflict(slot, other int32) {
	if slot < 0 || m.conflicts[slot] != "" {
		return
	}
	m.conflicts[slot] = "claims the same twice"
	if other >= 0 {
		m.conflicts[slot] = "claims the same as " + m.documents[other].entry.Key.String()
	}
}
