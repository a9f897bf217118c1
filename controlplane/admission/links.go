package admission

import (
	"slices"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/resource"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// links reports what is wrong with a condition together with what it refers to
// by name. What is not there is reported as missing.
func (c *checker) links(it *item) {
	if len(it.terms) == 0 || c.lacks(it, make(map[*item]bool)) {
		return
	}
	for _, p := range compile.Linked(it.Key, it.Spec, c.terms(it.Key.Namespace)) {
		p.Index = c.index(it.Key)
		c.problems.Add(p)
	}
}

// lacks reports whether something is not there that a resource refers to by name,
// or what that refers to.
func (c *checker) lacks(it *item, seen map[*item]bool) bool {
	if seen[it] {
		return false
	}
	seen[it] = true
	return slices.ContainsFunc(it.terms, func(t policy.Term) bool {
		to := c.state.items[compile.TermKey(it.Key.Namespace, t)]
		return to == nil || c.lacks(to, seen)
	})
}

// terms are those of a namespace as the state has them. Of a set no more is asked
// than what it is looked up with.
func (c *checker) terms(namespace string) *policy.Terms {
	lookup := func(t policy.Term) *item { return c.state.items[compile.TermKey(namespace, t)] }
	return &policy.Terms{
		Condition: func(name string) (string, bool) {
			it := lookup(policy.Term{Name: name})
			if it == nil {
				return "", false
			}
			spec, ok := it.Spec.(*resourcev1.Condition)
			return spec.GetWhen(), ok
		},
		Set: func(name string) *policy.Members {
			it := lookup(policy.Term{Set: true, Name: name})
			if it == nil {
				return nil
			}
			spec, _ := it.Spec.(*resourcev1.Set)
			if len(spec.GetCidrs()) > 0 {
				return policy.NewNetworks(nil)
			}
			return policy.NewIDs(nil)
		},
	}
}

// alone says what is wrong with a resource wherever its references lead, beyond
// what package resource can tell.
func (e *entry) alone() []resource.Problem {
	switch spec := e.item.Spec.(type) {
	case *resourcev1.Policy:
		return compile.Policy(e.key, spec)
	case *resourcev1.Grant:
		return compile.Grant(e.key, spec)
	case *resourcev1.RateLimit:
		return compile.Limit(e.key, spec)
	case *resourcev1.Condition:
		return compile.Condition(e.key, spec)
	case *resourcev1.IdentityProvider:
		return compile.IdentityProvider(e.key, spec)
	case *resourcev1.Schema:
		return compile.DocumentOf(e.key, spec)
	}
	return nil
}
