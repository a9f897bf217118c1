package token

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"slices"

	"github.com/golang-jwt/jwt/v5"
)

// Algorithm is a signature algorithm of RFC 7518 §3.1 or RFC 8037 §3.1.
type Algorithm string

// The algorithms that Verify knows. All are asymmetric.
const (
	RS256 Algorithm = "RS256"
	RS384 Algorithm = "RS384"
	RS512 Algorithm = "RS512"
	PS256 Algorithm = "PS256"
	PS384 Algorithm = "PS384"
	PS512 Algorithm = "PS512"
	ES256 Algorithm = "ES256"
	ES384 Algorithm = "ES384"
	ES512 Algorithm = "ES512"
	EdDSA Algorithm = "EdDSA"
)

// DefaultAlgorithms are what Rules take that name none.
func DefaultAlgorithms() []Algorithm { return []Algorithm{ES256, RS256, EdDSA, PS256} }

// allowed says whether rules that list these algorithms take a.
func (a Algorithm) allowed(listed []Algorithm) bool {
	if len(listed) == 0 {
		listed = DefaultAlgorithms()
	}
	return slices.Contains(listed, a)
}

// method is nil for an algorithm that is not one of the constants.
func (a Algorithm) method() jwt.SigningMethod {
	switch a {
	case RS256:
		return jwt.SigningMethodRS256
	case RS384:
		return jwt.SigningMethodRS384
	case RS512:
		return jwt.SigningMethodRS512
	case PS256:
		return saltOfHashSize(jwt.SigningMethodPS256)
	case PS384:
		return saltOfHashSize(jwt.SigningMethodPS384)
	case PS512:
		return saltOfHashSize(jwt.SigningMethodPS512)
	case ES256:
		return jwt.SigningMethodES256
	case ES384:
		return jwt.SigningMethodES384
	case ES512:
		return jwt.SigningMethodES512
	case EdDSA:
		return jwt.SigningMethodEdDSA
	}
	return nil
}

// saltOfHashSize holds verifiers to the salt length of RFC 7518 §3.5, where the
// library takes any.
func saltOfHashSize(m *jwt.SigningMethodRSAPSS) jwt.SigningMethod {
	return &jwt.SigningMethodRSAPSS{SigningMethodRSA: m.SigningMethodRSA, Options: m.Options}
}

// fits says whether a key of this type, and for ECDSA of this curve, can make
// signatures of the algorithm.
func (a Algorithm) fits(public publicKey) bool {
	switch p := public.(type) {
	case *rsa.PublicKey:
		return slices.Contains([]Algorithm{RS256, RS384, RS512, PS256, PS384, PS512}, a)
	case *ecdsa.PublicKey:
		return a == ES256 && p.Curve == elliptic.P256() ||
			a == ES384 && p.Curve == elliptic.P384() ||
			a == ES512 && p.Curve == elliptic.P521()
	case ed25519.PublicKey:
		return a == EdDSA
	}
	return false
}
