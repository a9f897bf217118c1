// Package authn finds out who sent a request: by a bearer token, verified with
// the keys that its issuer publishes or by asking it, by an API key, by the session
// of a browser that has signed in, or by the verified client certificate.
package authn

import (
	"context"
	"errors"
	"iter"
	"slices"
	"time"

	"github.com/sallyport/sallyport/internal/identity/authority"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/token"
)

// Accept is what a route takes as proof of identity. The zero value takes
// nothing.
type Accept struct {
	Providers          []ProviderName // whose bearer tokens
	Introspected       bool           // only when their issuer, asked, says that they are active
	JWTAudiences       []string       // of JWT-SVIDs, one of which a token has to name; none are taken without
	APIKeys            string         // of this namespace; none when empty
	Sessions           Sessions
	ClientCertificates bool             // X.509-SVIDs
	Authorities        []authority.Name // whose client certificates, which are none
	Anonymous          bool             // no credential at all; never a bad one
	// All wants every kind of credential that is taken, where otherwise one is
	// enough. The principal is the first one's, and has beside it what the others
	// prove; the SPIFFE ID of a certificate and the name of an API key are its own
	// as well.
	All bool

	// Proof is demanded of bearer tokens, and Nonce of DPoP proofs.
	Proof Proof
	Nonce bool
	// StepUp is demanded of every principal; nothing when nil. It is only read.
	StepUp *StepUp
}

// Credentials is what a request brings.
type Credentials struct {
	// Header has the request's fields by canonical name. It is only read.
	Header map[string][]string
	Peer   Peer

	// What the request asks for, which a proof has to name: its canonical
	// method, host and path, and the authority as the client spelled it.
	Method, Host, Path string
	Authority          string

	// Browser is what sessions are judged by.
	Browser Browser

	// Supply is called with the nonce for the client's next proof when that of a
	// good one grows old; nobody is told when it is nil.
	Supply func(nonce string)
}

// Peer is the client as its TLS connection has proven it, never as a header says.
// The zero value has proven nothing.
type Peer struct {
	ID       string    // the SPIFFE ID of the verified leaf
	IssuedAt time.Time // the leaf's NotBefore
	Expires  time.Time // the leaf's NotAfter: a connection may outlive it

	Thumbprint token.Thumbprint // of the leaf

	// Distrusted means that the trust domain of ID is not trusted any more.
	Distrusted bool

	// Certificate is what was presented if it is no SVID; ID is empty then.
	Certificate *authority.Certificate
}

// Authenticator authenticates requests with the providers of one snapshot,
// which it keeps: one that the pool has gone beyond still answers the same. It
// is immutable and safe for concurrent use. Pool.Sync makes it; the zero value
// knows no provider and refuses every token.
type Authenticator struct {
	providers   map[ProviderName]*provider
	apiKeys     apiKeys
	authorities *authority.Set
	jwtSVIDs    JWTSVIDs // nil: none
	cache       *cache
	devices     *cache // of device tokens
	proofs      *proofs
	metrics     *metrics

	anonymous policy.Principal // all who need not prove anything
}

// Authenticate returns who sent the request, or why it is not known; one of
// the two is nil. The principal may be shared with other requests and must not
// be modified.
//
// Kinds of credentials are looked at in the order of kinds, and a bad one is
// never made good by another. The Authorization header of a route that names no
// provider is the upstream's. The provider is the one whose issuer the token
// names; no other is tried. A token that names none, because it is no JWT, is
// the first provider's that has an Introspection.
//
// A token signed with an unknown key may wait, within the pool's bounds and
// ctx, for one fetch of its issuer's keys, and one that is to be introspected
// for the answer.
func (a *Authenticator) Authenticate(ctx context.Context, c Credentials, accept Accept, now time.Time) (*policy.Principal, *Denial) {
	try := &attempt{Credentials: c, accept: accept, now: now}
	p, reason := a.authenticate(ctx, try)
	if reason == "" && !accept.StepUp.met(p, now) {
		reason = StepUpRequired
	}
	if reason != "" {
		a.metrics.denied(reason)
		return nil, a.deny(reason, try)
	}
	return p, nil
}

// Providers yields the providers that tokens are verified against. One that
// cannot work, for a URL or its JWKS, is not among them: it is not enforced.
func (a *Authenticator) Providers() iter.Seq[Provider] {
	return func(yield func(Provider) bool) {
		for _, p := range a.providers {
			if p.works() && !yield(p.spec) {
				return
			}
		}
	}
}

// kind is a kind of credential. They are looked at in this order.
type kind uint8

const (
	bearerToken kind = iota
	apiKey
	browserSession
	clientCertificate
	kinds
)

