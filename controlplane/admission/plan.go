package admission

import (
	"bytes"
	"slices"

	"github.com/sallyport/sallyport/internal/resource"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/storage"
)

// The reasons of problems that admission finds, beside those of package
// resource. They are part of the API.
const (
	ReasonDuplicateResource  = "duplicate_resource"    // twice in one request
	ReasonDanglingReference  = "dangling_reference"    // to what is not there
	ReasonNotEverywhere      = "not_everywhere"        // a reference to what some environment lacks
	ReasonStillReferenced    = "still_referenced"      // deleted, but others need it
	ReasonInvalidCondition   = "invalid_cel"           // with line and column
	ReasonNeverFires         = "never_fires"           // a control that nothing can meet
	ReasonRouteConflict      = "route_conflict"        // two routes for the same requests
	ReasonRedirectLoop       = "redirect_loop"         // a route that sends clients to itself
	ReasonAddressConflict    = "address_conflict"      // two listeners on one address
	ReasonEnrollmentConflict = "enrollment_conflict"   // one SPIFFE ID for two Enrollments
	ReasonKeyConflict        = "key_conflict"          // two API keys with one ID
	ReasonDomainConflict     = "trust_domain_conflict" // two bundles of one trust domain
	ReasonAmbiguousListener  = "ambiguous_listener"    // nobody knows whose address a policy would look at
	ReasonDeviceConflict     = "device_conflict"       // two devices that are known by the same
	ReasonNotFound           = "not_found"             // to be deleted
	ReasonMixedLanes         = "mixed_lanes"           // of the security lane, beside others
	ReasonOwnApproval        = "own_approval"          // a grant, by who applies it
	ReasonRemovesTooMuch     = "removes_too_much"      // of what an environment has
	ReasonRestoresTrust      = "restores_trust"        // by going back to when it was given
)

// Plan is what a request does to the fleet at one revision. It is immutable.
type Plan struct {
	// Changes are what has to be committed; none when everything is so already.
	Changes []storage.Change
	// Types say what becomes of each resource of the request, in its order.
	Types []adminv1.ChangeType
	// Environments are those that the changes are distributed to, sorted.
	Environments []string
}

// Same reports whether both plans do the same.
func (p *Plan) Same(o *Plan) bool {
	return slices.Equal(p.Types, o.Types) && slices.EqualFunc(p.Changes, o.Changes, func(a, b storage.Change) bool {
		return a.Key == b.Key && a.Delete == b.Delete && bytes.Equal(a.Document, b.Document)
	})
}

// Plan finds out what the request does to the fleet as the state has it, and
// everything that would be wrong with the fleet after that. With problems there
// is no plan. The state stays as it is.
func (s *State) Plan(r *Request) (*Plan, resource.Problems) {
	p := &Plan{Types: make([]adminv1.ChangeType, len(r.entries))}
	c := newChecker(s, r)
	for i := range r.entries {
		if c.compare(i) {
			p.Changes = append(p.Changes, r.entries[i].change())
		}
		p.Types[i] = c.types[i]
	}
	if c.weigh(); c.problems.Total == 0 {
		before := s.environments()
		c.vanishing(before)
		defer c.restore()
		c.enter()
		c.check()
		p.Environments = c.reach(before, s.environments())
	}
	if c.problems.Total > 0 {
		return nil, c.problems
	}
	return p, resource.Problems{}
}

func (e *entry) change() storage.Change {
	if e.item == nil {
		return storage.Change{Key: e.key, Delete: true}
	}
	return storage.Change{Key: e.key, Scope: e.item.scope, Document: e.document, Digest: e.item.digest}
}

// environments returns the names of those that there are.
func (s *State) environments() map[string]bool {
	names := make(map[string]bool, len(s.loads))
	for name := range s.loads {
		if s.items[environmentKey(name)] != nil {
			names[name] = true
		}
	}
	return names
}
