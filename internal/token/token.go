// Package token verifies JSON Web Tokens (RFC 7519) against given keys and a
// given time, strictly: what the rules do not expect is refused.
package token

import (
	"slices"
	"time"
)

// Type is what typ says that a token is, in lower case and without
// "application/".
type Type string

// The types of access tokens. Tokens of any other type, such as ID tokens that
// say so, logout tokens and DPoP proofs, are refused whatever the rules.
const (
	NoType    Type = ""       // no typ
	JWT       Type = "jwt"    // RFC 7519 §5.1
	AccessJWT Type = "at+jwt" // RFC 9068 §2.1
)

// Bounds of the leeway. NoLeeway asks for none, because zero means
// DefaultLeeway.
const (
	DefaultLeeway = 30 * time.Second
	MaxLeeway     = 2 * time.Minute
	NoLeeway      = time.Duration(-1)
)

// Rules is what a token has to meet. The zero value refuses every token.
//
// A claim path is the name of a claim, or names of objects and a name in the
// innermost joined by dots: "realm_access.roles". Names may hold dots
// themselves; a token in which a path leads to several claims is refused.
type Rules struct {
	// Issuer is compared with iss byte by byte. Empty refuses.
	Issuer string
	// Audiences: one of them has to be in aud. None refuses.
	Audiences []string
	// SubjectClaim is the path of who the token speaks of; "sub" when empty.
	SubjectClaim string
	// GroupsClaim is the path of a string or an array of strings; "groups" when
	// empty.
	GroupsClaim string
	// Required claims: each has to be met.
	Required []Requirement
	// Leeway for exp, nbf and iat: DefaultLeeway when zero, none when negative,
	// MaxLeeway at most.
	Leeway time.Duration
	// MaxLifetime is the longest time from iat to exp, and makes iat required;
	// any when zero.
	MaxLifetime time.Duration
	// Algorithms that are taken; DefaultAlgorithms when empty.
	Algorithms []Algorithm
	// Types that are taken; all when empty. AccessJWT alone wants all that
	// RFC 9068 §2.2 makes required.
	Types []Type
}

// Verify parses raw and verifies it at now. Every error is an *Error.
func Verify(raw string, rules Rules, keys *KeySet, now time.Time) (*Claims, error) {
	p, err := Parse(raw)
	if err != nil {
		return nil, err
	}
	return p.Verify(rules, keys, now)
}

// Verify checks header, signature and claims at now, in this order: of a token
// whose signature is wrong nothing else is told. Every error is an *Error.
func (p *Parsed) Verify(rules Rules, keys *KeySet, now time.Time) (*Claims, error) {
	if len(rules.Types) > 0 && !slices.Contains(rules.Types, p.typ) {
		return nil, refuse(WrongType)
	}
	if err := p.checkSignature(rules.Algorithms, keys); err != nil {
		return nil, err
	}
	c, err := rules.check(p.claims, now)
	if err != nil {
		return nil, err
	}
	if slices.Equal(rules.Types, []Type{AccessJWT}) && !isAccessToken(c) {
		return nil, refuse(BadClaim)
	}
	return c, nil
}

// isAccessToken looks for what RFC 9068 §2.2 requires besides what every token
// needs here.
func isAccessToken(c *Claims) bool {
	client, _ := c.All["client_id"].(string)
	return client != "" && c.ID != "" && !c.IssuedAt.IsZero()
}

// Signed says whether the token is signed by one of keys, whatever it claims. The error
// is an *Error.
func (p *Parsed) Signed(keys *KeySet) error {
	return p.checkSignature([]Algorithm{p.algorithm}, keys)
}

// Judge holds the claims of a token that was verified once against rules, which may
// be others by now, at a later now. It does not look at what else a token is: its
// signature, type and algorithm. Every error is an *Error.
func (r *Rules) Judge(claims map[string]any, now time.Time) (*Claims, error) {
	return r.check(claims, now)
}

// check checks the claims of a token that is genuine.
func (r *Rules) check(claims map[string]any, now time.Time) (*Claims, error) {
	if iss, _ := claims["iss"].(string); iss == "" || iss != r.Issuer {
		return nil, refuse(WrongIssuer)
	}
	if !isFor(claims, r.Audiences) {
		return nil, refuse(WrongAudience)
	}
	c, err := r.read(claims)
	if err != nil {
		return nil, err
	}
	if err := r.CheckTime(c, now); err != nil {
		return nil, err
	}
	if err := r.checkRest(c); err != nil {
		return nil, err
	}
	return c, nil
}

func (r *Rules) checkRest(c *Claims) error {
	if r.MaxLifetime > 0 {
		if c.IssuedAt.IsZero() {
			return refuse(BadClaim)
		}
		if c.Expires.Sub(c.IssuedAt) > r.MaxLifetime {
			return refuse(LongLived)
		}
	}
	for i := range r.Required {
		if !r.Required[i].met(c.All) {
			return refuse(WrongClaim)
		}
	}
	return nil
}

// CheckTime checks verified claims again at a later now: a token that was
// accepted once does not stay so. Every error is an *Error.
func (r *Rules) CheckTime(c *Claims, now time.Time) error {
	leeway := r.leeway()
	latestStart := now.Add(leeway)
	if c.NotBefore.After(latestStart) || c.IssuedAt.After(latestStart) {
		return refuse(NotYetValid)
	}
	if !now.Before(c.Expires.Add(leeway)) {
		return refuse(Expired)
	}
	return nil
}

func (p *Parsed) checkSignature(allowed []Algorithm, keys *KeySet) error {
	if !p.algorithm.allowed(allowed) {
		return refuse(WrongAlgorithm)
	}
	k, ok := keys.key(p.KeyID)
	if !ok {
		return refuse(UnknownKey)
	}
	if !k.takes(p.algorithm) {
		return refuse(WrongAlgorithm)
	}
	if p.algorithm.method().Verify(p.signed, p.signature, k.public) != nil {
		return refuse(BadSignature)
	}
	return nil
}

func (r *Rules) leeway() time.Duration {
	if r.Leeway == 0 {
		return DefaultLeeway
	}
	return min(max(r.Leeway, 0), MaxLeeway)
}
