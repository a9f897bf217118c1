package evaluate

import (
	"net/http"
	"strings"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/request"
	"github.com/sallyport/sallyport/internal/resource"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// WhoCan returns whom the policies of a route allow and deny; nil if there is no
// such route. Of the request it looks at what describes the route.
func WhoCan(t *compile.Table, m *adminv1.WhoCanRequest) *adminv1.WhoCanResponse {
	r := find(t, m)
	if r == nil {
		return nil
	}
	res := &adminv1.WhoCanResponse{
		Revision: int64(t.Head().Revision), Route: r.ID().String(), Unavailable: r.Unavailable, Accepts: accepts(r),
	}
	for _, p := range t.Policies().Of(r.ID()) {
		if !p.Covers(m.GetMethod(), m.GetPath()) {
			continue
		}
		rule := ruleOf(t, p)
		if p.Effect() == policy.Deny {
			res.Denies = append(res.Denies, rule)
		} else {
			res.Allows = append(res.Allows, rule)
		}
	}
	return res
}

// find returns the route by its name, or that which takes such requests when they
// have neither header nor query.
func find(t *compile.Table, m *adminv1.WhoCanRequest) *compile.Route {
	if m.GetRoute() != "" {
		namespace, name, _ := strings.Cut(m.GetRoute(), "/")
		return t.Route(policy.RouteID{Namespace: namespace, Name: name})
	}
	c := request.Canonical{Method: or(m.GetMethod(), http.MethodGet), Host: m.GetHost(), Path: or(m.GetPath(), "/")}
	r, result := t.Match(&c)
	if methods := result.Allow(); r == nil && m.GetMethod() == "" && len(methods) > 0 {
		c.Method = methods[0]
		r, _ = t.Match(&c)
	}
	return r
}

// ruleOf tells of a policy what its resource says.
func ruleOf(t *compile.Table, p *policy.Policy) *adminv1.Rule {
	rule := &adminv1.Rule{Policy: p.Key(), Shadow: p.Shadow(), Grant: p.Note()}
	key := resource.Key{Kind: resource.KindPolicy, Namespace: p.Namespace(), Name: p.Name()}
	if p.Granted() {
		key.Kind = resource.KindGrant
	}
	e, ok := t.Snapshot().Set().Lookup(key)
	if !ok {
		return rule
	}
	parsed, err := resource.ParseDocument(e.Document)
	if err != nil {
		return rule
	}
	spec, ok := parsed.Spec.(*resourcev1.Policy)
	if !ok {
		spec = resource.PolicyOf(parsed.Spec)
	}
	rule.Methods, rule.Paths, rule.When = spec.GetMethods(), spec.GetPaths(), spec.GetWhen()
	for _, m := range spec.GetPrincipals() {
		rule.Principals = append(rule.Principals, matcher(m))
	}
	return rule
}

// matcher is a matcher in one line, as its author would write it.
func matcher(m *resourcev1.PrincipalMatcher) string {
	var text string
	switch {
	case m.GetGroup() != "":
		text = "group: " + m.GetGroup()
	case m.GetSubject() != "":
		text = "subject: " + m.GetSubject()
	case m.GetSpiffe() != "":
		text = "spiffe: " + m.GetSpiffe()
	case m.GetKey() != "":
		text = "key: " + m.GetKey()
	case m.GetAuthenticated():
		text = "authenticated: true"
	case m.GetAnonymous():
		text = "anonymous: true"
	}
	if m.GetIdentityProvider() != "" {
		text += ", identityProvider: " + m.GetIdentityProvider()
	}
	return text
}
