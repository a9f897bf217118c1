package evaluate

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/request"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// maxRoutes bounds how many routes an answer names.
const maxRoutes = 16

// match finds the route of a question; when there is none, it says so in the answer.
func match(a *adminv1.Answer, t *compile.Table, q *Question) *compile.Route {
	c := q.canonical()
	for r := range t.Candidates(c) {
		if len(a.GetRoutes()) == maxRoutes {
			break
		}
		a.Routes = append(a.Routes, r.ID().String())
	}
	if r := q.recorded(t); r != nil {
		return r
	}
	r, result := t.Match(c)
	ambiguous := c.Ambiguity()
	switch methods := result.Allow(); {
	case r != nil:
	case ambiguous != nil:
		deny(a, ambiguous.Status, ambiguous.Reason, ambiguous.Detail)
	case result.Unclear() != "":
		deny(a, http.StatusBadRequest, ReasonAmbiguous, result.Unclear())
	case len(methods) > 0:
		deny(a, http.StatusMethodNotAllowed, ReasonMethod, "methods are "+strings.Join(methods, ", "))
	default:
		deny(a, http.StatusNotFound, ReasonNoRoute, "")
	}
	return r
}

// recorded returns the route that a record names, if it chose by what a record does
// not hold.
func (q *Question) recorded(t *compile.Table) *compile.Route {
	namespace, name, _ := strings.Cut(q.took, "/")
	r := t.Route(policy.RouteID{Namespace: namespace, Name: name})
	if r == nil || len(r.Conditions) == 0 {
		return nil
	}
	for i := range r.Conditions {
		c := &r.Conditions[i]
		field := "request.headers[" + strings.ToLower(c.Name) + "]"
		if c.Place == request.InQuery {
			field = "request.params"
		}
		if q.why(field) != "" {
			return r
		}
	}
	return nil
}

// direct says where an allowed request goes, if not where it was asked to.
func direct(a *adminv1.Answer, r *compile.Route, c *request.Canonical) {
	if !a.GetAllow() {
		return
	}
	var host, target string
	var ok bool
	if to := r.Rewrites.Redirect; to != nil {
		target, ok = to.Location(c)
		a.Target = strconv.Itoa(to.Status) + " " + target
	} else if host, target, ok = r.Rewrites.Target.Of(c); host != c.Host || target != c.Target {
		a.Target = c.Method + " " + host + target
	}
	if !ok {
		a.Allow, a.Policy, a.Target = false, "", ""
		deny(a, http.StatusRequestURITooLong, request.ReasonPathTooLong, "the path that the route makes is too long")
	}
}

// preflight answers what a browser asks about a request to a route.
func preflight(a *adminv1.Answer, r *compile.Route, c *request.Canonical) {
	a.Route, a.Routes = r.ID().String(), []string{r.ID().String()}
	switch refused := r.CORS.Preflight(c); {
	case r.Unavailable != "":
		deny(a, http.StatusForbidden, ReasonUnavailable, r.Unavailable)
	case refused != "":
		deny(a, http.StatusForbidden, ReasonNoPreflight, refused)
	default:
		a.Allow, a.Reason = true, ReasonPreflight
	}
}
