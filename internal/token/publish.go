package token

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"fmt"
)

// PublicKey is an ES256 key as it is published, for others to verify with. The
// zero value is none.
type PublicKey struct {
	id   string
	x, y string
}

// ParsePublicKey reads an uncompressed point of P-256 (SEC 1 §2.3.4).
func ParsePublicKey(point []byte) (PublicKey, error) {
	if _, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point); err != nil {
		return PublicKey{}, fmt.Errorf("parse public key: %w", err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	k := PublicKey{x: b64(point[1:33]), y: b64(point[33:])}
	sum := thumbprint(map[string]any{"kty": "EC", "crv": "P-256", "x": k.x, "y": k.y})
	k.id = b64(sum[:])
	return k, nil
}

// ID returns the kid: the key's thumbprint, so that nobody gives a key the name
// of another.
func (k PublicKey) ID() string { return k.id }

// EncodeKeySet returns the JWK set (RFC 7517 §5) of the keys.
func EncodeKeySet(keys []PublicKey) ([]byte, error) {
	type jwk struct {
		Type      string `json:"kty"`
		Curve     string `json:"crv"`
		Use       string `json:"use"`
		Algorithm string `json:"alg"`
		ID        string `json:"kid"`
		X         string `json:"x"`
		Y         string `json:"y"`
	}
	set := struct {
		Keys []jwk `json:"keys"`
	}{make([]jwk, len(keys))}
	for i, k := range keys {
		set.Keys[i] = jwk{"EC", "P-256", "sig", string(ES256), k.id, k.x, k.y}
	}
	return json.Marshal(set)
}
