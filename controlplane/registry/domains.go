package registry

import (
	"fmt"
	"slices"

	"github.com/sallyport/sallyport/internal/identity"
)

// Authorizer expects proxies of our own trust domain, which are at least listed as
// pending, and of those trust domains that an Enrollment names: nobody else of what
// we federate with has any business here, but for others.
func (r *Registry) Authorizer(own identity.TrustDomain, others ...identity.ID) identity.Authorizer {
	member := identity.Member(own)
	return func(id identity.ID) error {
		if err := member(id); err == nil || r.enrolls(id.TrustDomain()) || slices.Contains(others, id) {
			return nil
		}
		return fmt.Errorf("%q is not of the trust domain %q, nor of one that an enrollment names", id, own)
	}
}

// enrolls reports whether an Enrollment is of a trust domain.
func (r *Registry) enrolls(td identity.TrustDomain) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.enrollments, func(e enrollment) bool { return e.pattern.TrustDomain() == string(td) })
}
