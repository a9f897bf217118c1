package compile

import (
	"iter"
	"slices"

	"github.com/sallyport/sallyport/internal/failpoint"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/resource"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// resolvePolicies rejects those policies that refer to what is not there.
func (t *Table) resolvePolicies(documents iter.Seq[*document]) {
	for d := range documents {
		if spec := resource.PolicyOf(d.spec); spec != nil {
			if key, absent := t.absent(d.entry.Key.Namespace, spec); absent {
				t.reject(d, missing(key))
			}
		}
	}
}

// absent returns the first thing that a policy refers to and that is not there.
func (t *Table) absent(namespace string, p *resourcev1.Policy) (resource.Key, bool) {
	for _, name := range p.GetRoutes().GetNames() {
		key := resource.Key{Kind: resource.KindRoute, Namespace: namespace, Name: name}
		if t.documents[key] == nil {
			return key, true
		}
	}
	for _, m := range p.GetPrincipals() {
		key := resource.Key{Kind: resource.KindIdentityProvider, Namespace: namespace, Name: m.GetIdentityProvider()}
		if key.Name != "" && t.documents[key] == nil {
			return key, true
		}
		key = resource.Key{Kind: resource.KindAPIKey, Namespace: namespace, Name: m.GetKey()}
		if key.Name != "" && t.documents[key] == nil {
			return key, true
		}
	}
	return resource.Key{}, false
}

// attach attaches policies to routes, and makes routes deny that a rejected
// document controls.
func (t *Table) attach() {
	t.routes = slices.Clone(t.resolved)
	t.unbound = make(map[resource.Key]*document)
	t.selections = make(map[string]*selections)
	for _, d := range t.written {
		in := t.selections[d.entry.Key.Namespace]
		if in == nil {
			in = newSelections()
			t.selections[d.entry.Key.Namespace] = in
		}
		in.add(d)
	}
	above := t.above()
	used := make(map[*document]bool, len(t.written))
	bound := make([]policy.Binding, 0, len(t.routes)+1)
	for slot := range t.routes {
		b, documents := t.bind(int32(slot), above)
		bound = append(bound, b)
		for _, d := range documents {
			used[d] = true
		}
	}
	for key, d := range t.written {
		if _, rejected := t.rejected[key]; !rejected && !used[d] {
			t.unbound[key] = d
		}
	}
	t.policies = policy.NewSet(append(bound, t.unattached()))
}

// unattached is the binding of the policies that select no route: they are
// held, and match nothing.
func (t *Table) unattached() policy.Binding {
	var b policy.Binding
	for _, d := range t.unbound {
		if d.policy != nil {
			b.Policies = append(b.Policies, d.policy)
		}
	}
	return b
}

// bind puts the route of a slot into force. It returns the binding of the
// policies that select it, and their documents.
func (t *Table) bind(slot int32, above []rejection) (policy.Binding, []*document) {
	r := t.resolved[slot]
	documents := t.selections[r.Key.Namespace].of(r)
	b := policy.Binding{Route: r.ID(), Policies: make([]*policy.Policy, 0, len(documents))}
	var because rejection
	var limits []*RateLimit
	for _, d := range documents {
		switch rejection, rejected := t.rejected[d.entry.Key]; {
		case !rejected && d.limit != nil:
			limits = append(limits, d.limit)
		case !rejected:
			b.Policies = append(b.Policies, d.policy)
		case d.entry.Key.Kind != resource.KindGrant: // which denies nothing
			because = because.before(rejection)
		}
	}
	if failpoint.Active("gateway.drop-policy") && len(b.Policies) > 0 {
		b.Policies = b.Policies[1:]
	}
	for _, rejection := range above {
		if rejection.document.control.controls(r) {
			because = because.before(rejection)
		}
	}
	if len(limits) > 0 {
		limited := *r
		limited.Limits = limits
		slices.SortFunc(limits, func(a, b *RateLimit) int { return a.Key.Compare(b.Key) })
		r = &limited
	}
	if because.document != nil && r.Unavailable == "" {
		denying := *r
		denying.deny(because)
		r = &denying
	}
	if r.Unavailable != "" {
		b.Unavailable = r.culprit + " was rejected"
	}
	t.routes[slot] = r
	return b, documents
}

// above returns the rejections that reach further than a selection of routes,
// or are no policies'.
func (t *Table) above() []rejection {
	var above []rejection
	for key, r := range t.rejected {
		if r.document.control.reach != nothing && !isSelection(key, r.document) {
			above = append(above, r)
		}
	}
	return above
}
