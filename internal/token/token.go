// Package token verifies JSON Web Tokens (RFC 7519) against given keys and a
// given time, strictly: what the rules do not expect is refused.
package token

import (
	"math"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/golang-jwt/jwt/v5"
)

// Algorithm is a signature algorithm of RFC 7518 §3.1 or RFC 8037 §3.1.
type Algorithm string

// The algorithms that Verify knows. All are asymmetric.
const (
	ES256 Algorithm = "ES256"
	RS256 Algorithm = "RS256"
	EdDSA Algorithm = "EdDSA"
)

// Bounds of the leeway. NoLeeway asks for none, because zero means
// DefaultLeeway.
const (
	DefaultLeeway = 30 * time.Second
	MaxLeeway     = 2 * time.Minute
	NoLeeway      = time.Duration(-1)
)

// Rules is what a token has to meet. The zero value refuses every token.
type Rules struct {
	// Issuer is compared with iss byte by byte. Empty refuses.
	Issuer string
	// Audiences: one of them has to be in aud. None refuses.
	Audiences []string
	// SubjectClaim names who the token speaks of; "sub" when empty.
	SubjectClaim string
	// GroupsClaim names a string or an array of strings; "groups" when empty.
	GroupsClaim string
	// Leeway for exp, nbf and iat: DefaultLeeway when zero, none when negative,
	// MaxLeeway at most.
	Leeway time.Duration
	// Algorithms that are taken; all known ones when empty.
	Algorithms []Algorithm
}

// Claims is what a verified token says.
type Claims struct {
	Issuer  string
	Subject string   // never empty, no control characters
	Groups  []string // none is empty
	Scopes  []string // likewise
	ID      string   // jti, or empty
	Session string   // sid, or empty

	Expires   time.Time
	NotBefore time.Time // zero when the token has no nbf
	IssuedAt  time.Time // zero when the token has no iat

	// All holds every claim: string, bool, nil, int64 (integers of that range),
	// float64 (other numbers), []any and map[string]any.
	All map[string]any
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
	if err := p.checkSignature(rules.Algorithms, keys); err != nil {
		return nil, err
	}
	if iss, _ := p.claims["iss"].(string); iss == "" || iss != rules.Issuer {
		return nil, refuse(WrongIssuer)
	}
	if !p.For(rules.Audiences) {
		return nil, refuse(WrongAudience)
	}
	c, err := rules.read(p.claims)
	if err != nil {
		return nil, err
	}
	if err := rules.CheckTime(c, now); err != nil {
		return nil, err
	}
	return c, nil
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
	if len(allowed) > 0 && !slices.Contains(allowed, p.algorithm) {
		return refuse(WrongAlgorithm)
	}
	k, ok := keys.key(p.KeyID)
	if !ok {
		return refuse(UnknownKey)
	}
	if k.algorithm != p.algorithm {
		return refuse(WrongAlgorithm)
	}
	if p.algorithm.method().Verify(p.signed, p.signature, k.public) != nil {
		return refuse(BadSignature)
	}
	return nil
}

// method is nil for an algorithm that is not one of the constants.
func (a Algorithm) method() jwt.SigningMethod {
	switch a {
	case ES256:
		return jwt.SigningMethodES256
	case RS256:
		return jwt.SigningMethodRS256
	case EdDSA:
		return jwt.SigningMethodEdDSA
	}
	return nil
}

func (r *Rules) leeway() time.Duration {
	if r.Leeway == 0 {
		return DefaultLeeway
	}
	return min(max(r.Leeway, 0), MaxLeeway)
}

func (r *Rules) read(all map[string]any) (*Claims, error) {
	c := &Claims{Issuer: r.Issuer, All: all}
	var ok [8]bool
	c.Subject, ok[0] = subject(all[or(r.SubjectClaim, "sub")])
	c.Groups, ok[1] = names(all[or(r.GroupsClaim, "groups")])
	c.ID, ok[2] = optionalString(all, "jti")
	c.Expires, ok[3] = date(all, "exp")
	c.NotBefore, ok[4] = date(all, "nbf")
	c.IssuedAt, ok[5] = date(all, "iat")
	c.Session, ok[6] = optionalString(all, "sid")
	c.Scopes, ok[7] = scopes(all)
	if slices.Contains(ok[:], false) || c.Expires.IsZero() {
		return nil, refuse(BadClaim)
	}
	return c, nil
}

func or(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

// subject refuses control characters: it ends up in headers and records.
func subject(v any) (string, bool) {
	s, _ := v.(string)
	return s, s != "" && !strings.ContainsFunc(s, unicode.IsControl)
}

// names reads an absent claim, a string, or an array of strings. Anything else
// is no list that a policy denying one of its members could rely on.
func names(v any) ([]string, bool) {
	switch v := v.(type) {
	case nil:
		return nil, true
	case string:
		return []string{v}, v != ""
	case []any:
		list := make([]string, len(v))
		for i := range v {
			list[i], _ = v[i].(string)
		}
		return list, !slices.Contains(list, "")
	}
	return nil, false
}

func optionalString(all map[string]any, name string) (string, bool) {
	v, given := all[name]
	s, ok := v.(string)
	return s, ok || !given
}

// date reads a NumericDate (RFC 7519 §2); absent is the zero time. Dates
// before 1970 or after the year 9999 are refused.
func date(all map[string]any, name string) (time.Time, bool) {
	const latest = 253402300799
	v, given := all[name]
	var seconds float64
	switch v := v.(type) {
	case int64:
		seconds = float64(v)
	case float64:
		seconds = v
	default:
		return time.Time{}, !given
	}
	if !(seconds >= 0 && seconds <= latest) {
		return time.Time{}, false
	}
	whole, fraction := math.Modf(seconds)
	return time.Unix(int64(whole), int64(fraction*1e9)).UTC(), true
}
