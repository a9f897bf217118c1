package compile

import (
	"maps"
	"slices"

	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/resource"
)

// The methods below return a copy of t as a faulty build might have made it.

// LosePolicy drops a policy on the way into the index.
func (t *Table) LosePolicy(namespace, name string) *Table {
	lost := *t
	bound := []policy.Binding{lost.unattached()}
	key := resource.Key{Kind: resource.KindPolicy, Namespace: namespace, Name: name}
	lost.selections = maps.Clone(t.selections)
	lost.selections[namespace] = t.selections[namespace].copied()
	lost.selections[namespace].replace(t.written[key], nil)
	for slot := range t.resolved {
		b, _ := lost.bind(int32(slot), nil)
		bound = append(bound, b)
	}
	lost.policies = policy.NewSet(bound)
	return &lost
}

// LoseUnbound drops the policies that select no route.
func (t *Table) LoseUnbound() *Table {
	lost := *t
	lost.policies = t.policies.With([]policy.Binding{{}})
	return &lost
}

// LoseRoute leaves a route out of what requests are matched with.
func (t *Table) LoseRoute(name string) *Table {
	lost := *t
	documents := slices.Clone(t.matcher.documents)
	for i, d := range documents {
		if d.entry.Key.Name == name {
			without := *d
			without.claims = &claims{none: true}
			documents[i] = &without
		}
	}
	lost.matcher = newMatcher(documents)
	return &lost
}

// KeepRoute leaves a route of an older table in force.
func (t *Table) KeepRoute(older *Table, key resource.Key) *Table {
	kept := *t
	kept.routes = slices.Clone(t.routes)
	for i, r := range kept.routes {
		for _, o := range older.routes {
			if r.Key == key && o.Key == key {
				kept.routes[i] = o
			}
		}
	}
	return &kept
}

// KeepPolicies leaves the policies of an older table in force.
func (t *Table) KeepPolicies(older *Table) *Table {
	kept := *t
	kept.policies = older.policies
	return &kept
}

// LoseRest drops the first upstream, provider and listener, and the
// environment, one in each table.
func (t *Table) LoseRest() []*Table {
	a, b, c, d := *t, *t, *t, *t
	a.upstreams = t.upstreams[1:]
	b.providers = t.providers[1:]
	c.listeners = t.listeners[1:]
	d.environment = nil
	return []*Table{&a, &b, &c, &d}
}
