package admission

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/resource"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// checker finds what would be wrong with the fleet after a request. It enters
// the request into the state, and takes it out again when it is done.
type checker struct {
	state    *State
	request  *Request
	problems resource.Problems

	types   []adminv1.ChangeType   // by entry; unspecified for what cannot be read
	before  map[resource.Key]*item // of the entries that change something
	entered []resource.Key
	broken  map[string]bool // namespaces of routes that cannot be read
	firing  map[firing]firesAt
	doors   doors                     // before
	claims  map[compile.Claim][]*item // of several, in the order in which they have it
}

func newChecker(s *State, r *Request) *checker {
	c := &checker{
		state: s, request: r, types: make([]adminv1.ChangeType, len(r.entries)),
		before: make(map[resource.Key]*item), broken: make(map[string]bool), firing: make(map[firing]firesAt),
		claims: make(map[compile.Claim][]*item), doors: maps.Clone(s.doors),
	}
	for i := range r.entries {
		if e := &r.entries[i]; !e.valid && e.key.Kind == resource.KindRoute {
			c.broken[e.key.Namespace] = true
		}
	}
	return c
}

// compare says what becomes of an entry's resource. It reports whether that is
// a change.
func (c *checker) compare(i int) bool {
	e := &c.request.entries[i]
	old := c.state.items[e.key]
	switch {
	case !e.valid, e.deletion && old == nil:
		return false
	case e.deletion:
		c.types[i] = adminv1.ChangeType_CHANGE_TYPE_DELETED
	case old == nil:
		c.types[i] = adminv1.ChangeType_CHANGE_TYPE_CREATED
	case c.state.holds(e):
		c.types[i] = adminv1.ChangeType_CHANGE_TYPE_UNCHANGED
		return false
	default:
		c.types[i] = adminv1.ChangeType_CHANGE_TYPE_REPLACED
	}
	c.before[e.key] = old
	return true
}

func (c *checker) enter() {
	for i := range c.request.entries {
		if e := &c.request.entries[i]; c.changes(e) {
			c.state.put(e.key, e.item)
			c.entered = append(c.entered, e.key)
		}
	}
}

// changes reports whether an entry changes its resource.
func (c *checker) changes(e *entry) bool {
	_, changes := c.before[e.key]
	return changes && e.valid
}

func (c *checker) restore() {
	for _, key := range c.entered {
		c.state.put(key, c.before[key])
	}
}

// reach returns the environments that the changes are distributed to.
func (c *checker) reach(before, after map[string]bool) []string {
	all, named := false, map[string]bool{}
	add := func(it *item) {
		if it != nil {
			all = all || it.scope.All
			for _, e := range it.scope.Environments {
				named[e] = true
			}
		}
	}
	for key, old := range c.before {
		add(old)
		add(c.state.items[key])
	}
	maps.Copy(before, after)
	maps.DeleteFunc(before, func(name string, _ bool) bool { return !all && !named[name] })
	return slices.Sorted(maps.Keys(before))
}

// check finds the problems of the request's own resources, in its order, and
// then those that it makes for others.
func (c *checker) check() {
	for i := range c.request.entries {
		e := &c.request.entries[i]
		if c.changes(e) {
			e.compile()
		}
		c.problems.Join(i, e.problems)
		switch {
		case e.deletion && e.valid && !c.changes(e):
			c.problems.Add(resource.Problem{Resource: e.key.String(), Index: i, Reason: ReasonNotFound, Message: "does not exist"})
		case c.changes(e) && e.item != nil:
			c.item(e.item)
		}
	}
	c.others()
}

// others finds the problems that the request makes for resources that it does
// not change. There may be very many of them, nearly always without a problem:
// they are sorted only when there is one.
func (c *checker) others() {
	affected, before := c.affected(), c.problems
	for it := range affected {
		c.item(it)
	}
	if c.problems.Total == before.Total {
		return
	}
	c.problems = before
	for _, it := range slices.SortedFunc(maps.Keys(affected), func(a, b *item) int { return a.Key.Compare(b.Key) }) {
		c.item(it)
	}
}