// takes reports whether credentials of the kind are looked at.
func (a *Accept) takes(k kind) bool {
	switch k {
	case bearerToken:
		return len(a.Providers) > 0 || len(a.JWTAudiences) > 0
	case apiKey:
		return a.APIKeys != ""
	case browserSession:
		return a.Sessions.Provider != ProviderName{}
	case clientCertificate:
		return a.ClientCertificates || len(a.Authorities) > 0
	}
	return false
}

// attempt is one request that is to be authenticated.
type attempt struct {
	Credentials
	accept Accept
	now    time.Time

	dpop  bool      // the token's scheme is DPoP
	again *Standing // of a request that was authenticated before; nil for one that comes
}

// prove returns whom the credential of a kind proves, or CredentialsMissing when
// there is none. It is a switch and no table of functions, through which each
// attempt would escape to the heap.
func (a *Authenticator) prove(ctx context.Context, k kind, try *attempt) (*policy.Principal, Reason) {
	switch {
	case try.again == nil:
	case k == bearerToken:
		return a.bearerAgain(try)
	case k == apiKey:
		return a.apiKeys.again(try)
	}
	switch k {
	case bearerToken:
		return a.bearer(ctx, try)
	case apiKey:
		return a.apiKeys.prove(try.Header[HeaderAPIKey], try.accept.APIKeys, try.now)
	case browserSession:
		return a.session(try)
	case clientCertificate:
		return a.certificate(try)
	}
	return nil, CredentialsMissing
}

func (a *Authenticator) authenticate(ctx context.Context, try *attempt) (*policy.Principal, Reason) {
	var found *policy.Principal
	for k := range kinds {
		if !try.accept.takes(k) {
			continue
		}
		p, reason := a.prove(ctx, k, try)
		switch {
		case reason == CredentialsMissing && !try.accept.All:
			continue
		case reason != "":
			return nil, reason
		case !try.accept.All:
			return p, ""
		case contradict(found, p):
			return nil, CertificateUntrusted
		}
		found = join(found, p)
	}
	switch {
	case found != nil:
		return found, ""
	case try.accept.Anonymous:
		return &a.anonymous, ""
	}
	return nil, CredentialsMissing
}

// join adds what second proves to first, which may be shared and stays as it is.
func join(first, second *policy.Principal) *policy.Principal {
	if first == nil {
		return second
	}
	both := *first
	both.Beside = append(slices.Clip(first.Beside), second)
	both.SPIFFEID = or(first.SPIFFEID, second.SPIFFEID)
	both.KeyName, both.KeyID = or(first.KeyName, second.KeyName), or(first.KeyID, second.KeyID)
	if both.Expires.IsZero() || ended(second.Expires, both.Expires) {
		both.Expires = second.Expires
	}
	return &both
}

func (a *Authenticator) bearer(ctx context.Context, try *attempt) (*policy.Principal, Reason) {
	values := try.Header["Authorization"]
	if len(values) == 0 {
		return nil, CredentialsMissing
	}
	raw, dpop, reason := bearer(values)
	if try.dpop = dpop; reason != "" {
		return nil, reason
	}
	p, reason, ok := a.svid(raw, try)
	if !ok {
		p, reason = a.token(ctx, raw, &try.accept, try.now)
	}
	if reason == "" {
		reason = a.possession(try, raw, p.Claims)
	}
	if reason != "" {
		return nil, reason
	}
	return p, ""
}

// token looks for raw among the verified tokens before it looks into it.
func (a *Authenticator) token(ctx context.Context, raw string, accept *Accept, now time.Time) (*policy.Principal, Reason) {
	if a.cache == nil {
		return nil, tokenPrefix + Reason(token.WrongIssuer)
	}
	hash := a.cache.hash(raw)
	p, v := a.remembered(hash, raw, accept, now)
	a.metrics.looked(v != nil)
	if v != nil {
		if err := p.rules.CheckTime(v.claims, now); err != nil {
			return nil, tokenReason(err)
		}
		return v.principal, ""
	}
	if !isToken(raw) {
		return nil, CredentialsMalformed
	}
	p, parsed, reason := a.responsible(raw, accept.Providers)
	if reason != "" {
		return nil, reason
	}
	ask := accept.Introspected || parsed == nil
	v, reason = p.prove(ctx, raw, parsed, ask, now)
	if reason != "" {
		return nil, reason
	}
	if !ask || now.Before(v.until) {
		a.cache.put(cacheKey{hash: hash, provider: p.id, asked: ask}, v, raw)
	}
	return v.principal, ""
}

