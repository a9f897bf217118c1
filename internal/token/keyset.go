package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"

	"github.com/MicahParks/jwkset"
)

// Bounds of a key set. MaxKeySetSize is what a caller has to read at most.
const (
	MaxKeySetSize = 256 << 10

	maxKeys    = 64
	maxKeyID   = 256
	minRSABits = 2048
	maxRSABits = 8192
)

// KeySet is the verification keys of one issuer, by kid. It is immutable and
// safe for concurrent use. A nil KeySet has no keys.
type KeySet struct {
	keys    map[string]key
	ignored int
}

type key struct {
	public publicKey
	only   Algorithm // the one that the set names, if it does
}

// takes says whether signatures of the algorithm are verified with the key.
func (k key) takes(a Algorithm) bool {
	return a.fits(k.public) && (k.only == "" || k.only == a)
}

// publicKey is what the three key types of the standard library share.
type publicKey interface {
	Equal(x crypto.PublicKey) bool
}

// ParseKeySet reads a JWK set (RFC 7517 §5).
//
// A set is refused as a whole when it is not strict JSON within bounds, gives
// a kid twice, carries private or symmetric key material, or holds no key that
// Verify can use. A single key is left out, and counted in Ignored, when it is
// of another type or algorithm, not for signatures, has no kid, or is weak or
// damaged.
//
// A key is usable for the algorithms of its type alone: RS256 to RS512 and PS256
// to PS512 with 2048 to 8192 bits, ES256 with P-256, ES384 with P-384, ES512
// with P-521, EdDSA with Ed25519. When it names its alg, it is for that one.
func ParseKeySet(document []byte) (*KeySet, error) {
	if len(document) > MaxKeySetSize {
		return nil, fmt.Errorf("parse key set: longer than %d bytes", MaxKeySetSize)
	}
	object, err := decodeObject(document)
	if err != nil {
		return nil, fmt.Errorf("parse key set: %w", err)
	}
	entries, ok := object["keys"].([]any)
	if !ok {
		return nil, errors.New("parse key set: no array of keys")
	}
	if len(entries) > maxKeys {
		return nil, fmt.Errorf("parse key set: more than %d keys", maxKeys)
	}
	set := &KeySet{keys: make(map[string]key, len(entries))}
	if err := set.add(entries); err != nil {
		return nil, fmt.Errorf("parse key set: %w", err)
	}
	return set, nil
}

func (s *KeySet) add(entries []any) error {
	seen := make(map[string]bool, len(entries))
	for i, entry := range entries {
		jwk, ok := entry.(map[string]any)
		if !ok {
			return fmt.Errorf("key %d is not an object", i)
		}
		if secret(jwk) {
			return fmt.Errorf("key %d is private or symmetric", i)
		}
		kid, _ := jwk["kid"].(string)
		if kid != "" && seen[kid] {
			return fmt.Errorf("key %d has the kid of another", i)
		}
		seen[kid] = true
		k, ok := usable(jwk)
		if !ok || kid == "" || len(kid) > maxKeyID {
			s.ignored++
			continue
		}
		s.keys[kid] = k
	}
	if len(s.keys) == 0 {
		return errors.New("no usable key")
	}
	return nil
}

// Has says whether the set holds a key of that kid.
func (s *KeySet) Has(kid string) bool {
	if s == nil {
		return false
	}
	_, ok := s.keys[kid]
	return ok
}

// Len is the number of usable keys.
func (s *KeySet) Len() int {
	if s == nil {
		return 0
	}
	return len(s.keys)
}

// Ignored is the number of keys that were left out.
func (s *KeySet) Ignored() int {
	if s == nil {
		return 0
	}
	return s.ignored
}

// Equal says whether both sets accept exactly the same signatures: whatever
// the order and the ignored keys of their documents were.
func (s *KeySet) Equal(other *KeySet) bool {
	if s.Len() != other.Len() {
		return false
	}
	if s == nil || other == nil {
		return true
	}
	for kid, k := range s.keys {
		o, ok := other.keys[kid]
		if !ok || o.only != k.only || !o.public.Equal(k.public) {
			return false
		}
	}
	return true
}