// affected returns the resources that the request does not change and that may
// miss what it does change.
func (c *checker) affected() map[*item]struct{} {
	all := map[*item]struct{}{}
	var gather func(set)
	gather = func(s set) {
		for it := range s.all() {
			_, changed := c.before[it.Key]
			if _, known := all[it]; changed || known {
				continue
			}
			all[it] = struct{}{}
			if it.Key.Kind == resource.KindCondition {
				gather(c.state.referrers[it.Key]) // they are what it is
			}
		}
	}
	left := map[selection]struct{}{}
	for key, old := range c.before {
		if old == nil {
			continue
		}
		if keeps(old, c.state.items[key]) {
			continue
		}
		gather(c.state.referrers[key])
		for in := range old.isIn() {
			left[in] = struct{}{}
		}
	}
	for in := range left {
		gather(c.state.policies[in])
	}
	for it := range c.shutOut {
		if _, changed := c.before[it.Key]; !changed {
			all[it] = struct{}{}
		}
	}
	return all
}

// index returns a resource's place in the request, -1 if it is not in it.
func (c *checker) index(key resource.Key) int {
	if i, ok := c.request.indexes[key]; ok {
		return i
	}
	return -1
}

func (c *checker) report(it *item, field, reason, format string, args ...any) {
	c.problems.Add(resource.Problem{
		Resource: it.Key.String(), Index: c.index(it.Key), Field: field,
		Reason: reason, Message: fmt.Sprintf(format, args...),
	})
}

func (c *checker) reportAt(it *item, at place, reason, format string, args ...any) {
	c.problems.Add(resource.Problem{
		Resource: it.Key.String(), Index: c.index(it.Key), Field: at.String(), Line: at.line, Column: at.column,
		Reason: reason, Message: fmt.Sprintf(format, args...),
	})
}

func (c *checker) item(it *item) {
	for at, key := range it.references() {
		c.refer(it, at, key)
	}
	c.links(it)
	if it.policy != nil {
		c.fires(it, it.policy)
	}
	switch spec := it.Spec.(type) {
	case *resourcev1.Policy, *resourcev1.Condition, *resourcev1.RateLimit:
		c.ambiguous(it)
	case *resourcev1.Route:
		c.rivals(it, spec)
		c.redirect(it, spec)
		c.introspected(it, spec)
		c.signIn(it, spec)
		c.certificates(it, spec)
	case *resourcev1.Listener:
		c.listener(it, spec)
		c.undeclared(it)
	case *resourcev1.Enrollment:
		c.enrollment(it)
	case *resourcev1.ApiKey:
		c.apiKey(it)
	case *resourcev1.TrustDomain:
		c.trustDomain(it)
	case *resourcev1.Device:
		c.device(it)
	}
}

// refer checks a reference: what it names has to be there wherever the referrer
// is.
func (c *checker) refer(it *item, at place, key resource.Key) {
	to := c.state.items[key]
	switch {
	case to == nil:
		c.missing(it, at, key)
	case key.Kind != resource.KindEnvironment && !covers(to.scope, it.scope):
		c.reportAt(it, at, ReasonNotEverywhere, "%s is not in every environment that this is in", key)
	}
}

// missing reports a reference to what is not there: as a dangling one, or as
// what keeps a deletion from being made. What is in the request and cannot be
// read is reported for that, and not for its absence.
func (c *checker) missing(it *item, at place, key resource.Key) {
	i := c.index(key)
	switch {
	case i >= 0 && !c.request.entries[i].valid:
	case i >= 0 && c.request.entries[i].deletion && c.before[key] != nil:
		c.problems.Add(resource.Problem{
			Resource: key.String(), Index: i, Reason: ReasonStillReferenced,
			Message: fmt.Sprintf("%s refers to it (%s)", it.Key, at),
		})
	default:
		c.reportAt(it, at, ReasonDanglingReference, "there is no %s", key)
	}
}

// rivals reports another route that claims the same requests in some
// environment: one that was there before, or that is earlier in the request.
func (c *checker) rivals(it *item, spec *resourcev1.Route) {
	for _, claim := range it.claims() {
		for _, other := range c.claimants(claim) {
			if c.turn(other) >= c.turn(it) {
				break // it was here first
			}
			rival, _ := other.Spec.(*resourcev1.Route)
			method, both := contested(spec.GetMethods(), rival.GetMethods())
			if both && meets(it.scope, other.scope) {
				c.report(it, "spec.paths", ReasonRouteConflict, "%s%s%s%s is taken by %s", method, claim.Host, claim.Path, with(claim), other.Key)
				return
			}
		}
	}
}

