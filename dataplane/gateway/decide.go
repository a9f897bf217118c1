package gateway

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/dataplane/record"
	"github.com/sallyport/sallyport/dataplane/signin"
	"github.com/sallyport/sallyport/dataplane/upstream"
	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/clientip"
	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/identity/authority"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/request"
	"github.com/sallyport/sallyport/internal/revocation"
	"github.com/sallyport/sallyport/internal/route"
)

// The reasons for which the gateway itself denies, beside those of packages
// request, wire, authn and policy.
const (
	ReasonNoSnapshot  = "no_snapshot"           // nothing is in force yet
	ReasonNoSecurity  = "no_security_state"     // it is not known who is revoked
	ReasonStale       = "configuration_stale"   // the environment's limit is exceeded
	ReasonOutdated    = "security_stale"        // that of what is known of revocations
	ReasonRevoked     = "revoked"               // the credential was good, and is cut off
	ReasonMisdirected = "misdirected_request"   // another host than the handshake's
	ReasonNoRoute     = "no_route"              // nothing claims the request
	ReasonMethod      = "method_not_allowed"    // something does, with other methods
	ReasonAmbiguous   = "route_ambiguous"       // what a route depends on has more than one value
	ReasonUnavailable = "control_unavailable"   // a control of the route was rejected
	ReasonUnrecorded  = "record_unavailable"    // the decision could not be recorded
	ReasonUnasserted  = "assertion_unavailable" // the upstream could not be told who asks
	ReasonOverloaded  = "overloaded"            // this process has more to do than it can
	ReasonLimited     = "rate_limited"          // a limit of the route is used up
)

// question is a request as it arrived, and where from.
type question struct {
	raw     request.Raw
	refused *request.Error // on the wire, in which case raw says nothing
	from    *client
	address clientip.Address
	now     time.Time
	device  []string // device tokens, which package request takes out of raw

	exchange *exchange // for the body, where that is an answer's ground

	input policy.Input // what policies and limits are asked with

	// again is what was proven for a request that is an open stream; nil for one
	// that comes.
	again *authn.Standing
}

// verdict is the answer to a question and its grounds. The zero value denies.
type verdict struct {
	allow  bool
	status int    // of the answer to what is denied
	reason string // fit for clients, records and metrics
	detail string // for the record alone

	methods   []string // for Allow, with status 405
	challenge string   // for WWW-Authenticate
	nonce     string   // for DPoP-Nonce
	own       *own     // what the gateway says itself, to what it allows or denies

	request   request.Canonical
	way       *way // nil without a route
	principal *policy.Principal
	known     time.Time // when the principal was; zero for never
	shown     provenance
	device    *policy.Device // nil for none
	policy    string
	why       *policy.Explanation // nil for none
	shadow    policy.Shadow
	place     *policy.Place // nil unless a policy asked
	denials   policy.Denials
	ages      policy.Ages

	upstream     *upstream.Upstream // nil for one that is not there
	share        string             // its name, where there are several; else empty
	audience     string             // of the assertion
	host, target string             // of what is sent on
	assertion    []string           // for the upstream; nil for none
}

func denied(status int, reason, detail string) verdict {
	return verdict{status: status, reason: reason, detail: detail}
}

// deny takes back what was allowed.
func (v *verdict) deny(f failure) {
	v.allow, v.status, v.reason, v.detail, v.own = false, f.status, f.reason, f.detail, nil
	if f.status == http.StatusUnauthorized && v.principal != nil {
		v.challenge = authn.Challenge(v.principal)
	}
}

// grounds is what a request is decided by.
type grounds struct {
	*state
	revocations *revocation.Set // nil for none
}

// decide answers q by s, with v. It looks at nothing else but the ages of it, and does
// nothing but wait for an issuer's keys.
func (g *Gateway) decide(ctx context.Context, s grounds, q *question, v *verdict) {
	if q.refused != nil {
		*v = denied(q.refused.Status, q.refused.Reason, q.refused.Detail)
		return
	}
	if g.overload.Refuses() { // before it has cost more
		*v = denied(http.StatusServiceUnavailable, ReasonOverloaded, "")
		return
	}
	c, err := request.Canonicalise(q.raw)
	if err != nil {
		*v = malformed(err)
		return
	}
	g.consider(ctx, s, q, &c, v)
}

