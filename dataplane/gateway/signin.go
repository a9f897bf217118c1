package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/dataplane/signin"
	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/request"
	"github.com/sallyport/sallyport/internal/session"
)

// The reasons of what the gateway answers itself, beside those of package signin.
const (
	ReasonSignIn       = "sign_in_required" // a browser is sent to sign in
	ReasonSessionEnded = "session_ended"    // its person has signed out
	ReasonSignedIn     = "signed_in"
	ReasonSigningOut   = "signing_out" // the person is asked whether they want to
	ReasonSignedOut    = "signed_out"
)

// What is below this path is the gateway's own on every host: no route gets it,
// and none may be applied for it.
const reservedPrefix = "/.sallyport/"

const (
	logoutPath      = reservedPrefix + "logout"
	backchannelPath = reservedPrefix + "backchannel-logout"
)

func isReserved(path string) bool { return strings.HasPrefix(path, reservedPrefix) }

// visit is a request for one of the gateway's own paths.
type visit struct {
	grounds
	*question
	request request.Canonical
}

// reserved answers for the gateway's own paths.
func (g *Gateway) reserved(ctx context.Context, v *visit) verdict {
	if ambiguous := v.request.Ambiguity(); ambiguous != nil {
		return malformed(ambiguous)
	}
	methods, answer := []string{http.MethodGet}, g.callback
	switch v.request.Path {
	case signin.Callback:
	case logoutPath:
		methods, answer = []string{http.MethodGet, http.MethodPost}, g.logout
	case backchannelPath:
		methods, answer = []string{http.MethodPost}, g.backchannel
	default:
		return denied(http.StatusNotFound, ReasonNoRoute, "")
	}
	if !slices.Contains(methods, v.request.Method) {
		refused := denied(http.StatusMethodNotAllowed, ReasonMethod, "")
		refused.methods = methods
		return refused
	}
	return answer(ctx, v)
}

// site is where the browser is that sent a request.
func (g *Gateway) site(q *question, c *request.Canonical) signin.Site {
	return signin.Site{Host: c.Host, Origin: origin(q.raw.Host, c.Host), Keys: g.cookies.Load(), Cookies: c.Header["Cookie"]}
}

// origin is what browsers call a host that was asked for as raw.
func origin(raw, host string) string {
	port := ""
	if i := strings.LastIndexByte(raw, ':'); i > strings.LastIndexByte(raw, ']') {
		port = raw[i:]
	}
	if port == ":443" {
		port = ""
	}
	return "https://" + host + port
}

// authenticate returns who sent a request, if their session has not ended.
func (g *Gateway) authenticate(ctx context.Context, s grounds, q *question, v *verdict) (*policy.Principal, *authn.Denial) {
	credentials := authn.Credentials{
		Header: v.request.Header, Peer: q.from.peer,
		Method: v.request.Method, Host: v.request.Host, Path: v.request.Path, Authority: q.raw.Host,
	}
	if id := identity.ID(q.from.peer.ID); id != "" {
		credentials.Peer.Distrusted = !g.identity.Trusts(id)
	}
	if v.way.signIn != nil {
		at := g.site(q, &v.request)
		credentials.Browser = authn.Browser{
			Keys: at.Keys, Host: at.Host, Origin: at.Origin, Method: v.request.Method, Upgrades: v.request.WebSocket,
		}
	}
	if v.way.accept.Nonce {
		credentials.Supply = func(nonce string) { v.nonce = nonce }
	}
	var principal *policy.Principal
	var denial *authn.Denial
	if q.again != nil {
		principal, denial = s.authn.Again(q.again, credentials, v.way.accept, q.now)
	} else {
		principal, denial = s.authn.Authenticate(ctx, credentials, v.way.accept, q.now)
	}
	if denial == nil && g.signin.Ended(principal, q.now) {
		return nil, &authn.Denial{Status: http.StatusUnauthorized, Reason: ReasonSessionEnded}
	}
	return principal, denial
}