// with names the conditions of a claim, if it has any.
func with(claim compile.Claim) string {
	if claim.Conditions == "" {
		return ""
	}
	return " with " + claim.Conditions
}

// claimants returns the routes with a claim: those that the request leaves as
// they are, and then its own, in its order.
func (c *checker) claimants(claim compile.Claim) []*item {
	s := c.state.claims[claim]
	if s.len() < 2 {
		return nil
	}
	if c.claims[claim] == nil {
		c.claims[claim] = slices.SortedFunc(s.all(), func(a, b *item) int {
			return cmp.Or(cmp.Compare(c.turn(a), c.turn(b)), a.Key.Compare(b.Key))
		})
	}
	return c.claims[claim]
}

// turn is the place of a resource that the request changes; -1 of others.
func (c *checker) turn(it *item) int {
	if _, changed := c.before[it.Key]; changed {
		return c.index(it.Key)
	}
	return -1
}

// contested returns a method that two routes both claim: a route that names
// methods goes before one that takes them all.
func contested(a, b []string) (string, bool) {
	if len(a) == 0 || len(b) == 0 {
		return "", len(a) == len(b)
	}
	for _, method := range a {
		if slices.Contains(b, method) {
			return method + " ", true
		}
	}
	return "", false
}

// signIn reports a provider at which nobody can sign in.
func (c *checker) signIn(it *item, spec *resourcev1.Route) {
	key := resource.Key{
		Kind: resource.KindIdentityProvider, Namespace: it.Key.Namespace,
		Name: spec.GetAuthentication().GetSignIn().GetIdentityProvider(),
	}
	to := c.state.items[key]
	if key.Name == "" || to == nil { // reported as missing
		return
	}
	if p, _ := to.Spec.(*resourcev1.IdentityProvider); p.GetSignIn() == nil {
		c.report(it, signInField, ReasonDanglingReference, "%s has no signIn", key)
	}
}

// listener reports another one that wants the same address of a machine.
func (c *checker) listener(it *item, spec *resourcev1.Listener) {
	other := first(c.state.listeners[it.listen.port], func(o *item) bool {
		return o != it && it.listen.excludes(o.listen) && meets(it.scope, o.scope)
	})
	if other != nil {
		c.report(it, "spec.address", ReasonAddressConflict, "%s is taken by %s", spec.GetAddress(), other.Key)
	}
}

// enrollment reports another one that matches some of the same proxies: which of the
// two speaks for them nobody could tell, of environment, labels and approval.
func (c *checker) enrollment(it *item) {
	other := first(c.state.enrollments[it.proxy.TrustDomain()], func(o *item) bool {
		_, shared := it.proxy.Common(o.proxy)
		return o != it && shared
	})
	if other == nil {
		return
	}
	id, _ := it.proxy.Common(other.proxy)
	c.report(it, "spec.spiffeId", ReasonEnrollmentConflict, "%s matches some of the same SPIFFE IDs, such as %s", other.Key, id)
}

// apiKey reports another one with one of its IDs.
func (c *checker) apiKey(it *item) {
	for i, secret := range it.secrets() {
		other := first(c.state.secrets[secret], func(o *item) bool { return o != it })
		if other != nil {
			c.report(it, fmt.Sprintf("spec.secrets[%d].id", i), ReasonKeyConflict, "%s has the ID %s", other.Key, secret)
		}
	}
}

// trustDomain reports another one of the same trust domain.
func (c *checker) trustDomain(it *item) {
	other := first(c.state.domains[it.trustDomain()], func(o *item) bool { return o != it && meets(it.scope, o.scope) })
	if other != nil {
		c.report(it, "spec.trustDomain", ReasonDomainConflict, "%s is of it as well", other.Key)
	}
}

// first returns the first by key of those that meet a condition.
func first(s set, condition func(*item) bool) (found *item) {
	for it := range s.all() {
		if (found == nil || it.Key.Compare(found.Key) < 0) && condition(it) {
			found = it
		}
	}
	return found
}
