package authn

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/token"
)

// Sessions says which sessions of browsers a route takes. The zero value takes
// none.
type Sessions struct {
	Provider ProviderName
	// Lifetime is how long after the sign-in.
	Lifetime time.Duration
}

// Browser is a request as sessions are judged by. The zero value opens no cookie.
type Browser struct {
	// Keys open the cookies; nil for none.
	Keys   *session.Ring
	Host   string // whose cookies they are, without a port
	Origin string // of the host as browsers name it: https://host, or https://host:port
	Method string
	// Upgrades says that the request asks for another protocol: pages of any site
	// may do so with GET.
	Upgrades bool
}

// session returns whom the session of a browser proves.
func (a *Authenticator) session(try *attempt) (*policy.Principal, Reason) {
	value, found := session.Find(try.Header["Cookie"], session.CookieName)
	if !found {
		return nil, CredentialsMissing
	}
	b := &try.Browser
	who, reason := a.open(b, value, try.now)
	if reason != "" {
		return nil, reason
	}
	taken := try.accept.Sessions
	p := a.providers[taken.Provider]
	expires := earlier(who.IssuedAt.Add(taken.Lifetime), who.Expires)
	switch {
	case p == nil, who.Provider != p.name, who.Issuer != p.rules.Issuer:
		return nil, SessionInvalid
	case !try.now.Before(expires):
		return nil, SessionExpired
	case !b.SameOrigin(try.Header):
		return nil, CrossSite
	}
	if expires.Equal(who.Expires) {
		return who, ""
	}
	sooner := *who
	sooner.Expires = expires
	return &sooner, ""
}

// open returns who is in the cookie of a session, whatever it is worth by now. It
// looks for it among those that were opened before it opens it: what is
// remembered counts for the same host and as long as the key is there.
func (a *Authenticator) open(b *Browser, value string, now time.Time) (*policy.Principal, Reason) {
	if a.cache == nil {
		return nil, SessionInvalid
	}
	key := cacheKey{hash: a.cache.hash(value), cookie: true}
	lock, known := b.Keys.Lock(b.Host, value)
	if known {
		v := a.cache.get(key, value)
		found := v != nil && v.lock == lock
		a.metrics.lookedForSession(found)
		if found {
			return v.principal, ""
		}
	}
	s, err := session.Open(b.Keys, b.Host, value)
	switch {
	case errors.Is(err, session.ErrNoKey):
		return nil, SessionKeysUnavailable
	case err != nil:
		return nil, SessionInvalid
	}
	who := SignedIn(s)
	if known && now.Before(who.Expires) {
		a.cache.put(key, &verified{lock: lock.Own(), principal: who}, value)
	}
	return who, ""
}

// Met reports whether somebody who has signed in has done so as is demanded. A nil
// StepUp demands nothing.
func (s *StepUp) Met(p *policy.Principal, now time.Time) bool { return s.met(p, now) }

// BySession is what principals are authenticated by that have a session.
const BySession = "session"

// SignedIn is whom a session proves that a Ring has opened, and nobody has judged.
func SignedIn(s *session.Session) *policy.Principal {
	return &policy.Principal{
		Kind: policy.User, ID: s.Subject, Issuer: s.Issuer, Groups: s.Groups, Claims: s.Claims,
		Provider: s.Provider, AuthenticatedBy: BySession, Expires: s.Expires,
		Session: s.ID, IssuedAt: s.SignedIn, AuthenticatedAt: s.AuthTime, ACR: s.ACR, AMR: s.AMR,
	}
}

// SameOrigin reports whether a request may have been meant by the person: browsers
// send cookies along, whoever had them send the request. Sec-Fetch-Site cannot be
// set by a page; where a browser does not send it, Origin has to be ours. What only
// reads needs neither, as pages of other sites cannot read what comes back.
func (b *Browser) SameOrigin(header map[string][]string) bool {
	if !b.Upgrades && (b.Method == http.MethodGet || b.Method == http.MethodHead || b.Method == http.MethodOptions) {
		return true
	}
	if site := header["Sec-Fetch-Site"]; len(site) > 0 {
		return len(site) == 1 && (site[0] == "same-origin" || site[0] == "none")
	}
	origin := header["Origin"]
	return len(origin) == 1 && b.Origin != "" && origin[0] == b.Origin
}

// Transport makes a transport that reaches no address but those that a provider may
// have: see guard.go. private is its AllowPrivateAddresses.
func Transport(private bool) *http.Transport { return newTransport(private) }

// Identify verifies an ID token of a provider (OpenID Connect Core 1.0, section
// 3.1.3.7) for one of its clients: as a bearer token, but for its audience. Whether
// it is the answer to the right question (nonce) is for the caller to compare. The
// reason is empty when it is genuine.
func (a *Authenticator) Identify(ctx context.Context, name ProviderName, raw, client string, now time.Time) (*token.Claims, Reason) {
	parsed, err := token.Parse(raw)
	if err != nil {
		return nil, tokenReason(err)
	}
	p := a.providers[name]
	if p == nil || client == "" {
		return nil, tokenReason(&token.Error{Reason: token.WrongIssuer})
	}
	return p.identify(ctx, parsed, client, now)
}

// UserInfo reads what the userinfo endpoint of a provider has answered about the
// subject of an ID token that Identify has verified. The reason is empty when it is
// about them.
func (a *Authenticator) UserInfo(name ProviderName, answer []byte, of *token.Claims) (*token.UserInfo, Reason) {
	p := a.providers[name]
	if p == nil {
		return nil, tokenReason(&token.Error{Reason: token.WrongIssuer})
	}
	sub, _ := of.All["sub"].(string)
	info, err := p.rules.ReadUserInfo(answer, sub)
	if err != nil {
		return nil, tokenReason(err)
	}
	return info, ""
}

// LoggedOut verifies a logout token of a provider for one of its clients, as
// Identify does an ID token. Whether it was here before is for the caller to know.
func (a *Authenticator) LoggedOut(ctx context.Context, name ProviderName, raw, client string, now time.Time) (*token.Logout, Reason) {
	parsed, err := token.ParseLogout(raw)
	if err != nil {
		return nil, tokenReason(err)
	}
	p := a.providers[name]
	if p == nil || client == "" {
		return nil, tokenReason(&token.Error{Reason: token.WrongIssuer})
	}
	set := p.keys.find(ctx, parsed.KeyID, now)
	if set == nil {
		return nil, KeysUnavailable
	}
	rules := p.rules
	rules.Audiences = []string{client}
	out, err := parsed.VerifyLogout(rules, set, now)
	if err != nil {
		return nil, tokenReason(err)
	}
	return out, ""
}

func (p *provider) identify(ctx context.Context, t *token.Parsed, client string, now time.Time) (*token.Claims, Reason) {
	set := p.keys.find(ctx, t.KeyID, now)
	if set == nil {
		return nil, KeysUnavailable
	}
	// What is asked of access tokens in particular is not asked of others.
	rules := p.rules
	rules.Audiences, rules.Types, rules.MaxLifetime = []string{client}, []token.Type{token.NoType, token.JWT}, 0
	c, err := t.Verify(rules, set, now)
	if err != nil {
		return nil, tokenReason(err)
	}
	// Of a token for several audiences, azp says which of them asked for it.
	if azp, given := c.All["azp"]; given && azp != client || !given && manyAudiences(c) {
		return nil, tokenReason(&token.Error{Reason: token.WrongAudience})
	}
	return c, ""
}

func manyAudiences(c *token.Claims) bool {
	list, _ := c.All["aud"].([]any)
	return len(list) > 1
}
