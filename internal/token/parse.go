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
func Parse(raw string) (*Parsed, error) {
	if len(raw) > MaxSize {
		return nil, refuse(Malformed)
	}
	header, rest, _ := strings.Cut(raw, ".")
	// A fourth segment leaves its dot in the signature, which base64url lacks.
	payload, signature, three := strings.Cut(rest, ".")
	sig, okSignature := decodeSegment(signature)
	h, okHeader := decodeJSON(header)
	claims, okClaims := decodeJSON(payload)
	if !three || !okSignature || !okHeader || !okClaims {
		return nil, refuse(Malformed)
	}
	p := &Parsed{signed: raw[:len(header)+1+len(payload)], signature: sig, claims: claims}
	p.Issuer, _ = claims["iss"].(string)
	p.Subject, _ = claims["sub"].(string)
	if err := p.readHeader(h); err != nil {
		return nil, err
	}
	return p, nil
}

// For says whether aud, a string or an array of strings (RFC 7519 §4.1.3),
// names one of the audiences.
func (p *Parsed) For(audiences []string) bool { return isFor(p.claims, audiences) }

func isFor(claims map[string]any, audiences []string) bool {
	got, ok := names(claims["aud"])
	return ok && slices.ContainsFunc(got, func(a string) bool { return slices.Contains(audiences, a) })
}

func (p *Parsed) readHeader(h map[string]any) error {
	for _, member := range []string{"crit", "b64", "zip", "enc", "jku", "jwk", "x5u", "x5c"} {
		if _, given := h[member]; given {
			return refuse(BadHeader)
		}
	}
	typ, ok := typeOf(h)
	if !ok {
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

// typeOf accepts the types that access tokens have, not those of logout tokens,
// DPoP proofs or security events. An empty typ is not the same as none.
func typeOf(h map[string]any) (Type, bool) {
	v, given := h["typ"]
	if !given {
		return NoType, true
	}
	s, _ := v.(string)
	typ := Type(strings.TrimPrefix(strings.ToLower(s), "application/"))
	return typ, typ == JWT || typ == AccessJWT
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
