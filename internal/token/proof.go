package token

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"time"
)

// MaxProofSize is the length in bytes of the longest proof that is looked at:
// one with an RSA key of 8192 bits has some 4 KiB.
const MaxProofSize = 8 << 10

// maxProofID bounds jti, of which RFC 9449 asks 96 random bits.
const maxProofID = 256

// Thumbprint is the SHA-256 of a key (RFC 7638) or of a certificate.
type Thumbprint [sha256.Size]byte

// ParseThumbprint reads the one base64url form of a thumbprint.
func ParseThumbprint(s string) (Thumbprint, bool) {
	b, ok := decodeSegment(s)
	if !ok || len(b) != sha256.Size {
		return Thumbprint{}, false
	}
	return Thumbprint(b), true
}

// Proof is a DPoP proof (RFC 9449 §4.2) whose signature is that of the key that
// it brings along. It proves nothing but that who made it has this key: what it
// is for, and whether it is new, is for the caller to compare.
type Proof struct {
	Key Thumbprint // of the key that signed it

	ID     string // jti, never empty
	Method string // htm
	URL    string // htu
	Token  string // ath, or empty
	Nonce  string // or empty

	IssuedAt  time.Time
	NotBefore time.Time // zero when the proof has no nbf
	Expires   time.Time // zero when the proof has no exp
}

// ProofAlgorithms are those that a proof may be signed with.
const ProofAlgorithms = "ES256 EdDSA PS256 RS256"

// VerifyProof reads a proof strictly and verifies its signature. Every error is
// an *Error; a proof whose signature is wrong is told nothing else.
func VerifyProof(raw string) (*Proof, error) {
	t, key, err := bringing(raw, "dpop+jwt", MaxProofSize)
	if err != nil {
		return nil, err
	}
	if key.verify(t) != nil {
		return nil, refuse(BadSignature)
	}
	return readProof(t.claims, key.thumbprint)
}

// bringing reads a token of a type, at most so many bytes, that brings the key which
// it says has signed it. Nobody has verified that yet.
func bringing(raw, typ string, most int) (*Parsed, embeddedKey, error) {
	if len(raw) > most {
		return nil, embeddedKey{}, refuse(Malformed)
	}
	t, h, ok := split(raw)
	switch {
	case !ok:
		return nil, embeddedKey{}, refuse(Malformed)
	case h["typ"] != typ:
		return nil, embeddedKey{}, refuse(WrongType)
	case demands(h, "crit", "b64", "zip", "enc", "jku", "x5u", "x5c"):
		return nil, embeddedKey{}, refuse(BadHeader)
	}
	jwk, _ := h["jwk"].(map[string]any)
	alg, _ := h["alg"].(string)
	key, err := embedded(jwk, alg)
	return t, key, err
}

// embeddedKey is a key that a token brings, and how it signs.
type embeddedKey struct {
	algorithm  Algorithm
	public     publicKey
	thumbprint Thumbprint // RFC 7638
}

func (k embeddedKey) verify(t *Parsed) error {
	return k.algorithm.method().Verify(t.signed, t.signature, k.public)
}

// embedded takes a public key that is meant for signatures of this algorithm.
func embedded(jwk map[string]any, alg string) (embeddedKey, error) {
	if jwk == nil || secret(jwk) || !forSignatures(jwk) {
		return embeddedKey{}, refuse(BadHeader)
	}
	if named, given := jwk["alg"]; given && named != alg {
		return embeddedKey{}, refuse(WrongAlgorithm)
	}
	public, ok := publicKeyOf(jwk)
	if !ok {
		return embeddedKey{}, refuse(BadHeader)
	}
	switch a := Algorithm(alg); a {
	case ES256, EdDSA, PS256, RS256:
		if a.fits(public) {
			return embeddedKey{a, public, thumbprint(jwk)}, nil
		}
	}
	return embeddedKey{}, refuse(WrongAlgorithm)
}

// readProof wants the claims of RFC 9449 §4.2, and understands exp and nbf,
// which some clients add.
func readProof(claims map[string]any, key Thumbprint) (*Proof, error) {
	p := &Proof{Key: key}
	var ok [8]bool
	p.ID, ok[0] = claims["jti"].(string)
	p.Method, ok[1] = claims["htm"].(string)
	p.URL, ok[2] = claims["htu"].(string)
	p.Token, ok[3] = optionalString(claims, "ath")
	p.Nonce, ok[4] = optionalString(claims, "nonce")
	p.IssuedAt, ok[5] = date(claims, "iat")
	p.NotBefore, ok[6] = date(claims, "nbf")
	p.Expires, ok[7] = date(claims, "exp")
	if slices.Contains(ok[:], false) || p.ID == "" || len(p.ID) > maxProofID || p.IssuedAt.IsZero() {
		return nil, refuse(BadClaim)
	}
	return p, nil
}

// thumbprint hashes the members that make up a key, in the order and form of
// RFC 7638 §3.2. publicKeyOf has accepted the key, so that they are base64url
// and need no escapes.
func thumbprint(jwk map[string]any) Thumbprint {
	var text string
	switch jwk["kty"] {
	case "EC":
		text = fmt.Sprintf(`{"crv":%q,"kty":"EC","x":%q,"y":%q}`, jwk["crv"], jwk["x"], jwk["y"])
	case "OKP":
		text = fmt.Sprintf(`{"crv":%q,"kty":"OKP","x":%q}`, jwk["crv"], jwk["x"])
	case "RSA":
		text = fmt.Sprintf(`{"e":%q,"kty":"RSA","n":%q}`, jwk["e"], jwk["n"])
	}
	return sha256.Sum256([]byte(text))
}
