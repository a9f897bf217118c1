package policy

// Reason says why a decision fell as it did. The set of reasons is closed, so
// that they can be labels of a metric.
type Reason string

// The reasons. All but ReasonAllowed deny, and so does the empty Reason of a
// zero Decision.
const (
	ReasonAllowed            Reason = "allowed_by_policy"   // Policy allowed and none denied
	ReasonDenied             Reason = "denied_by_policy"    // Policy, a DENY, matched
	ReasonNoMatch            Reason = "no_matching_policy"  // no ALLOW matched
	ReasonEvaluationError    Reason = "evaluation_error"    // the condition of Policy failed
	ReasonControlUnavailable Reason = "control_unavailable" // a control of the route was rejected
	ReasonUnknownRoute       Reason = "unknown_route"       // the route is not in the Set
	ReasonNoSnapshot         Reason = "no_snapshot"         // there is no Set yet
)

// Decision is the answer to one Input. The zero value denies.
type Decision struct {
	Allow  bool
	Reason Reason
	Policy string // "namespace/name" of the policy that decided; empty if none did

	// Detail is a short text for the one who asks why. It names policies and
	// the request's method but repeats nothing else of the request, so it is
	// safe to show. Of a grant that allows it is reason and approver. It is empty where Reason and Policy say all.
	Detail string

	// Shadow is what policies in shadow would have made of it. It is zero where
	// they would have turned nothing round.
	Shadow Shadow
}

// Shadow is the decision that would have been, with the opposite answer, if the
// policies in shadow were enforced.
type Shadow struct {
	Policy string // "namespace/name" of the one that would have decided; empty for none
	Allow  bool
	Reason Reason
}