// Agrees says whether a token of this kid that was verified by other is by s.
func (s *KeySet) Agrees(other *KeySet, kid string) bool {
	k, ok := s.key(kid)
	o, had := other.key(kid)
	return ok && had && k.only == o.only && k.public.Equal(o.public)
}

func (s *KeySet) key(kid string) (key, bool) {
	if s == nil {
		return key{}, false
	}
	k, ok := s.keys[kid]
	return k, ok
}

// secret finds key material that no issuer may publish (RFC 7518 §6.2.2,
// §6.3.2, §6.4): whoever could read the set could sign, so none of it counts.
func secret(jwk map[string]any) bool {
	if jwk["kty"] == "oct" {
		return true
	}
	for _, member := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
		if _, ok := jwk[member]; ok {
			return true
		}
	}
	return false
}

func usable(jwk map[string]any) (key, bool) {
	if !forSignatures(jwk) {
		return key{}, false
	}
	public, ok := publicKeyOf(jwk)
	if !ok {
		return key{}, false
	}
	k := key{public: public}
	if alg, given := jwk["alg"]; given {
		s, _ := alg.(string)
		k.only = Algorithm(s)
		return k, k.only.fits(public)
	}
	return k, true
}

func forSignatures(jwk map[string]any) bool {
	if use, given := jwk["use"]; given && use != "sig" {
		return false
	}
	ops, given := jwk["key_ops"]
	if !given {
		return true
	}
	list, _ := ops.([]any)
	return slices.Contains(list, any("verify"))
}

// publicKeyOf hands the library nothing but the members that make up the key,
// and those only in the form that it does not bend: it would pad short
// coordinates, cut long exponents, trim padding, and read certificates.
func publicKeyOf(jwk map[string]any) (publicKey, bool) {
	m, ok := membersOf(jwk)
	if !ok {
		return nil, false
	}
	for _, s := range []string{m.X, m.Y, m.N, m.E} {
		if _, ok := decodeSegment(s); !ok {
			return nil, false
		}
	}
	parsed, err := jwkset.NewJWKFromMarshal(m, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{SkipAll: true})
	if err != nil {
		return nil, false
	}
	return strong(parsed.Key())
}

func membersOf(jwk map[string]any) (m jwkset.JWKMarshal, ok bool) {
	member := func(name string) string {
		s, _ := jwk[name].(string)
		return s
	}
	m.KTY = jwkset.KTY(member("kty"))
	m.CRV = jwkset.CRV(member("crv"))
	switch m.KTY {
	case jwkset.KtyEC:
		m.X, m.Y = member("x"), member("y")
		size := coordinate(m.CRV)
		return m, size > 0 && len(m.X) == size && len(m.Y) == size
	case jwkset.KtyOKP:
		m.X = member("x")
		return m, m.CRV == jwkset.CrvEd25519
	case jwkset.KtyRSA:
		m.CRV, m.N, m.E = "", member("n"), member("e")
		return m, len(m.E) <= 6
	}
	return m, false
}

// coordinate is the length of a coordinate on the curve as base64url, which is
// fixed (RFC 7518 §6.2.1.2): of 32, 48 and 66 octets.
func coordinate(curve jwkset.CRV) int {
	switch curve {
	case jwkset.CrvP256:
		return 43
	case jwkset.CrvP384:
		return 64
	case jwkset.CrvP521:
		return 88
	}
	return 0
}

func strong(public any) (publicKey, bool) {
	switch p := public.(type) {
	case *ecdsa.PublicKey:
		return p, true
	case ed25519.PublicKey:
		return p, len(p) == ed25519.PublicKeySize
	case *rsa.PublicKey:
		bits := p.N.BitLen()
		odd := p.N.Bit(0) == 1 && p.E&1 == 1
		return p, odd && p.E >= 3 && bits >= minRSABits && bits <= maxRSABits
	}
	return nil, false
}
