package admission

import (
	"fmt"
	"slices"
	"time"

	"github.com/sallyport/sallyport/internal/resource"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// maxSkew is how far ahead of our clock that of an operator may be.
const maxSkew = 5 * time.Minute

// Immediate reports whether the request is for the security lane, which has a
// State of its own.
func (r *Request) Immediate() bool {
	immediate, others := r.lanes()
	return immediate && !others
}

// lanes reports whether the request has resources of the security lane, and
// whether it has others.
func (r *Request) lanes() (immediate, others bool) {
	for i := range r.entries {
		kind := r.entries[i].key.Kind
		immediate = immediate || kind.Immediate()
		others = others || !kind.Immediate() && slices.Contains(resource.Kinds(), kind)
	}
	return immediate, others
}

// part refuses to do in one call what cannot be done at one moment: the
// security lane has a history of its own.
func (r *Request) part() {
	if immediate, others := r.lanes(); !immediate || !others {
		return
	}
	for i := range r.entries {
		e := &r.entries[i]
		if !e.key.Kind.Immediate() {
			continue
		}
		e.valid, e.item = false, nil
		e.problems.Add(resource.Problem{
			Resource: e.key.String(), Field: "kind", Reason: ReasonMixedLanes,
			Message: fmt.Sprintf("is in force at once and makes no revision: name resources of kind %s in a call of their own", e.key.Kind),
		})
	}
}

// timely refuses a revocation or a grant that has no effect any more, a revocation
// of what is still to come, and a device of which nothing is known any more.
func (e *entry) timely(p resource.Parsed, now time.Time) {
	refuse := func(field string, at time.Time, why string) {
		e.problems.Add(resource.Problem{
			Resource: e.key.String(), Field: field, Reason: resource.ReasonInvalidValue,
			Message: at.Format(time.RFC3339) + " " + why,
		})
	}
	if at, ok := p.Expires(); ok && !at.After(now) {
		refuse("spec.expiresAt", at, "is in the past: it would have no effect")
	}
	if g, ok := p.Spec.(*resourcev1.Grant); ok && g.GetNotAfter() != nil && !g.GetNotAfter().AsTime().After(now) {
		refuse("spec.notAfter", g.GetNotAfter().AsTime(), "is in the past: it would have no effect")
	}
	if d, ok := p.Spec.(*resourcev1.Device); ok && d.GetExpiresAt() != nil && !d.GetExpiresAt().AsTime().After(now) {
		refuse("spec.expiresAt", d.GetExpiresAt().AsTime(), "is in the past: nothing would be known of the device")
	}
	spec, _ := p.Spec.(*resourcev1.Revocation)
	if at := spec.GetIssuedBefore(); at != nil && at.AsTime().After(now.Add(maxSkew)) {
		refuse("spec.issuedBefore", at.AsTime(), "is still to come: what will be issued until then cannot be told to be bad")
	}
}

// AppliedBy refuses grants that are approved by who applies them, who is known by
// these names.
func (r *Request) AppliedBy(names ...string) {
	for i := range r.entries {
		e := &r.entries[i]
		if !e.valid || e.item == nil || e.lapsed {
			continue
		}
		g, ok := e.item.Spec.(*resourcev1.Grant)
		if ok && slices.Contains(names, g.GetApprover()) {
			e.valid, e.item = false, nil
			e.problems.Add(resource.Problem{
				Resource: e.key.String(), Field: "spec.approver", Reason: ReasonOwnApproval,
				Message: "somebody else than who applies it has to have approved it",
			})
		}
	}
}