// invite sends a browser to sign in whose person is not known, or is not any more.
// Others are told that they lack a credential: they could not sign in.
func (g *Gateway) invite(ctx context.Context, q *question, v *verdict) {
	if q.again != nil {
		return
	}
	switch authn.Reason(v.reason) {
	case authn.CredentialsMissing, authn.SessionInvalid, authn.SessionExpired, ReasonSessionEnded:
	case authn.StepUpRequired:
		// The sign-in of this route asks for what is missing; callback looks whether
		// that came of it. A token is not the browser's to renew.
		if len(v.request.Header["Authorization"]) > 0 {
			return
		}
	case ReasonRevoked:
		// Another session may be good; callback looks before it makes one.
		if v.principal.AuthenticatedBy != authn.BySession {
			return
		}
	default:
		return
	}
	at := g.site(q, &v.request)
	_, has := session.Find(at.Cookies, session.CookieName)
	switch {
	case v.way.signIn == nil, !isNavigation(&v.request):
		return
	case has && v.reason == string(authn.CredentialsMissing):
		return // it is another one that is missing: signing in again would not bring it
	}
	answer, failure := g.signin.Begin(ctx, at, v.way.signIn, v.request.Target, q.now)
	if failure != nil {
		v.fail(failure)
		return
	}
	v.detail = v.reason
	v.status, v.reason, v.challenge, v.nonce = http.StatusFound, ReasonSignIn, "", ""
	v.own = &own{Answer: *answer}
}

func (v *verdict) fail(f *signin.Failure) {
	v.status, v.reason, v.challenge, v.detail = f.Reason.Status(), string(f.Reason), "", f.Detail
	v.own = &own{page: true}
}

func failed(f *signin.Failure) (v verdict) {
	v.fail(f)
	return v
}

// isNavigation reports whether a person waits for a page in a window of their own.
// What loads parts of a page, or loads ahead, must not begin a sign-in.
func isNavigation(c *request.Canonical) bool {
	if c.WebSocket || c.Method != http.MethodGet && c.Method != http.MethodHead {
		return false
	}
	is := func(name, want string) bool {
		values := c.Header[name]
		return len(values) == 0 || len(values) == 1 && values[0] == want
	}
	page := slices.ContainsFunc(c.Header["Accept"], func(v string) bool { return strings.Contains(v, "text/html") })
	return page && is("Sec-Fetch-Mode", "navigate") && is("Sec-Fetch-Dest", "document") && len(c.Header["Sec-Purpose"]) == 0
}

// callback takes a browser back from a provider. Only the one that has begun the
// sign-in can complete it, and it goes on to where that began.
func (g *Gateway) callback(ctx context.Context, v *visit) verdict {
	at := g.site(v.question, &v.request)
	query, err := url.ParseQuery(v.request.RawQuery)
	if err != nil {
		return failed(&signin.Failure{Reason: signin.Unknown, Detail: "the query cannot be read"})
	}
	pending, failure := signin.Resume(at, query, v.now)
	if failure != nil {
		return failed(failure)
	}
	way := g.wayBack(v, pending)
	if way == nil {
		return failed(&signin.Failure{Reason: signin.Unknown, Detail: "nobody signs in any more where it began"})
	}
	s, answer, failure := g.signin.Complete(ctx, &signin.Return{
		Site: at, Pending: pending, Query: query, Provider: way.signIn, Verifier: v.authn, Lasts: way.route.SessionLifetime,
	}, v.now)
	if failure != nil {
		refused := failed(failure)
		refused.way = way
		return refused
	}
	in := verdict{
		allow: true, status: http.StatusSeeOther, reason: ReasonSignedIn, way: way, own: &own{Answer: *answer},
		principal: authn.SignedIn(s),
	}
	// Somebody who is cut off, or cannot sign in as is demanded, is told so and not
	// sent round in a circle.
	switch {
	case in.revoked(v.revocations, in.principal, v.now):
		in.own = &own{page: true}
	case !way.accept.StepUp.Met(in.principal, v.now):
		in.deny(notMet())
		in.own = &own{page: true}
	}
	return in
}

func notMet() failure {
	return failure{reason: string(authn.StepUpRequired), status: http.StatusUnauthorized}
}

// wayBack returns the route on which a sign-in began, nil if it is not there any
// more, or has people sign in elsewhere.
func (g *Gateway) wayBack(v *visit, pending *signin.Pending) *way {
	back, err := request.Canonicalise(request.Raw{
		Method: http.MethodGet, Target: pending.Target, Host: v.request.Host, ProtoMajor: 2, ProtoMinor: 0,
	})
	if err != nil {
		return nil
	}
	var to verdict
	g.route(v.grounds, &back, &to)
	w := to.way
	if w == nil || w.signIn == nil || w.route.Unavailable != "" || w.signIn.Name.String() != pending.Provider {
		return nil
	}
	return w
}

// withoutSession keeps what would let an upstream be the person from it.
func withoutSession(h http.Header) {
	if fields := h["Cookie"]; len(fields) > 0 {
		if h["Cookie"] = session.Strip(fields); len(h["Cookie"]) == 0 {
			delete(h, "Cookie")
		}
	}
}

var errForm = errors.New("the body is no form of the size that is read")
