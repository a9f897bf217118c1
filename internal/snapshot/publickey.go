package snapshot

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
)

// KeyID names a signing key: the SHA-256 of its SubjectPublicKeyInfo in DER.
type KeyID [sha256.Size]byte

// String returns the ID in lower-case hexadecimal.
func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// Short returns the first 12 characters, for people.
func (id KeyID) Short() string { return id.String()[:12] }

// PublicKey verifies what is signed for the fleet: a key of Ed25519, or of ECDSA
// on P-256, which hardware has more often. The zero PublicKey verifies nothing.
type PublicKey struct {
	id  KeyID
	der []byte
	key crypto.PublicKey
}

// maxPublicKey bounds a key in DER; one on P-256 takes 91 bytes.
const maxPublicKey = 128

var errKeyType = errors.New("is neither an Ed25519 key nor one of ECDSA on P-256")

// NewPublicKey returns a key as it was parsed by crypto/x509.
func NewPublicKey(key crypto.PublicKey) (PublicKey, error) {
	switch k := key.(type) {
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return PublicKey{}, errKeyType
		}
	case *ecdsa.PublicKey:
		if k == nil || k.Curve != elliptic.P256() {
			return PublicKey{}, errKeyType
		}
	default:
		return PublicKey{}, errKeyType
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return PublicKey{}, fmt.Errorf("public key: %w", err)
	}
	return PublicKey{id: sha256.Sum256(der), der: der, key: key}, nil
}

// ParsePublicKey parses a SubjectPublicKeyInfo in DER, in its only form.
func ParsePublicKey(der []byte) (PublicKey, error) {
	if len(der) > maxPublicKey {
		return PublicKey{}, fmt.Errorf("public key of %d bytes", len(der))
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return PublicKey{}, fmt.Errorf("parse public key: %w", err)
	}
	k, err := NewPublicKey(parsed)
	if err == nil && !bytes.Equal(k.der, der) {
		err = errors.New("public key has an odd form")
	}
	return k, err
}

// ID returns what the key is called.
func (k PublicKey) ID() KeyID { return k.id }

// DER returns the key as a SubjectPublicKeyInfo. It is not to be changed.
func (k PublicKey) DER() []byte { return k.der }

// Verifier returns a verifier that has k pinned.
func (k PublicKey) Verifier() *Verifier { return newVerifier(k) }

// Type returns what kind of key it is, for people.
func (k PublicKey) Type() string {
	switch k.key.(type) {
	case ed25519.PublicKey:
		return "Ed25519"
	case *ecdsa.PublicKey:
		return "ECDSA P-256"
	}
	return "none"
}

// input returns what is signed of a statement of a domain, and how it is hashed.
func (k PublicKey) input(domain string, b []byte) ([]byte, crypto.Hash) {
	message := append([]byte(domain), b...)
	if _, ok := k.key.(*ecdsa.PublicKey); ok {
		sum := sha256.Sum256(message)
		return sum[:], crypto.SHA256
	}
	return message, crypto.Hash(0)
}

// verify reports whether the key has signed a statement of a domain.
func (k PublicKey) verify(domain string, b, signature []byte) bool {
	message, _ := k.input(domain, b)
	switch key := k.key.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(key, message, signature)
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(key, message, signature)
	}
	return false
}
