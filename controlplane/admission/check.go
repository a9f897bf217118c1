package admission

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/route"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
	"github.com/sallyport/sallyport/storage"
)

// check compiles what the plan changes, and follows references.
func (p *Plan) check() resource.Problems {
	var problems resource.Problems
	for _, c := range p.Changes {
		if it := p.view.over[c.Key]; it != nil && c.Key.Kind == resource.KindPolicy {
			problems.Merge(p.conditions(it))
		}
	}
	problems.Merge(p.references())
	return problems
}

// conditions compiles a policy as a proxy will.
func (p *Plan) conditions(it *item) (problems resource.Problems) {
	spec, _ := it.Spec.(*resourcev1.Policy)
	for _, found := range compile.Policy(it.Key, spec) {
		found.Index = p.index(it.Key)
		problems.Add(found)
	}
	return problems
}

// index returns a resource's place in the request, -1 if it is not in it.
func (p *Plan) index(key resource.Key) int {
	if i, ok := p.indexes[key]; ok {
		return i
	}
	return -1
}

// references checks every namespace that the plan touches; all of them when it
// deletes an environment or changes one.
func (p *Plan) references() resource.Problems {
	touched := map[string]bool{}
	for key := range p.view.over {
		touched[key.Namespace] = true
	}
	names := p.view.namespaces()
	if !p.removesEnvironment() {
		names = slices.DeleteFunc(names, func(name string) bool { return !touched[name] })
	}
	c := checker{plan: p}
	for _, name := range names {
		c.namespace(name)
	}
	c.listeners()
	c.conflicts()
	return c.problems
}

func (p *Plan) removesEnvironment() bool {
	for key, it := range p.view.over {
		if key.Kind == resource.KindEnvironment && it == nil {
			return true
		}
	}
	return false
}

// checker collects problems of references.
type checker struct {
	plan     *Plan
	problems resource.Problems
	routes   []*item // of the namespace that is checked
}

func (c *checker) report(it *item, field, reason, format string, args ...any) {
	c.problems.Add(resource.Problem{
		Resource: it.Key.String(), Index: c.plan.index(it.Key), Field: field,
		Reason: reason, Message: fmt.Sprintf(format, args...),
	})
}

func (c *checker) namespace(name string) {
	var items []*item
	c.routes = nil
	for it := range c.plan.view.namespace(name) {
		items = append(items, it)
		if it.Key.Kind == resource.KindRoute {
			c.routes = append(c.routes, it)
		}
	}
	byKey := func(a, b *item) int { return a.Key.Compare(b.Key) }
	slices.SortFunc(items, byKey)
	slices.SortFunc(c.routes, byKey)
	for _, it := range items {
		c.item(it)
	}
}

func (c *checker) item(it *item) {
	for i, name := range it.scope.Environments {
		if it.Key.Kind != resource.KindEnvironment {
			c.environment(it, fmt.Sprintf("spec.environments[%d]", i), name)
		}
	}
	switch spec := it.Spec.(type) {
	case *resourcev1.Enrollment:
		c.environment(it, "spec.environment", spec.GetEnvironment())
	case *resourcev1.Route:
		c.refer(it, "spec.upstream", resource.KindUpstream, spec.GetUpstream())
		for i, name := range spec.GetAuthentication().GetIdentityProviders() {
			c.refer(it, fmt.Sprintf("spec.authentication.identityProviders[%d]", i), resource.KindIdentityProvider, name)
		}
	case *resourcev1.Policy:
		c.policy(it, spec)
	}
}

func (c *checker) environment(it *item, field, name string) {
	key := resource.Key{Kind: resource.KindEnvironment, Name: name}
	if c.plan.view.get(key) == nil {
		c.missing(it, field, key)
	}
}

// missing reports a reference to what is not there: as a dangling one, or as
// what keeps a deletion from being made.
func (c *checker) missing(it *item, field string, key resource.Key) {
	if deleted, ok := c.plan.view.over[key]; ok && deleted == nil && c.plan.index(key) >= 0 {
		c.problems.Add(resource.Problem{
			Resource: key.String(), Index: c.plan.index(key), Reason: ReasonStillReferenced,
			Message: fmt.Sprintf("%s refers to it (%s)", it.Key, field),
		})
		return
	}
	c.report(it, field, ReasonDanglingReference, "there is no %s", key)
}

// refer checks a reference within the namespace: what it names has to be there
// wherever the referrer is.
func (c *checker) refer(it *item, field string, kind resource.Kind, name string) {
	key := resource.Key{Kind: kind, Namespace: it.Key.Namespace, Name: name}
	to := c.plan.view.get(key)
	switch {
	case to == nil:
		c.missing(it, field, key)
	case !covers(to.scope, it.scope):
		c.report(it, field, ReasonNotEverywhere, "%s is not in every environment that this is in", key)
	}
}

// covers reports whether outer is everywhere that inner is.
func covers(outer, inner storage.Scope) bool {
	if outer.All {
		return true
	}
	return !inner.All && !slices.ContainsFunc(inner.Environments, func(e string) bool { return !outer.Includes(e) })
}

// meets reports whether there may be an environment in both.
func meets(a, b storage.Scope) bool {
	return a.All || b.All || slices.ContainsFunc(a.Environments, b.Includes)
}