// consider is decide for a request in its canonical form, with a verdict that is zero. Of
// one that is decided on again it changes nothing.
func (g *Gateway) consider(ctx context.Context, s grounds, q *question, c *request.Canonical, v *verdict) {
	ages := g.ages(q.now)
	q.input.Ages = ages
	switch no := g.serves(s, q, c); {
	case no.reason != "":
		v.status, v.reason, v.detail = no.status, no.reason, no.detail
	case isReserved(c.Path):
		*v = g.reserved(ctx, &visit{grounds: s, question: q, request: *c})
	default:
		g.route(s, c, v)
	}
	v.request, v.ages = *c, ages
	if v.reason == "" {
		g.authorise(ctx, s, q, v)
	}
}

func malformed(err error) verdict {
	var e *request.Error
	if !errors.As(err, &e) {
		return denied(http.StatusBadRequest, request.ReasonTargetInvalid, err.Error())
	}
	return denied(e.Status, e.Reason, e.Detail)
}

// serves says why no request of this kind is served now, if so.
func (g *Gateway) serves(s grounds, q *question, c *request.Canonical) (no failure) {
	switch {
	case !c.MatchesServerName(q.from.serverName):
		return failure{status: http.StatusMisdirectedRequest, reason: ReasonMisdirected, detail: "the connection was made for another host"}
	case s.table == nil:
		return failure{status: http.StatusServiceUnavailable, reason: ReasonNoSnapshot}
	case s.revocations == nil:
		return failure{status: http.StatusServiceUnavailable, reason: ReasonNoSecurity}
	case s.limit.denies(q.input.Ages.Configuration):
		return failure{status: http.StatusServiceUnavailable, reason: ReasonStale}
	case s.securityLimit.denies(q.input.Ages.Security):
		return failure{status: http.StatusServiceUnavailable, reason: ReasonOutdated}
	case s.revocations.Unavailable() != "":
		return failure{status: http.StatusForbidden, reason: ReasonUnavailable, detail: s.revocations.Unavailable()}
	}
	return failure{}
}

// route finds the way of a request, or a reason why there is none.
func (g *Gateway) route(s grounds, c *request.Canonical, v *verdict) {
	if r := s.table.Preflight(c); r != nil {
		*v = g.preflight(s, r, c)
		return
	}
	r, result := s.table.Match(c)
	switch {
	case r == nil:
		*v = astray(c, &result)
		return
	case c.WebSocket && !r.WebSocket:
		*v = denied(http.StatusBadRequest, request.ReasonUpgrade, "the route takes no WebSockets")
	}
	v.way = g.way(s.state, r)
}

// astray says why a request has no route.
func astray(c *request.Canonical, result *route.Result) verdict {
	if ambiguous := c.Ambiguity(); ambiguous != nil {
		return malformed(ambiguous) // whether there would have been a route or not
	}
	if unclear := result.Unclear(); unclear != "" {
		return denied(http.StatusBadRequest, ReasonAmbiguous, unclear)
	}
	if methods := result.Allow(); len(methods) > 0 {
		v := denied(http.StatusMethodNotAllowed, ReasonMethod, "")
		v.methods = methods
		return v
	}
	return denied(http.StatusNotFound, ReasonNoRoute, "")
}