// remembered returns the verified token and the provider that stands for it,
// or nil unless it was proven with what is in force now.
func (a *Authenticator) remembered(hash uint64, raw string, accept *Accept, now time.Time) (*provider, *verified) {
	for _, name := range accept.Providers {
		p := a.providers[name]
		if p == nil {
			continue
		}
		if p.keys != nil && !accept.Introspected {
			if v := a.cache.get(cacheKey{hash: hash, provider: p.id}, raw); v != nil && v.keys == p.keys.usable(now) {
				return p, v
			}
		}
		if p.asks != nil {
			v := a.cache.get(cacheKey{hash: hash, provider: p.id, asked: true}, raw)
			if v != nil && now.Before(v.until) && (v.keys == nil || v.keys == p.keys.usable(now)) {
				return p, v
			}
		}
	}
	return nil, nil
}

// responsible returns the accepted provider whose token raw is, with what it
// parsed to unless the provider has to be asked what it is.
func (a *Authenticator) responsible(raw string, accepted []ProviderName) (*provider, *token.Parsed, Reason) {
	parsed, err := token.Parse(raw)
	if err != nil {
		if p := a.introspecting(accepted, token.LooksOpaque(raw)); p != nil {
			return p, nil, ""
		}
		return nil, nil, tokenReason(err)
	}
	p := a.issuer(parsed, accepted)
	switch {
	case p == nil:
		return nil, nil, tokenPrefix + Reason(token.WrongIssuer)
	case p.keys == nil && p.asks != nil:
		return p, nil, ""
	}
	return p, parsed, ""
}

// introspecting returns the first accepted provider that is asked for a token of
// which nobody else can tell whose it is: an opaque one, or one in a form that
// only a provider without keys takes.
func (a *Authenticator) introspecting(accepted []ProviderName, opaque bool) *provider {
	for _, name := range accepted {
		if p := a.providers[name]; p != nil && p.asks != nil && (opaque || p.keys == nil) {
			return p
		}
	}
	return nil
}

// issuer returns the accepted provider whose issuer the token names. Several
// providers may share an issuer and differ in audiences.
func (a *Authenticator) issuer(t *token.Parsed, accepted []ProviderName) *provider {
	var found *provider
	for _, name := range accepted {
		p := a.providers[name]
		if p == nil || p.rules.Issuer != t.Issuer {
			continue
		}
		if t.For(p.rules.Audiences) {
			return p
		}
		found = p
	}
	return found
}

// prove verifies a token that parsed by the provider's keys, and asks the
// provider when it has to be asked; of one that did not parse it is asked who
// that is.
func (p *provider) prove(ctx context.Context, raw string, t *token.Parsed, ask bool, now time.Time) (*verified, Reason) {
	if t == nil {
		c, until, reason := p.asks.claims(ctx, raw, now)
		if reason != "" {
			return nil, reason
		}
		return &verified{until: until, claims: c, principal: p.principal(c, byIntrospection)}, ""
	}
	v, reason := p.verify(ctx, t, now)
	if reason != "" || !ask {
		return v, reason
	}
	if v.until, reason = p.asks.active(ctx, raw, now); reason != "" {
		return nil, reason
	}
	v.until = earlier(v.until, v.claims.Expires)
	return v, ""
}

func (p *provider) verify(ctx context.Context, t *token.Parsed, now time.Time) (*verified, Reason) {
	set := p.keys.find(ctx, t.KeyID, now)
	if set == nil {
		return nil, KeysUnavailable
	}
	c, err := t.Verify(p.rules, set, now)
	if isBadSignature(err) {
		if next := p.keys.renewed(ctx, set, now); next != nil {
			set = next
			c, err = t.Verify(p.rules, set, now)
		}
	}
	if err != nil {
		return nil, tokenReason(err)
	}
	return &verified{keys: set, claims: c, principal: p.principal(c, byJWT)}, ""
}

func (p *provider) principal(c *token.Claims, by string) *policy.Principal {
	signedIn := c.Authentication()
	return &policy.Principal{
		Kind: policy.User, ID: c.Subject, Issuer: c.Issuer, Groups: c.Groups, Scopes: c.Scopes, Claims: c.All,
		Provider: p.name, AuthenticatedBy: by, Expires: c.Expires,
		TokenID: c.ID, Session: c.Session, IssuedAt: c.IssuedAt,
		AuthenticatedAt: signedIn.At, ACR: signedIn.Class, AMR: signedIn.Methods,
	}
}

func isBadSignature(err error) bool {
	e, ok := errors.AsType[*token.Error](err)
	return ok && e.Reason == token.BadSignature
}

func tokenReason(err error) Reason {
	if e, ok := errors.AsType[*token.Error](err); ok {
		return tokenPrefix + Reason(e.Reason)
	}
	return tokenPrefix + Reason(token.Malformed)
}
