package compile

import (
	"strings"

	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// ReasonInvalidCEL is the reason of problems of conditions.
const ReasonInvalidCEL = "invalid_cel"

// Policy says what is wrong with a policy that package resource has accepted,
// each problem at its field and with line and column in a condition.
func Policy(key resource.Key, spec *resourcev1.Policy) []resource.Problem {
	_, err := policy.Compile(policySpec(key, snapshot.Digest{}, spec))
	var problems []resource.Problem
	for _, e := range policy.Problems(err) {
		p := resource.Problem{
			Resource: key.String(), Field: specField(e.Field), Reason: resource.ReasonInvalidValue,
			Message: e.Reason, Line: e.Line, Column: e.Column,
		}
		if e.Field == "when" {
			p.Reason = ReasonInvalidCEL
		}
		problems = append(problems, p)
	}
	return problems
}

// specField says in terms of the resource which field of a policy.Spec it is.
func specField(field string) string {
	if matcher, ok := strings.CutSuffix(field, ".id"); ok {
		field = matcher + ".subject"
	}
	if matcher, ok := strings.CutSuffix(field, ".provider"); ok {
		field = matcher + ".identityProvider"
	}
	return "spec." + field
}

func policySpec(key resource.Key, digest snapshot.Digest, p *resourcev1.Policy) policy.Spec {
	s := policy.Spec{
		Namespace: key.Namespace, Name: key.Name, Digest: digest,
		Shadow:  p.GetMode() == resourcev1.Mode_MODE_SHADOW,
		Methods: p.GetMethods(), Paths: p.GetPaths(), When: p.GetWhen(),
	}
	switch p.GetEffect() {
	case resourcev1.Effect_EFFECT_ALLOW:
		s.Effect = policy.Allow
	case resourcev1.Effect_EFFECT_DENY:
		s.Effect = policy.Deny
	}
	for _, m := range p.GetPrincipals() {
		matcher := policy.PrincipalMatcher{
			Group: m.GetGroup(), ID: m.GetSubject(), SPIFFE: m.GetSpiffe(),
			Authenticated: m.GetAuthenticated(), Anonymous: m.GetAnonymous(),
		}
		if m.GetIdentityProvider() != "" {
			matcher.Provider = key.Namespace + "/" + m.GetIdentityProvider()
		}
		if m.GetKey() != "" {
			matcher.Key = key.Namespace + "/" + m.GetKey()
		}
		s.Principals = append(s.Principals, matcher)
	}
	return s
}
