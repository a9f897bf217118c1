package admission

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/sallyport/sallyport/internal/resource"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// An empty folder, or a selector with a typing error, must not quietly take from an
// environment what protects it. So of what it has, a request may remove without
// being told to:
const (
	// keptPolicies is one in how many policies may go;
	keptPolicies = 5
	// fewPolicies is how many may go however many there are;
	fewPolicies = 3
	// wholeKind is how many resources there have to be of another kind for the last
	// of them to stay.
	wholeKind = 2
)

// standing is a kind in an environment; "" stands for every environment.
type standing struct {
	environment string
	kind        resource.Kind
}

// census counts what environments have.
type census map[standing]int

func (s census) change(it *item, by int) {
	for _, name := range it.home() {
		at := standing{name, it.Key.Kind}
		if s[at] += by; s[at] == 0 {
			delete(s, at)
		}
	}
}

// of returns how many resources of a kind an environment has.
func (s census) of(environment string, kind resource.Kind) int {
	return s[standing{environment, kind}] + s[standing{"", kind}]
}

// home returns the environments that a resource belongs to: those it is
// distributed to, and of an Enrollment the one that it sends proxies to.
func (it *item) home() []string {
	if spec, ok := it.Spec.(*resourcev1.Enrollment); ok {
		return []string{spec.GetEnvironment()}
	}
	return scopeNames(it.scope)
}

// at reports whether a resource, nil for none, belongs to an environment.
func (it *item) at(environment string) bool {
	if it == nil {
		return false
	}
	home := it.home()
	return slices.Contains(home, environment) || slices.Contains(home, "")
}

// vanishing reports the environments of which too much would go. It is called
// before the request is entered, with the environments that there are.
func (c *checker) vanishing(environments map[string]bool) {
	if c.request.removals {
		return
	}
	gone := c.gone(environments)
	come := c.come(gone)
	kinds := resource.Kinds()
	for _, at := range slices.SortedFunc(maps.Keys(gone), func(a, b standing) int {
		return cmp.Or(cmp.Compare(a.environment, b.environment), cmp.Compare(slices.Index(kinds, a.kind), slices.Index(kinds, b.kind)))
	}) {
		had, n := c.state.census.of(at.environment, at.kind), gone[at]
		few := n <= fewPolicies || n*keptPolicies <= had
		if at.kind == resource.KindPolicy && !few || had >= wholeKind && had-n+come[at] == 0 {
			c.vanishes(at.environment, "would lose %d of its %d resources of kind %s: allow removals if that is meant", n, had, at.kind)
		}
	}
	c.abandoned(environments)
}

func (c *checker) vanishes(environment, format string, args ...any) {
	key := environmentKey(environment)
	c.problems.Add(resource.Problem{
		Resource: key.String(), Index: c.index(key), Reason: ReasonRemovesTooMuch, Message: fmt.Sprintf(format, args...),
	})
}

// abandoned reports environments that would go, and with them what is in every one.
func (c *checker) abandoned(environments map[string]bool) {
	for i := range c.request.entries {
		e := &c.request.entries[i]
		name := e.key.Name
		if e.key != environmentKey(name) || !e.deletion || !c.changes(e) || !environments[name] {
			continue
		}
		total, most := 0, 0
		for _, kind := range resource.Kinds() {
			n := c.state.census.of(name, kind)
			total, most = total+n, max(most, n)
		}
		if most >= wholeKind {
			c.vanishes(name, "would be gone with all of its %d resources: allow removals if that is meant", total)
		}
	}
}

// ends reports whether the request deletes an environment.
func (c *checker) ends(environment string) bool {
	i, ok := c.request.indexes[environmentKey(environment)]
	return ok && c.types[i] == adminv1.ChangeType_CHANGE_TYPE_DELETED
}

// gone counts what environments that stay would not have any more, of each kind.
func (c *checker) gone(environments map[string]bool) map[standing]int {
	gone := map[standing]int{}
	for i := range c.request.entries {
		e := &c.request.entries[i]
		old := c.before[e.key]
		if !c.changes(e) || old == nil || e.item != nil && stays(old, e.item) {
			continue
		}
		names := old.home()
		if slices.Contains(names, "") {
			names = slices.Collect(maps.Keys(environments))
		}
		for _, name := range names {
			if environments[name] && !e.item.at(name) {
				gone[standing{name, e.key.Kind}]++
			}
		}
	}
	maps.DeleteFunc(gone, func(at standing, _ int) bool { return c.ends(at.environment) })
	return gone
}

// stays reports whether a resource belongs to all that it belonged to.
func stays(old, now *item) bool {
	home := now.home()
	return slices.Contains(home, "") || !slices.ContainsFunc(old.home(), func(name string) bool { return !slices.Contains(home, name) })
}

// come counts what comes to where something goes.
func (c *checker) come(gone map[standing]int) map[standing]int {
	come := map[standing]int{}
	for i := range c.request.entries {
		e := &c.request.entries[i]
		if !c.changes(e) || e.item == nil {
			continue
		}
		for at := range gone {
			if at.kind == e.key.Kind && e.item.at(at.environment) && !c.before[e.key].at(at.environment) {
				come[at]++
			}
		}
	}
	return come
}
