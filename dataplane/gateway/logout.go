package gateway

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/dataplane/signin"
	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/session"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

const (
	// confirmWithin is how long somebody who ends a session waits for the control
	// plane: providers and people do not wait for much longer.
	confirmWithin = 5 * time.Second
	// maxConfirming bounds those who wait.
	maxConfirming = 128
	// leavingLasts is for how long a person may try again to end a session.
	leavingLasts = time.Hour
)

// logouts have what has ended here end in the whole fleet.
type logouts struct {
	cutOff  func(ctx context.Context, proof *proxyv1.LogoutRequest) error // nil for nobody to tell
	waiting chan struct{}                                                 // a token for each that waits
}

func newLogouts(cutOff func(context.Context, *proxyv1.LogoutRequest) error) logouts {
	return logouts{cutOff, make(chan struct{}, maxConfirming)}
}

// confirm returns nil once it is committed that a session has ended. It goes on
// when the client goes away: a person who closes the window wants it none the less.
func (l logouts) confirm(ctx context.Context, proof *proxyv1.LogoutRequest) *signin.Failure {
	err := errors.New("there is no control plane to tell")
	if l.cutOff == nil {
		return unconfirmed(err)
	}
	select {
	case l.waiting <- struct{}{}:
	default:
		return unconfirmed(errors.New("too many logouts wait for the control plane"))
	}
	defer func() { <-l.waiting }()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), confirmWithin)
	defer cancel()
	if err = l.cutOff(ctx, proof); err != nil {
		return unconfirmed(err)
	}
	return nil
}

func unconfirmed(err error) *signin.Failure {
	return &signin.Failure{Reason: signin.LogoutUnconfirmed, Detail: err.Error()}
}

// logout ends the session of a browser. GET only asks whether that is meant: it is
// what pages of other sites can have a browser do.
func (g *Gateway) logout(ctx context.Context, v *visit) verdict {
	at := g.site(v.question, &v.request)
	browser := authn.Browser{Host: at.Host, Origin: at.Origin, Method: v.request.Method}
	switch {
	case v.request.Method == http.MethodGet:
		return verdict{allow: true, status: http.StatusOK, reason: ReasonSigningOut, own: &own{page: true, form: true}}
	case !browser.SameOrigin(v.request.Header):
		return denied(http.StatusForbidden, string(authn.CrossSite), "")
	}
	leaving := openLeaving(at)
	out := verdict{allow: true, status: http.StatusOK, reason: ReasonSignedOut, own: &own{page: true}}
	for _, l := range leaving { // the one of now is the last
		out.principal = authn.SignedIn(l.session)
		out.own.Answer = *g.signin.Leave(ctx, at, l.session, v.provider(l.session), v.now)
	}
	if len(leaving) == 0 {
		out.own.Answer = *g.signin.Leave(ctx, at, nil, nil, v.now)
	}
	for _, l := range leaving {
		if failure := g.logouts.confirm(ctx, l.proof(at)); failure != nil {
			return stillLeaving(out, l, failure)
		}
	}
	if _, tried := session.Find(at.Cookies, session.LeavingName); tried {
		out.own.Cookies = append(out.own.Cookies, session.Clear(session.LeavingName))
	}
	if out.own.Location != "" {
		out.status = http.StatusSeeOther
	}
	return out
}

// leaving is a session that its person wants to end.
type leaving struct {
	session *session.Session
	cookie  string // its value
}

// openLeaving opens the session of a browser, after one of which it was not
// confirmed that it has ended.
func openLeaving(at signin.Site) (all []leaving) {
	for _, name := range [...]string{session.LeavingName, session.CookieName} {
		value, _ := session.Find(at.Cookies, name)
		if s, err := session.Open(at.Keys, at.Host, value); err == nil {
			all = append(all, leaving{s, value})
		}
	}
	return all
}

func (l leaving) proof(at signin.Site) *proxyv1.LogoutRequest {
	cookie := &proxyv1.SessionCookie{Host: at.Host, Value: l.cookie}
	return &proxyv1.LogoutRequest{Proof: &proxyv1.LogoutRequest_Session{Session: cookie}}
}

// stillLeaving tells a person that other proxies may not know, and has the browser
// keep the proof, by another name, so that they can try again: as a session it is
// of no more use to who sits down there next.
func stillLeaving(out verdict, l leaving, failure *signin.Failure) verdict {
	cookies := out.own.Cookies
	out.allow = false
	out.fail(failure)
	cookies = append(cookies, session.Set(session.LeavingName, l.cookie, leavingLasts))
	out.own.Cookies, out.own.form = cookies, true
	return out
}

// provider returns where a session began, nil if that is not there any more.
func (v *visit) provider(s *session.Session) *signin.Provider {
	for _, p := range v.table.Providers() {
		if s != nil && providerName(p.Key).String() == s.Provider && p.Spec.GetIssuer() == s.Issuer {
			return openID(p)
		}
	}
	return nil
}

// backchannel takes what a provider says about sessions that have ended there. They
// have ended here when it is told that they have not yet in the fleet, and sends the
// token again.
func (g *Gateway) backchannel(ctx context.Context, v *visit) verdict {
	form, err := v.exchange.form()
	if err != nil || len(form["logout_token"]) != 1 {
		return failed(&signin.Failure{Reason: signin.LogoutInvalid, Detail: "there is not one logout_token"})
	}
	var providers []*signin.Provider
	for _, p := range v.table.Providers() {
		if at := openID(p); at != nil {
			providers = append(providers, at)
		}
	}
	raw := form["logout_token"][0]
	ended, failure := g.signin.LoggedOut(ctx, raw, providers, v.authn, v.now)
	if failure == nil {
		failure = g.logouts.confirm(ctx, &proxyv1.LogoutRequest{Proof: &proxyv1.LogoutRequest_LogoutToken{LogoutToken: raw}})
	}
	if failure != nil {
		refused := failed(failure)
		refused.own = nil // no person reads it
		return refused
	}
	g.signin.Committed(ended, v.now)
	return verdict{allow: true, status: http.StatusOK, reason: ReasonSignedOut, own: &own{}}
}
