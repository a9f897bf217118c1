package admission

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/resource"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// firesAt says how far requests can come with a policy on the way to meeting
// it, at best.
type firesAt int

const (
	atRoutes     firesAt = iota // it selects none
	atMethods                   // none takes its methods
	atPaths                     // none that does serves its paths
	atPrincipals                // none that does can tell its principals
	fires
)

// fewTries is how many routes are tried before it is worth to look whether the
// answer is known.
const fewTries = 8

// firing is what the answer depends on; many policies are alike in it.
type firing struct {
	selector   selection
	labels     string
	methods    string
	paths      string
	principals string
	scope      string
}

// fires reports a policy that no request can ever meet.
func (c *checker) fires(it *item, spec *resourcev1.Policy) {
	if c.broken[it.Key.Namespace] {
		return
	}
	for _, name := range spec.GetRoutes().GetNames() {
		key := resource.Key{Kind: resource.KindRoute, Namespace: it.Key.Namespace, Name: name}
		if c.state.items[key] == nil {
			return // reported as missing
		}
	}
	field, what := "", ""
	switch c.firesAt(it, spec) {
	case atRoutes:
		field, what = "spec.routes", "selects no route"
	case atMethods:
		field, what = "spec.methods", "no route that it selects takes "+strings.Join(spec.GetMethods(), " or ")
	case atPaths:
		field, what = "spec.paths", "no route that it selects has such a path"
	case atPrincipals:
		field, what = "spec.principals", "no route that it selects takes what would prove one of them"
	case fires:
		return
	}
	if _, changed := c.before[it.Key]; !changed {
		what += " after this change"
	}
	c.report(it, field, ReasonNeverFires, "%s", what)
}

func (c *checker) firesAt(it *item, spec *resourcev1.Policy) (best firesAt) {
	selector, wide := it.selector()
	if !wide {
		for _, name := range spec.GetRoutes().GetNames() {
			key := resource.Key{Kind: resource.KindRoute, Namespace: it.Key.Namespace, Name: name}
			best = max(best, reaches(it, spec, c.state.items[key]))
		}
		return best
	}
	candidates := c.smallest(it, spec)
	if best = farthest(it, spec, candidates, fewTries); best == fires || candidates.len() <= fewTries {
		return best
	}
	alike := firing{
		selector: selector, labels: fmt.Sprint(spec.GetRoutes().GetLabels()), methods: fmt.Sprint(spec.GetMethods()),
		paths: fmt.Sprintf("%q", spec.GetPaths()), principals: proofs(spec), scope: fmt.Sprint(it.scope),
	}
	known, ok := c.firing[alike]
	if !ok {
		known = farthest(it, spec, candidates, candidates.len())
		c.firing[alike] = known
	}
	return known
}

// farthest tries some routes and says how far requests come at best.
func farthest(it *item, spec *resourcev1.Policy, candidates set, tries int) (best firesAt) {
	for r := range candidates.all() {
		if best == fires || tries == 0 {
			break
		}
		tries--
		if compile.Selects(spec.GetRoutes(), r.Key.Name, r.Labels) {
			best = max(best, reaches(it, spec, r))
		}
	}
	return best
}

// smallest returns the smallest set that holds every route that a policy
// selects.
func (c *checker) smallest(it *item, spec *resourcev1.Policy) set {
	found := c.state.routes[selection{namespace: it.Key.Namespace}]
	for label, value := range spec.GetRoutes().GetLabels() {
		if s := c.state.routes[selection{it.Key.Namespace, label, value}]; s.len() < found.len() {
			found = s
		}
	}
	return found
}

// reaches says how far requests of a route can come with a policy.
func reaches(it *item, spec *resourcev1.Policy, r *item) firesAt {
	served, _ := r.Spec.(*resourcev1.Route)
	switch {
	case !meets(it.scope, r.scope):
		return atRoutes
	case !share(spec.GetMethods(), served.GetMethods()):
		return atMethods
	case !overlapping(it.paths, r.paths):
		return atPaths
	case !proves(spec, served.GetAuthentication()):
		return atPrincipals
	}
	return fires
}

// proves reports whether a route can tell one of a policy's principals.
func proves(spec *resourcev1.Policy, a *resourcev1.Authentication) bool {
	if len(spec.GetPrincipals()) == 0 {
		return true
	}
	return slices.ContainsFunc(spec.GetPrincipals(), func(m *resourcev1.PrincipalMatcher) bool {
		switch m.GetMatch().(type) {
		case *resourcev1.PrincipalMatcher_Group, *resourcev1.PrincipalMatcher_Subject:
			if m.GetIdentityProvider() == "" {
				return len(a.GetIdentityProviders()) > 0 || a.GetApiKeys() || a.GetSignIn() != nil
			}
			return slices.Contains(a.GetIdentityProviders(), m.GetIdentityProvider()) ||
				a.GetSignIn().GetIdentityProvider() == m.GetIdentityProvider()
		case *resourcev1.PrincipalMatcher_Spiffe:
			return a.GetClientCertificates() || a.GetJwtSvids() != nil
		case *resourcev1.PrincipalMatcher_Key:
			return a.GetApiKeys()
		case *resourcev1.PrincipalMatcher_Anonymous:
			return a.GetAnonymous()
		}
		return len(a.GetIdentityProviders()) > 0 || a.GetApiKeys() || a.GetClientCertificates() || a.GetJwtSvids() != nil ||
			a.GetSignIn() != nil
	})
}

// proofs is the part of a policy's principals that proves looks at.
func proofs(spec *resourcev1.Policy) string {
	var b strings.Builder
	for _, m := range spec.GetPrincipals() {
		fmt.Fprintf(&b, "%T%s,", m.GetMatch(), m.GetIdentityProvider())
	}
	return b.String()
}

// introspected reports a provider that cannot be asked for the tokens of a route
// which wants that: none of them would be let in.
func (c *checker) introspected(it *item, spec *resourcev1.Route) {
	if !spec.GetAuthentication().GetRequireIntrospection() {
		return
	}
	for at, key := range it.references() {
		to := c.state.items[key]
		if to == nil || key.Kind != resource.KindIdentityProvider {
			continue
		}
		if p, _ := to.Spec.(*resourcev1.IdentityProvider); !compile.Introspects(p) {
			c.report(it, at.String(), ReasonNeverFires, "%s has no introspection, which requireIntrospection wants of it", key)
		}
	}
}
