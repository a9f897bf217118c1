package session

import (
	"crypto/ecdh"
	"crypto/hpke"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// MaxSealed bounds sealed keys, in bytes.
const MaxSealed = 8 << 10

// The keys travel by HPKE (RFC 9180) with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256
// and ChaCha20-Poly1305: whoever carries them cannot read them.
const info = "sallyport cookie keys v1"

// Recipient is to whom keys are sealed: a key pair that a proxy makes when it
// starts, keeps in memory, and gives the public half of when it registers.
type Recipient struct{ key hpke.PrivateKey }

// NewRecipient makes a key pair.
func NewRecipient() (*Recipient, error) {
	key, err := hpke.DHKEM(ecdh.X25519()).GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("make key for cookie keys: %w", err)
	}
	return &Recipient{key}, nil
}

// Public is what Share takes.
func (r *Recipient) Public() []byte { return r.key.PublicKey().Bytes() }

// Share seals a ring to the recipient of a public key.
func Share(r *Ring, public []byte) ([]byte, error) {
	to, err := hpke.DHKEM(ecdh.X25519()).NewPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("key for cookie keys: %w", err)
	}
	plain, err := r.Marshal()
	if err != nil {
		return nil, err
	}
	return hpke.Seal(to, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), []byte(info), plain)
}

// Take opens what was sealed to r, if it is of the environment.
func (r *Recipient) Take(environment string, sealed []byte) (*Ring, error) {
	if len(sealed) > MaxSealed {
		return nil, errors.New("sealed cookie keys are too large")
	}
	plain, err := hpke.Open(r.key, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), []byte(info), sealed)
	if err != nil {
		return nil, errors.New("cookie keys are not sealed to this process")
	}
	return ParseRing(environment, plain)
}

// Marshal writes a ring for those who may know its secrets.
func (r *Ring) Marshal() ([]byte, error) {
	m := &proxyv1.CookieKeys{Environment: r.Environment()}
	for _, k := range r.Keys() {
		m.Keys = append(m.Keys, &proxyv1.CookieKey{Id: k.ID[:], Secret: k.Secret[:], From: timestamppb.New(k.From)})
	}
	return proto.Marshal(m)
}

// ParseRing reads what Marshal wrote of an environment.
func ParseRing(environment string, b []byte) (*Ring, error) {
	m := &proxyv1.CookieKeys{}
	if err := proto.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("parse cookie keys: %w", err)
	}
	if m.GetEnvironment() != environment {
		return nil, fmt.Errorf("cookie keys are of environment %q", m.GetEnvironment())
	}
	keys := make([]Key, len(m.GetKeys()))
	for i, k := range m.GetKeys() {
		if len(k.GetId()) != len(keys[i].ID) || len(k.GetSecret()) != len(keys[i].Secret) || k.GetFrom().CheckValid() != nil {
			return nil, errors.New("a cookie key is malformed")
		}
		keys[i] = Key{ID: KeyID(k.GetId()), Secret: [32]byte(k.GetSecret()), From: k.GetFrom().AsTime()}
	}
	return NewRing(environment, keys...)
}
