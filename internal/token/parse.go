package token

import (
	"encoding/base64"
	"slices"
	"strings"
)

// MaxSize is the length in bytes of the longest token that is looked at.
const MaxSize = 16 << 10

// Parsed is a token whose form is right and whose signature nobody has checked.
// Issuer, Subject and KeyID are what it claims: they may choose whom to ask, and
// prove nothing.
type Parsed struct {
	Issuer  string
	Subject string
	KeyID   string

	algorithm Algorithm
	typ       Type
	signed    string
	signature []byte
	claims    map[string]any
}

// Parse reads the compact serialization (RFC 7515 §7.1) and checks all that
// can be checked without keys. Every error is an *Error.
func Parse(raw string) (*Parsed, error) { return parse(raw, isAccess) }

// parse takes the types that takes accepts.
func parse(raw string, takes func(typ Type, given bool) bool) (*Parsed, error) {
	if len(raw) > MaxSize {
		return nil, refuse(Malformed)
	}
	p, h, ok := split(raw)
	if !ok {
		return nil, refuse(Malformed)
	}
	p.Issuer, _ = p.claims["iss"].(string)
	p.Subject, _ = p.claims["sub"].(string)
	if err := p.readHeader(h, takes); err != nil {
		return nil, err
	}
	return p, nil
}

// split takes the compact serialization apart and reads header and claims.
func split(raw string) (p *Parsed, h map[string]any, ok bool) {
	header, rest, _ := strings.Cut(raw, ".")
	// A fourth segment leaves its dot in the signature, which base64url lacks.
	payload, signature, three := strings.Cut(rest, ".")
	sig, okSignature := decodeSegment(signature)
	h, okHeader := decodeJSON(header)
	claims, okClaims := decodeJSON(payload)
	if !three || !okSignature || !okHeader || !okClaims {
		return nil, nil, false
	}
	return &Parsed{signed: raw[:len(header)+1+len(payload)], signature: sig, claims: claims}, h, true
}

// For says whether aud, a string or an array of strings (RFC 7519 §4.1.3),
// names one of the audiences.
func (p *Parsed) For(audiences []string) bool { return isFor(p.claims, audiences) }

func isFor(claims map[string]any, audiences []string) bool {
	got, ok := names(claims["aud"])
	return ok && slices.ContainsFunc(got, func(a string) bool { return slices.Contains(audiences, a) })
}

func (p *Parsed) readHeader(h map[string]any, takes func(typ Type, given bool) bool) error {
	if demands(h, "crit", "b64", "zip", "enc", "jku", "jwk", "x5u", "x5c") {
		return refuse(BadHeader)
	}
	typ, given := typeOf(h)
	if !takes(typ, given) {
		return refuse(WrongType)
	}
	p.typ = typ
	alg, _ := h["alg"].(string)
	if p.algorithm = Algorithm(alg); p.algorithm.method() == nil {
		return refuse(WrongAlgorithm)
	}
	p.KeyID, _ = h["kid"].(string)
	if p.KeyID == "" || len(p.KeyID) > maxKeyID {
		return refuse(BadHeader)
	}
	return nil
}

// demands reports whether a header has one of the members that would change
// what is verified, or with what.
func demands(h map[string]any, members ...string) bool {
	return slices.ContainsFunc(members, func(member string) bool { _, given := h[member]; return given })
}

// typeOf returns typ in lower case and without the prefix that may be left out
// (RFC 7515 §4.1.9). An empty typ is not the same as none.
func typeOf(h map[string]any) (typ Type, given bool) {
	v, given := h["typ"]
	s, _ := v.(string)
	return Type(strings.TrimPrefix(strings.ToLower(s), "application/")), given
}

// isAccess accepts the types that access tokens have, not those of logout tokens,
// DPoP proofs or security events.
func isAccess(typ Type, given bool) bool {
	return !given || typ == JWT || typ == AccessJWT
}

func decodeJSON(segment string) (map[string]any, bool) {
	b, ok := decodeSegment(segment)
	if !ok {
		return nil, false
	}
	object, err := decodeObject(b)
	return object, err == nil
}

// decodeSegment takes the one canonical base64url form of some bytes: no
// padding, no stray bits, and no line breaks, which encoding/base64 skips.
func decodeSegment(s string) ([]byte, bool) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return b, err == nil
}