func (c *checker) policy(it *item, spec *resourcev1.Policy) {
	for i, name := range spec.GetRoutes().GetNames() {
		key := resource.Key{Kind: resource.KindRoute, Namespace: it.Key.Namespace, Name: name}
		if c.plan.view.get(key) == nil {
			c.missing(it, fmt.Sprintf("spec.routes.names[%d]", i), key)
		}
	}
	for i, m := range spec.GetPrincipals() {
		if m.GetIdentityProvider() != "" {
			c.refer(it, fmt.Sprintf("spec.principals[%d].identityProvider", i), resource.KindIdentityProvider, m.GetIdentityProvider())
		}
	}
	if len(spec.GetRoutes().GetNames()) == 0 || c.problems.Total == 0 {
		c.fires(it, spec)
	}
}

// fires reports a policy that no request can ever meet.
func (c *checker) fires(it *item, spec *resourcev1.Policy) {
	selected, methods := false, false
	for _, r := range c.routes {
		if !meets(it.scope, r.scope) || !compile.Selects(spec.GetRoutes(), r.Key.Name, r.Labels) {
			continue
		}
		selected = true
		served, _ := r.Spec.(*resourcev1.Route)
		if share(spec.GetMethods(), served.GetMethods()) {
			methods = true
			break
		}
	}
	switch {
	case !selected:
		c.report(it, "spec.routes", ReasonNeverFires, "selects no route")
	case !methods:
		c.report(it, "spec.methods", ReasonNeverFires, "no route that it selects takes %s", strings.Join(spec.GetMethods(), " or "))
	}
}

// share reports whether two lists have a member in common; an empty one has
// them all.
func share(a, b []string) bool {
	return len(a) == 0 || len(b) == 0 || slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

// listeners reports addresses that two listeners of one environment want.
func (c *checker) listeners() {
	if !c.changes(resource.KindListener) {
		return
	}
	taken := map[string][]*item{}
	for _, name := range c.plan.view.namespaces() {
		for it := range c.plan.view.namespace(name) {
			if spec, ok := it.Spec.(*resourcev1.Listener); ok {
				taken[spec.GetAddress()] = append(taken[spec.GetAddress()], it)
			}
		}
	}
	for address, all := range taken {
		for i, it := range all {
			for _, other := range all[:i] {
				if meets(it.scope, other.scope) {
					c.report(it, "spec.address", ReasonAddressConflict, "%s is the address of %s as well", address, other.Key)
				}
			}
		}
	}
}

func (c *checker) changes(kind resource.Kind) bool {
	for key, it := range c.plan.view.over {
		if key.Kind == kind && it != nil {
			return true
		}
	}
	return false
}

// conflicts reports routes that claim the same requests: changed ones, against
// all that share a host with them.
func (c *checker) conflicts() {
	hosts := map[string]bool{}
	for _, it := range c.plan.view.over {
		if it == nil {
			continue
		}
		if spec, ok := it.Spec.(*resourcev1.Route); ok {
			for _, h := range spec.GetHosts() {
				hosts[h] = true
			}
		}
	}
	if len(hosts) == 0 {
		return
	}
	var rivals []*item
	for _, name := range c.plan.view.namespaces() {
		for it := range c.plan.view.namespace(name) {
			spec, ok := it.Spec.(*resourcev1.Route)
			if ok && slices.ContainsFunc(spec.GetHosts(), func(h string) bool { return hosts[h] }) {
				rivals = append(rivals, it)
			}
		}
	}
	c.rivals(rivals)
}

// rivals builds the table of each group of routes that may meet in an
// environment, as a proxy does, and reports what it refuses.
func (c *checker) rivals(routes []*item) {
	slices.SortFunc(routes, func(a, b *item) int { return a.Key.Compare(b.Key) })
	reported := map[[2]resource.Key]bool{}
	for _, environment := range c.environments(routes) {
		var entries []route.Entry[*item]
		for _, it := range routes {
			if spec, ok := it.Spec.(*resourcev1.Route); ok && it.scope.Includes(environment) {
				entries = append(entries, route.Entry[*item]{
					Namespace: it.Key.Namespace, Name: it.Key.Name, Hosts: spec.GetHosts(),
					Paths: spec.GetPaths(), Methods: spec.GetMethods(), Digest: it.digest, Value: it,
				})
			}
		}
		_, err := route.NewTable(entries)
		var found route.Problems
		if !errors.As(err, &found) {
			continue
		}
		for _, e := range found {
			c.rival(e, reported)
		}
	}
}

func (c *checker) rival(e *route.Error, reported map[[2]resource.Key]bool) {
	key := resource.Key{Kind: resource.KindRoute, Namespace: e.Namespace, Name: e.Name}
	pair := [2]resource.Key{key}
	if e.Other != "" {
		pair[1] = resource.Key{Kind: resource.KindRoute, Name: e.Other}
	}
	it := c.plan.view.get(key)
	if it == nil || reported[pair] {
		return
	}
	reported[pair] = true
	c.report(it, "spec."+e.Field, ReasonRouteConflict, "%s", e.Reason)
}

// environments returns those that any of the routes is in; for routes that are
// everywhere, one stands for the environments that none of them names.
func (c *checker) environments(routes []*item) []string {
	names := map[string]bool{"": true}
	for _, it := range routes {
		for _, e := range it.scope.Environments {
			names[e] = true
		}
	}
	var all []string
	for name := range names {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}
