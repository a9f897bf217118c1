package compile

import (
	"iter"
	"maps"
	"slices"

	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// MembersOf returns what a Set that package resource has accepted holds.
func MembersOf(s *resourcev1.Set) *policy.Members {
	if len(s.GetCidrs()) > 0 {
		return policy.NewNetworks(resource.Networks(s))
	}
	return policy.NewIDs(s.GetIds())
}

// TermKey returns the resource that a condition of a namespace refers to.
func TermKey(namespace string, t policy.Term) resource.Key {
	if t.Set {
		return resource.Key{Kind: resource.KindSet, Namespace: namespace, Name: t.Name}
	}
	return resource.Key{Kind: resource.KindCondition, Namespace: namespace, Name: t.Name}
}

// linkPolicies links every policy that refers to something by name.
func (t *Table) linkPolicies() {
	for _, l := range t.linkAll(maps.Values(t.written)) {
		t.written[l.to.entry.Key] = l.to
		if l.reason != "" {
			t.reject(l.to, l.reason)
		}
	}
}

// linking is what becomes of a policy that refers to something by name.
type linking struct {
	from, to *document
	reason   string // why it is to be rejected; empty when it is not
}

// linkAll links those policies of many that refer to something by name.
func (t *Table) linkAll(policies iter.Seq[*document]) []linking {
	var all []linking
	for d := range policies {
		if len(d.terms) > 0 {
			all = append(all, linking{from: d})
		}
	}
	inParallel(len(all), func(i int) { all[i].to, all[i].reason = t.link(all[i].from) })
	return all
}

// link compiles a policy with all that it refers to, unless it is so already. It
// returns why it is to be rejected, if it is.
func (t *Table) link(d *document) (next *document, reason string) {
	uses, reason := t.uses(d, nil, make(map[resource.Key]bool))
	if reason != "" || slices.Equal(uses, d.linked) {
		return d, reason
	}
	linked := *d
	linked.linked = uses
	p, swapped := t.swap(d, uses)
	if swapped {
		linked.policy = p
		return &linked, ""
	}
	if err := linked.compileWith(t.terms(d.entry.Key.Namespace)); err != nil {
		return d, resource.RejectReason(err)
	}
	return &linked, ""
}

// compileWith compiles d with what it refers to by name.
func (d *document) compileWith(terms *policy.Terms) (err error) {
	switch spec := d.spec.(type) {
	case *resourcev1.Policy:
		s := policySpec(d.entry.Key, spec)
		s.Terms = terms
		err = d.compilePolicy(s)
	case *resourcev1.RateLimit:
		err = d.compileLimit(spec, terms)
	}
	return err
}

// compilePolicy compiles a policy that knows its entry, and by that shows what is
// enforced of it.
func (d *document) compilePolicy(s policy.Spec) (err error) {
	entry := d.entry // without the document that it is of, which holds more
	s.Digest, s.Source = entry.Digest, &entry
	d.policy, err = policy.Compile(s)
	return err
}

// use is something that is referred to by name, as it was.
type use struct {
	key    resource.Key
	digest snapshot.Digest
}

// swap returns the policy of d with other sets in the place of those that it was
// linked with, if there is no other difference between what it uses and used.
func (t *Table) swap(d *document, uses []use) (_ *policy.Policy, ok bool) {
	same := d.policy != nil && slices.EqualFunc(uses, d.linked, func(a, b use) bool {
		return a.key == b.key && (a.digest == b.digest || a.key.Kind == resource.KindSet)
	})
	if !same {
		return nil, false
	}
	return d.policy.WithSets(t.terms(d.entry.Key.Namespace).Set)
}

// uses adds all that d refers to, each once, or says what of it is not enforced.
func (t *Table) uses(d *document, found []use, seen map[resource.Key]bool) (_ []use, reason string) {
	for _, term := range d.terms {
		key := TermKey(d.entry.Key.Namespace, term)
		if seen[key] {
			continue
		}
		seen[key] = true
		to := t.byName[key]
		switch {
		case to == nil:
			return nil, missing(key)
		case t.rejected[key].document != nil:
			return nil, "refers to " + key.String() + ", which was rejected"
		}
		found = append(found, use{key, to.entry.Digest})
		if found, reason = t.uses(to, found, seen); reason != "" {
			return nil, reason
		}
	}
	return found, ""
}

func (t *Table) terms(namespace string) *policy.Terms {
	return &policy.Terms{
		Condition: func(name string) (string, bool) {
			d := t.byName[TermKey(namespace, policy.Term{Name: name})]
			if d == nil {
				return "", false
			}
			spec, ok := d.spec.(*resourcev1.Condition)
			return spec.GetWhen(), ok
		},
		Set: func(name string) *policy.Members {
			if d := t.byName[TermKey(namespace, policy.Term{Set: true, Name: name})]; d != nil {
				return d.members
			}
			return nil
		},
	}
}
