package compile

import (
	"iter"
	"maps"
	"slices"

	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
)

// mostPatched is the number of changed policies from which on it is cheaper to
// build the table anew.
const mostPatched = 64

// patch makes the table of s out of prev when they differ in few policies alone,
// and in what these refer to by name, at the cost of the policies that do and of
// the routes that they select. Else it returns nil.
func patch(prev *Table, s *snapshot.Snapshot) *Table {
	if !same(prev, s) || prev.matcher == nil {
		return nil
	}
	upserts, removed := prev.snapshot.Set().Changes(s.Set())
	if len(upserts)+len(removed) > mostPatched {
		return nil
	}
	changed := make(map[resource.Key]*document, len(upserts)+len(removed))
	for _, key := range removed {
		changed[key] = nil
	}
	for _, e := range upserts {
		changed[e.Key] = nil
		if isAttached(e.Key.Kind) || isTerm(e.Key.Kind) {
			changed[e.Key] = read(s.Head().Environment, e)
		}
	}
	for key, d := range changed {
		if !local(key.Kind, prev.kind(key.Kind)[key]) || !local(key.Kind, d) {
			return nil
		}
	}
	t := *prev
	t.snapshot = s
	t.rejected = maps.Clone(t.rejected)
	t.rename(changed)
	t.rewrite(changed)
	t.rebind(prev, changed)
	if changesLimits(changed) {
		t.list()
	}
	t.rejects = nil
	t.summarize()
	return &t
}

func changesLimits(changed map[resource.Key]*document) bool {
	for key := range changed {
		if key.Kind == resource.KindRateLimit {
			return true
		}
	}
	return false
}

// local reports whether a document of a kind concerns no more than routes that it
// selects, or what refers to it by name.
func local(kind resource.Kind, d *document) bool {
	switch {
	case isAttached(kind):
		return d == nil || d.control.reach == selected
	case isTerm(kind):
		return d == nil || d.control.reach == nothing
	}
	return false
}

// rename takes over changed terms, nil ones being gone, and makes the policies
// that refer to them changed ones as well.
func (t *Table) rename(changed map[resource.Key]*document) {
	namespaces := make(map[string]bool)
	for key, d := range changed {
		if !isTerm(key.Kind) {
			continue
		}
		if len(namespaces) == 0 {
			t.byName = maps.Clone(t.byName)
		}
		namespaces[key.Namespace] = true
		delete(changed, key)
		delete(t.byName, key)
		delete(t.rejected, key)
		if d != nil {
			t.byName[key] = d
		}
		if d != nil && d.reject != "" {
			t.reject(d, d.reject)
		}
	}
	if len(namespaces) == 0 {
		return
	}
	t.name()
	for _, l := range t.linkAll(t.others(namespaces, changed)) {
		if key := l.from.entry.Key; l.to != l.from || l.reason != t.rejected[key].reason {
			changed[key] = l.to
		}
	}
}

// others yields the policies of namespaces that are not changed.
func (t *Table) others(namespaces map[string]bool, changed map[resource.Key]*document) iter.Seq[*document] {
	return func(yield func(*document) bool) {
		for key, d := range t.written {
			if _, is := changed[key]; namespaces[key.Namespace] && !is && !yield(d) {
				return
			}
		}
	}
}

// rewrite takes over changed policies; nil ones are gone.
func (t *Table) rewrite(changed map[resource.Key]*document) {
	t.written, t.unbound = maps.Clone(t.written), maps.Clone(t.unbound)
	for key, d := range changed {
		delete(t.written, key)
		delete(t.rejected, key)
		delete(t.unbound, key)
		if d == nil {
			continue
		}
		reason := d.reject
		if len(d.terms) > 0 {
			d, reason = t.link(d)
			changed[key] = d
		}
		t.written[key] = d
		if reason != "" {
			t.reject(d, reason)
		}
	}
	t.resolvePolicies(func(yield func(*document) bool) {
		for _, d := range changed {
			if d != nil && !yield(d) {
				return
			}
		}
	})
}

// rebind attaches policies anew to the routes that changed ones select, or
// selected in prev.
func (t *Table) rebind(prev *Table, changed map[resource.Key]*document) {
	affected := make(map[int32]bool)
	t.selections = maps.Clone(t.selections)
	for key := range changed {
		if own := t.selections[key.Namespace]; own == prev.selections[key.Namespace] {
			t.selections[key.Namespace] = own.copied()
		}
	}
	for key, d := range changed {
		before := prev.written[key]
		t.selections[key.Namespace].replace(before, d)
		t.selectedBy(before, affected)
		if n := t.selectedBy(d, affected); d != nil && n == 0 && t.rejected[key].document == nil {
			t.unbound[key] = d
		}
	}
	t.routes = slices.Clone(t.routes)
	bound, above := []policy.Binding{t.unattached()}, t.above()
	for slot := range affected {
		b, _ := t.bind(slot, above)
		bound = append(bound, b)
	}
	t.policies = t.policies.With(bound)
}

// selectedBy adds the routes that a policy selects to slots, and counts them.
func (t *Table) selectedBy(d *document, slots map[int32]bool) (n int) {
	if d == nil || t.namespaces[d.control.namespace] == nil {
		return 0
	}
	for slot := range t.namespaces[d.control.namespace].candidates(d.control.routes) {
		if d.control.controls(t.resolved[slot]) {
			slots[slot] = true
			n++
		}
	}
	return n
}