// authorise finds out who asks, and whether they may.
func (g *Gateway) authorise(ctx context.Context, s grounds, q *question, v *verdict) {
	route := v.way.route
	if route.Unavailable != "" {
		v.status, v.reason, v.detail = http.StatusForbidden, ReasonUnavailable, route.Unavailable
		return
	}
	in := &q.input
	*in = policy.Input{
		Method: v.request.Method, Host: v.request.Host, Path: v.request.Path,
		Query: v.request.RawQuery, Header: v.request.Header, Route: route.ID(), RouteLabels: route.Labels, Templates: route.Paths,
		ClientIP: q.address.IP, Geo: g.geo, Now: q.now, TLSVersion: q.from.tlsVersion, ServerName: q.from.serverName, ALPN: q.from.alpn,
		Denials: g.denials, Ages: in.Ages,
	}
	if g.exhausted(ctx, q, v, v.way.limits.outer, in) {
		return
	}
	principal, denial := g.authenticate(ctx, s, q, v)
	if v.way.accept.APIKeys != "" && q.again == nil {
		// A key is good wherever it is shown: nobody else gets to see it.
		delete(v.request.Header, authn.HeaderAPIKey)
	}
	if denial != nil {
		v.status, v.reason = denial.Status, string(denial.Reason)
		v.challenge, v.nonce = denial.Challenge, denial.Nonce
		g.invite(ctx, q, v)
		return
	}
	v.principal, v.known = principal, g.now()
	if v.revoked(s.revocations, principal, q.now) {
		g.invite(ctx, q, v)
		return
	}
	if g.comesFrom(s, q, v) {
		return
	}
	in.Principal, in.Device = principal, v.device
	if g.exhausted(ctx, q, v, v.way.limits.inner, in) {
		return
	}
	d := s.policies.Decide(in)
	v.allow, v.reason, v.policy, v.detail, v.shadow = d.Allow, string(d.Reason), d.Policy, d.Detail, v.aside(d)
	v.place, v.denials = in.Place(), in.Denied()
	switch {
	case d.Allow && q.again == nil:
		if v.direct(); v.allow && v.own == nil {
			g.introduce(s.table.Head().Environment, q.now, v)
		}
		return
	case d.Allow:
		return
	}
	v.status = http.StatusForbidden
	if g.explained.may(q.now) {
		why := s.policies.Explain(in)
		v.why = &why
		v.place, v.denials = in.Place(), in.Denied()
	}
}

// Explaining costs what all policies of a route cost, so denials in great
// numbers, which cost their sender nothing, are explained only in part. Their
// detail still names what decided.
const maxExplained = 50 // in a second

type explained struct {
	second, count atomic.Int64
}

func (e *explained) may(now time.Time) bool {
	if s := now.Unix(); e.second.Swap(s) != s {
		e.count.Store(0)
	}
	return e.count.Add(1) <= maxExplained
}

// way is a route with all that its requests need.
type way struct {
	route    *compile.Route
	name     string
	accept   authn.Accept
	told     told
	signIn   *signin.Provider // nil where nobody signs in
	vouchers []authority.Name
	upstream *upstream.Upstream // nil for one that is not there
	shares   []*upstream.Upstream
	metrics  wayMetrics
	rule     *record.Rule
	fields   []policy.Field // whose values are recorded
	limits   limiters
}

func (g *Gateway) way(s *state, r *compile.Route) *way {
	if w, ok := s.ways.Load(r); ok {
		return w.(*way) //nolint:forcetypeassert // nothing else is stored
	}
	w := &way{
		route: r, name: name(r.Key), accept: accept(r), signIn: openID(r.SignIn), told: tells(r), metrics: g.metrics.way(r, name(r.Key)),
		shares: shares(s, r), rule: recording(s.table, r), fields: fieldsOf(s.policies, r), vouchers: vouchers(r, s.table.Providers()),
		limits: s.limiters(r),
	}
	if demand := w.accept.StepUp; w.signIn != nil && demand != nil {
		w.signIn.ACRValues, w.signIn.MaxAge = demand.ACRValues, demand.MaxAge
	}
	if r.Upstream != nil {
		w.upstream = s.upstreams.Upstream(upstreamName(r.Upstream.Key))
	}
	first, _ := s.ways.LoadOrStore(r, w)
	return first.(*way) //nolint:forcetypeassert // nothing else is stored
}

// askedPath is the path that a refused request asked for, as far as it can be
// told and is fit for a record: without query, and no longer than it need be.
func askedPath(target string) string {
	const most = 256
	path, _, _ := strings.Cut(target, "?")
	path, _, _ = strings.Cut(path, "#")
	if !strings.HasPrefix(path, "/") {
		return ""
	}
	return path[:min(len(path), most)]
}
