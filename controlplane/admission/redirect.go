package admission

import (
	"slices"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/pattern"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// redirect reports a route that sends clients to itself: to a host of its own and a
// path that it takes, which no other route claims before it. Where proxies do not
// listen, without TLS, nothing of the kind can be.
func (c *checker) redirect(it *item, spec *resourcev1.Route) {
	to := spec.GetRedirect()
	if to == nil || to.GetScheme() == "http" {
		return
	}
	paths := spec.GetPaths()
	if to.GetPath() != "" {
		paths = []string{to.GetPath()}
	}
	hosts := spec.GetHosts()
	if to.GetHost() != "" {
		hosts = slices.DeleteFunc(slices.Clone(hosts), func(h string) bool { return h != to.GetHost() })
	}
	for _, claim := range compile.Claims(&resourcev1.Route{Hosts: hosts, Paths: paths}) {
		if it.takes(claim.Path) && !c.taken(it, claim) {
			c.report(it, "spec.redirect", ReasonRedirectLoop, "leads to %s%s, which this route takes itself", claim.Host, claim.Path)
			return
		}
	}
}

// takes reports whether a route takes all that fits a template.
func (it *item) takes(template string) bool {
	p, err := pattern.ParsePath(template)
	if err != nil || len(it.paths) == 0 {
		return err == nil
	}
	return slices.ContainsFunc(it.paths, func(own pattern.Path) bool {
		return includes(slices.Collect(own.Segments()), slices.Collect(p.Segments()))
	})
}

// includes reports whether every text that fits inner fits outer.
func includes(outer, inner []pattern.Segment) bool {
	for i := range outer {
		switch {
		case outer[i].Kind == pattern.Rest:
			return true
		case i == len(inner) || inner[i].Kind == pattern.Rest:
			return false
		case outer[i].Kind == pattern.Literal && outer[i] != inner[i]:
			return false
		case outer[i].Kind == pattern.One && inner[i].Kind == pattern.Literal && inner[i].Text == "":
			return false
		}
	}
	return len(outer) == len(inner)
}

// taken reports whether another route has a claim, for some methods at least.
func (c *checker) taken(it *item, claim compile.Claim) bool {
	for other := range c.state.claims[claim].all() {
		if other != it && meets(it.scope, other.scope) {
			return true
		}
	}
	return false
}
