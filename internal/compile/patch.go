package compile

import (
	"maps"
	"slices"

	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
)

// mostPatched is the number of changed policies from which on it is cheaper to
// build the table anew.
const mostPatched = 64

// patch makes the table of s out of prev when they differ in few policies
// alone, at the cost of the routes that these select. Else it returns nil.
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
		if isAttached(e.Key.Kind) {
			changed[e.Key] = read(s.Head().Environment, e)
		}
	}
	for key, d := range changed {
		if !isAttached(key.Kind) || !local(prev.written[key]) || !local(d) {
			return nil
		}
	}
	t := *prev
	t.snapshot = s
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

// local reports whether a policy concerns no more than routes that it selects.
func local(d *document) bool { return d == nil || d.control.reach == selected }

// rewrite takes over changed policies; nil ones are gone.
func (t *Table) rewrite(changed map[resource.Key]*document) {
	t.written, t.rejected, t.unbound = maps.Clone(t.written), maps.Clone(t.rejected), maps.Clone(t.unbound)
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
	for key, d := range changed {
		before := prev.written[key]
		t.selections[key.Namespace] = t.selections[key.Namespace].replaced(before, d)
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
