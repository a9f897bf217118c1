package compile

import (
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/resource"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// ReasonInvalidCEL is the reason of problems of conditions.
const ReasonInvalidCEL = "invalid_cel"

// Policy says what is wrong with a policy that package resource has accepted,
// each problem at its field and with line and column in a condition.
func Policy(key resource.Key, spec *resourcev1.Policy) []resource.Problem {
	_, err := policy.Compile(policySpec(key, spec))
	return problemsOf(key, err)
}

// Grant is Policy for a grant.
func Grant(key resource.Key, spec *resourcev1.Grant) []resource.Problem {
	_, err := policy.Compile(grantSpec(key, spec))
	return problemsOf(key, err)
}

// isAttached reports whether resources of a kind are attached to the routes that
// they select: policies, if only for a time, and rate limits.
func isAttached(kind resource.Kind) bool {
	return kind == resource.KindPolicy || kind == resource.KindGrant || kind == resource.KindRateLimit
}

// isTerm reports whether conditions refer to resources of a kind by name.
func isTerm(kind resource.Kind) bool {
	return kind == resource.KindSet || kind == resource.KindCondition
}

func grantSpec(key resource.Key, g *resourcev1.Grant) policy.Spec {
	s := policySpec(key, resource.PolicyOf(g))
	s.Grant = &policy.Grant{
		NotBefore: g.GetNotBefore().AsTime(), NotAfter: g.GetNotAfter().AsTime(),
		Reason: g.GetReason(), Approver: g.GetApprover(),
	}
	return s
}

// Condition is Policy for a condition that others refer to by name.
func Condition(key resource.Key, spec *resourcev1.Condition) []resource.Problem {
	return problemsOf(key, policy.CheckCondition(spec.GetWhen(), nil, key.Name))
}

// Linked says what is wrong with a Policy or Condition together with all that it
// refers to by name.
func Linked(key resource.Key, spec proto.Message, terms *policy.Terms) []resource.Problem {
	switch spec := spec.(type) {
	case *resourcev1.Policy:
		s := policySpec(key, spec)
		s.Terms = terms
		_, err := policy.Compile(s)
		return problemsOf(key, err)
	case *resourcev1.RateLimit:
		_, err := newRateLimit(key, spec, terms)
		return problemsOf(key, err)
	case *resourcev1.Condition:
		return problemsOf(key, policy.CheckCondition(spec.GetWhen(), terms, key.Name))
	}
	return nil
}

func problemsOf(key resource.Key, err error) []resource.Problem {
	var problems []resource.Problem
	for _, e := range policy.Problems(err) {
		p := resource.Problem{
			Resource: key.String(), Field: specField(e.Field), Reason: resource.ReasonInvalidValue,
			Message: e.Reason, Line: e.Line, Column: e.Column,
		}
		if e.Line > 0 {
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

func policySpec(key resource.Key, p *resourcev1.Policy) policy.Spec {
	s := policy.Spec{
		Namespace: key.Namespace, Name: key.Name,
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
