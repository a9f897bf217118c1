package admission

import (
	"iter"
	"maps"
	"slices"

	"github.com/sallyport/sallyport/internal/resource"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
	"github.com/sallyport/sallyport/storage"
)

// door is how many listeners an environment has, and how many of them ask for
// client certificates.
type door struct{ listeners, asking int }

// doors are those of environments, by name; "" are listeners that are in every
// one, and anywhere has all there are.
type doors map[string]door

const anywhere = "*" // no environment is called so

func (d doors) change(it *item, by int) {
	asking := 0
	if asks(it) {
		asking = by
	}
	for _, name := range append(scopeNames(it.scope), anywhere) {
		d[name] = door{d[name].listeners + by, d[name].asking + asking}
		if d[name] == (door{}) {
			delete(d, name)
		}
	}
}

func asks(it *item) bool {
	spec, ok := it.Spec.(*resourcev1.Listener)
	return ok && spec.GetTls().GetClientCertificates() != resourcev1.ClientCertificates_CLIENT_CERTIFICATES_UNSPECIFIED
}

func scopeNames(s storage.Scope) []string {
	if s.All {
		return []string{""}
	}
	return slices.Clip(s.Environments)
}

// shut reports whether a route's environments have listeners, and none that asks
// for client certificates. Where there is no listener nothing is known yet.
func (d doors) shut(s storage.Scope) bool {
	names := []string{anywhere}
	if !s.All {
		names = append(scopeNames(s), "")
	}
	var sum door
	for _, name := range names {
		sum.listeners += d[name].listeners
		sum.asking += d[name].asking
	}
	return sum.listeners > 0 && sum.asking == 0
}

// wantsCertificates reports whether a resource is of those through which routes
// take client certificates.
func wantsCertificates(it *item) bool {
	switch spec := it.Spec.(type) {
	case *resourcev1.Route:
		a := spec.GetAuthentication()
		return a.GetClientCertificates() || a.GetProof() == resourcev1.Proof_PROOF_CERTIFICATE
	case *resourcev1.IdentityProvider:
		return spec.GetX509() != nil
	}
	return false
}

// certified yields the routes that take client certificates, some of them twice.
func (s *State) certified() iter.Seq[*item] {
	return func(yield func(*item) bool) {
		for it := range s.certificates[resource.KindRoute].all() {
			if !yield(it) {
				return
			}
		}
		for p := range s.certificates[resource.KindIdentityProvider].all() {
			for it := range s.referrers[p.Key].all() {
				if it.Key.Kind == resource.KindRoute && !yield(it) {
					return
				}
			}
		}
	}
}

// shutOut yields the routes at which the request leaves no listener that asks for
// the certificates they take.
func (c *checker) shutOut(yield func(*item) bool) {
	if maps.Equal(c.doors, c.state.doors) {
		return
	}
	for it := range c.state.certified() {
		if c.state.doors.shut(it.scope) && !c.doors.shut(it.scope) && !yield(it) {
			return
		}
	}
}

// certificates reports what of a route's authentication goes by a client
// certificate that no listener asks for: nobody could ever meet it.
func (c *checker) certificates(it *item, spec *resourcev1.Route) {
	if !c.state.doors.shut(it.scope) {
		return
	}
	what := "no listener of its environments asks for client certificates: say tls.clientCertificates: OPTIONAL at one"
	if _, changed := c.before[it.Key]; !changed {
		what += " after this change"
	}
	report := func(field string) { c.report(it, field, ReasonNeverFires, "%s", what) }
	a := spec.GetAuthentication()
	if a.GetClientCertificates() {
		report("spec.authentication.clientCertificates")
	}
	if a.GetProof() == resourcev1.Proof_PROOF_CERTIFICATE {
		report("spec.authentication.proof")
	}
	for at, key := range it.references() {
		if to := c.state.items[key]; to != nil && key.Kind == resource.KindIdentityProvider && wantsCertificates(to) {
			report(at.String())
		}
	}
}
