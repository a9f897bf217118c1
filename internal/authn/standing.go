package authn

import (
	"context"
	"slices"
	"time"

	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/token"
)

// What principals are authenticated by, besides BySession and certificates.
const (
	byJWT           = "jwt"
	byIntrospection = "introspection"
	byJWTSVID       = "jwt-svid"
	byAPIKey        = "api-key"
)

// Standing is what a request has proven, for as long as it is carried. It keeps no
// credential. One goroutine uses it at a time; the zero value has proven nothing.
type Standing struct {
	principal *policy.Principal // nil for nobody
	asked     bool              // its token's issuer was asked for it
	key       *knownKey         // that was sent; nil for none
	by        *Authenticator    // has judged the token last; nil for one that may differ
	keys      *token.KeySet     // that its token is verified by; nil before they were looked at
	word      word              // of its issuer, if it was asked
}

// Stand returns the standing of a principal that Authenticate has returned for a
// route which accepts so.
func (a *Authenticator) Stand(p *policy.Principal, accept *Accept) Standing {
	s := Standing{principal: p, asked: accept.Introspected}
	if was := s.proven(byAPIKey); was != nil {
		s.key = a.apiKeys[apiKeyID{accept.APIKeys, was.KeyID}]
	}
	return s
}

// Again returns who sent a request that was authenticated before, as Authenticate
// would if it came now, or why that is not known any more. It waits for nobody: of
// a token it judges anew what it says, when it is good, whose it is, and whether its
// key is still published. That its sender has signed for the request stays proven; so
// do its typ and its algorithm. When an issuer's word that a token is active has ceased
// to count, the issuer is asked by Pool.Run; the request stands until the answer, or
// for as long again. Of what
// was not looked at then, a session and the client certificate are looked at now,
// and a token or a key that the route takes by now is a bad one.
// c is the same as then but for what connections and keys have become.
func (a *Authenticator) Again(s *Standing, c Credentials, accept Accept, now time.Time) (*policy.Principal, *Denial) {
	try := &attempt{Credentials: c, accept: accept, now: now, again: s}
	p, reason := a.authenticate(context.Background(), try)
	if reason == "" && !accept.StepUp.met(p, now) {
		reason = StepUpRequired
	}
	if reason != "" {
		return nil, a.deny(reason, try)
	}
	s.principal, s.by = p, a
	return p, nil
}

// proven returns what a credential of one of some sorts has proven, nil for none.
func (s *Standing) proven(by ...string) *policy.Principal {
	if s.principal == nil || slices.Contains(by, s.principal.AuthenticatedBy) {
		return s.principal
	}
	for _, p := range s.principal.Beside {
		if slices.Contains(by, p.AuthenticatedBy) {
			return p
		}
	}
	return nil
}

func (a *Authenticator) bearerAgain(try *attempt) (*policy.Principal, Reason) {
	p := try.again.proven(byJWT, byIntrospection, byJWTSVID)
	switch {
	case p != nil:
	case len(try.Header["Authorization"]) > 0: // for whoever took it then
		return nil, tokenPrefix + Reason(token.WrongIssuer)
	default:
		return nil, CredentialsMissing
	}
	var now *policy.Principal
	var reason Reason
	if p.AuthenticatedBy == byJWTSVID { // no function values: attempts would escape by them
		now, reason = a.svidAgain(p, try)
	} else {
		now, reason = a.tokenAgain(p, try)
	}
	if reason != "" {
		return nil, reason
	}
	return now, possessed(try, now.Claims)
}

// tokenAgain holds the claims of a token against the rules of its provider: all of
// them when these may be others, and its times always.
func (a *Authenticator) tokenAgain(was *policy.Principal, try *attempt) (*policy.Principal, Reason) {
	p := a.named(was.Provider, try.accept.Providers)
	switch {
	case p == nil:
		return nil, tokenPrefix + Reason(token.WrongIssuer)
	case try.accept.Introspected && !try.again.asked && was.AuthenticatedBy != byIntrospection:
		return nil, IntrospectionUnavailable
	}
	now, reason := p.judgeAgain(a, was, try)
	switch {
	case reason != "":
		return nil, reason
	case was.AuthenticatedBy == byJWT && (p.keys != nil || !try.again.asked):
		if reason = try.again.keysAgain(p.keys.usable(try.now), try); reason != "" {
			return nil, reason
		}
	}
	if was.AuthenticatedBy == byIntrospection || try.again.asked && try.accept.Introspected {
		return a.wordAgain(p, now, try)
	}
	return now, ""
}

// judgeAgain holds the claims against the rules.
func (p *provider) judgeAgain(a *Authenticator, was *policy.Principal, try *attempt) (*policy.Principal, Reason) {
	if try.again.by == a && was == try.again.principal && len(was.Beside) == 0 {
		err := p.rules.CheckTime(&token.Claims{Expires: was.Expires, IssuedAt: was.IssuedAt}, try.now)
		if err != nil {
			return nil, tokenReason(err)
		}
		return was, ""
	}
	c, err := p.rules.Judge(was.Claims, try.now)
	if err != nil {
		return nil, tokenReason(err)
	}
	return p.principal(c, was.AuthenticatedBy), ""
}

// named returns the provider of that name if it is accepted and works.
func (a *Authenticator) named(name string, accepted []ProviderName) *provider {
	for _, n := range accepted {
		if p := a.providers[n]; p != nil && p.name == name && p.works() {
			return p
		}
	}
	return nil
}

func (a *Authenticator) svidAgain(was *policy.Principal, try *attempt) (*policy.Principal, Reason) {
	if len(try.accept.JWTAudiences) == 0 || try.accept.Introspected || a.jwtSVIDs == nil {
		return nil, tokenPrefix + Reason(token.WrongIssuer)
	}
	keys := a.jwtSVIDs.JWTBundles().Keys(identity.ID(was.ID).TrustDomain())
	if keys == nil {
		return nil, tokenPrefix + Reason(token.WrongIssuer)
	}
	if reason := try.again.keysAgain(keys, try); reason != "" {
		return nil, reason
	}
	c := token.Claims{All: was.Claims, Expires: was.Expires, IssuedAt: was.IssuedAt}
	v := verified{claims: &c, principal: was}
	if len(was.Beside) > 0 {
		alone := *was
		alone.Beside, alone.KeyName, alone.KeyID = nil, "", ""
		v.principal = &alone
	}
	return v.again(try)
}

// possessed is what remains of possession: the proof of a key was for the request
// itself, and a certificate is the connection's.
func possessed(try *attempt, claims map[string]any) Reason {
	b, ok := bindingOf(claims)
	switch {
	case !ok:
		return ConfirmationUnknown
	case !b.meets(try.accept.Proof):
		return ProofMissing
	case b.toCertificate:
		return try.Peer.holds(b.certificate, try.now)
	}
	return ""
}

// again finds the key that a request was sent with, if it is still one.
func (k apiKeys) again(try *attempt) (*policy.Principal, Reason) {
	was, now := try.again.key, try.now
	switch {
	case was != nil:
	case len(try.Header[HeaderAPIKey]) > 0: // for whoever took it then
		return nil, APIKeyInvalid
	default:
		return nil, CredentialsMissing
	}
	known, found := k[apiKeyID{try.accept.APIKeys, was.principal.KeyID}]
	switch {
	case !found, known.principal.KeyName != was.principal.KeyName, known.digest != was.digest:
		return nil, APIKeyInvalid
	case ended(known.principal.Expires, now):
		return nil, APIKeyExpired
	}
	return known.principal, ""
}
