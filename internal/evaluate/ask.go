package evaluate

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/request"
	"github.com/sallyport/sallyport/internal/resource"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// The reasons that a proxy gives before policies are asked, of those that follow
// from resources and request alone.
const (
	ReasonNoRoute      = "no_route"
	ReasonMethod       = "method_not_allowed"
	ReasonAmbiguous    = "route_ambiguous"
	ReasonPreflight    = "preflight"
	ReasonNoPreflight  = "preflight_refused"
	ReasonMisdirected  = "misdirected_request"
	ReasonUnavailable  = string(policy.ReasonControlUnavailable)
	ReasonCredentials  = "credentials_missing"
	maxWays            = 4
	maxInexact         = 16
	credentialsMissing = "nobody is authenticated, and the route does not take anonymous requests"
)

// Ask answers a question by a table. Who asks is taken as authenticated.
func Ask(t *compile.Table, q *Question) *adminv1.Answer {
	head := t.Head()
	a := &adminv1.Answer{Environment: head.Environment, Revision: int64(head.Revision)}
	if q.refused != nil {
		deny(a, q.refused.Status, q.refused.Reason, q.refused.Detail)
		return a
	}
	if c := (request.Canonical{Host: q.Host}); q.TLSVersion != "" && !c.MatchesServerName(q.ServerName) {
		deny(a, http.StatusMisdirectedRequest, ReasonMisdirected, "the connection was made for another host")
		return a
	}
	if r := t.Preflight(q.canonical()); r != nil {
		preflight(a, r, q.canonical())
		return a
	}
	r := match(a, t, q)
	if r == nil {
		return a
	}
	a.Route, a.Accepts = r.ID().String(), accepts(r)
	switch {
	case r.Unavailable != "":
		deny(a, http.StatusForbidden, ReasonUnavailable, r.Unavailable)
	case q.WebSocket && !r.WebSocket:
		deny(a, http.StatusBadRequest, request.ReasonUpgrade, "the route takes no WebSockets")
	case (q.Principal == nil || q.Principal.Kind == policy.Anonymous) && !r.Authentication.GetAnonymous():
		deny(a, http.StatusUnauthorized, ReasonCredentials, credentialsMissing)
	default:
		decide(a, t.Policies(), r, q)
		direct(a, r, q.canonical())
	}
	return a
}

func deny(a *adminv1.Answer, status int, reason, detail string) {
	a.Status, a.Reason, a.Detail = int32(status), reason, detail //nolint:gosec // of HTTP
}

func decide(a *adminv1.Answer, s *policy.Set, r *compile.Route, q *Question) {
	in := q.input()
	in.Route, in.RouteLabels, in.Templates = r.ID(), r.Labels, r.Paths
	e := s.Explain(&in)
	d := e.Decision
	a.Allow, a.Reason, a.Policy, a.Detail = d.Allow, string(d.Reason), d.Policy, d.Detail
	if !d.Allow {
		a.Status = http.StatusForbidden
	}
	a.Steps, a.Omitted = Steps(e.Steps, maxWays), int32(e.Omitted) //nolint:gosec // policies of a route
	a.Changes, a.Shadow = Changes(e.Changes), Shadow(d.Shadow)
	a.Inexact = q.inexact(s.Of(in.Route))
}

// inexact says what policies look at that is not known of the request.
func (q *Question) inexact(policies []*policy.Policy) []string {
	var found []string
	if q.nameless {
		found = append(found, "policies may name the principal, of whom a pseudonym is recorded")
	}
	for _, p := range policies {
		if !p.Covers(q.Method, q.Path) || q.named() && !p.Names(q.Principal) {
			continue
		}
		for _, field := range p.Reads() {
			if why := q.why(field); why != "" {
				found = append(found, p.Key()+": the condition reads "+field+", and "+why)
			}
		}
	}
	return found[:min(len(found), maxInexact)]
}

// named reports whether all is known that policies name principals by.
func (q *Question) named() bool { return !q.nameless && q.unknown["principal.groups"] == "" }

// why says why a field that a condition reads is not known; empty if it is.
func (q *Question) why(field string) string {
	if len(q.unknown) == 0 {
		return ""
	}
	whole, part, indexed := strings.Cut(field, "[")
	if why := q.unknown[whole]; why != "" {
		return why
	}
	if indexed {
		name := strings.TrimSuffix(part, "]")
		if plain, err := strconv.Unquote(name); err == nil {
			name = plain
		}
		if whole == "request.headers" {
			name = strings.ToLower(name)
		}
		return q.unknown[whole+"["+name+"]"]
	}
	for name, why := range q.unknown {
		if strings.HasPrefix(name, whole+"[") {
			return why
		}
	}
	return ""
}

// accepts names the credentials that a route takes.
func accepts(r *compile.Route) []string {
	var all []string
	a := r.Authentication
	for _, p := range r.Providers {
		kind := "tokens of "
		if p.Spec.GetX509() != nil {
			kind = "client certificates of "
		}
		all = append(all, kind+label(p.Key))
	}
	if s := r.SignIn; s != nil {
		all = append(all, "sessions by "+label(s.Key))
	}
	for _, one := range []struct {
		taken bool
		name  string
	}{
		{a.GetClientCertificates(), "X.509-SVIDs"}, {a.GetJwtSvids() != nil, "JWT-SVIDs"},
		{a.GetApiKeys(), "API keys of " + r.Key.Namespace}, {a.GetAnonymous(), "none at all"},
	} {
		if one.taken {
			all = append(all, one.name)
		}
	}
	if a.GetRequire() == resourcev1.Require_REQUIRE_ALL && len(all) > 1 {
		all = append(all, "all of these together")
	}
	return slices.Clip(all)
}

func label(k resource.Key) string { return k.Namespace + "/" + k.Name }
