package admission

import "github.com/sallyport/sallyport/internal/resource"

// A policy that looks at where requests come from means nothing in an environment
// in which some listener does not say how that is known: behind a load balancer
// every request would come from the load balancer. Which routes a listener leads to
// does not matter, as each leads to all. What was admitted before listeners could
// say it stays until it is changed.

// ambiguous reports a policy for that, or a condition that policies refer to.
func (c *checker) ambiguous(it *item) {
	if !it.addresses || !c.isChanged(it) {
		return
	}
	through := first(c.state.addresses[resource.KindListener], func(o *item) bool { return meets(it.scope, o.scope) })
	if through != nil {
		field := "spec.when"
		if it.Key.Kind == resource.KindRateLimit {
			field = "spec.key"
		}
		c.report(it, field, ReasonAmbiguousListener,
			"looks at the client's address, and %s does not say in clientIp how that is known", through.Key)
	}
}

// undeclared reports a listener for the policies that the request leaves as they
// are; the others report it.
func (c *checker) undeclared(it *item) {
	if !it.addresses || !c.isChanged(it) {
		return
	}
	for _, kind := range []resource.Kind{resource.KindPolicy, resource.KindCondition, resource.KindRateLimit} {
		of := first(c.state.addresses[kind], func(o *item) bool { return !c.isChanged(o) && meets(it.scope, o.scope) })
		if of != nil {
			c.report(it, "spec.clientIp", ReasonAmbiguousListener,
				"%s looks at the client's address: say how that is known, as in direct: {}", of.Key)
			return
		}
	}
}

// isChanged reports whether the request changes a resource.
func (c *checker) isChanged(it *item) bool {
	_, changed := c.before[it.Key]
	return changed
}
