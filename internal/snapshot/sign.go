package snapshot

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// Signer signs with one of the fleet's keys, which may lie in hardware: signing
// can take long, and can fail. It is safe for concurrent use.
type Signer struct {
	key    crypto.Signer
	public PublicKey
}

// NewSigner returns a signer for the key, which must be safe for concurrent use.
// It panics if NewPublicKey has an error for its public key.
func NewSigner(key crypto.Signer) *Signer {
	public, err := NewPublicKey(key.Public())
	if err != nil {
		panic("snapshot: " + err.Error())
	}
	return &Signer{key: key, public: public}
}

// Public returns the key that verifies what s signs.
func (s *Signer) Public() PublicKey { return s.public }

// Verifier returns a verifier that has the public key of s pinned.
func (s *Signer) Verifier() *Verifier { return newVerifier(s.public) }

// SignHead signs a statement. As of all that s signs, its error is ErrSigning if the
// key has failed. Equal statements make heads with equal digests.
func (s *Signer) SignHead(st Statement) (Head, error) {
	head := &proxyv1.Head{
		Epoch:       int64(st.Epoch),
		Environment: st.Environment,
		Revision:    int64(st.Revision),
		Root:        st.Root[:],
		Documents:   int64(st.Documents),
	}
	if !st.Previous.IsZero() {
		head.Previous = st.Previous[:]
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(head)
	if err != nil {
		return Head{}, fmt.Errorf("marshal head: %w", err)
	}
	return s.signHead(st, b)
}

// SignHeadAgain signs the bytes of a head that was signed with another key. It
// stays the same head.
func (s *Signer) SignHeadAgain(h Head) (Head, error) {
	return s.signHead(h.Statement, h.signed.GetHead())
}

func (s *Signer) signHead(st Statement, b []byte) (Head, error) {
	signature, err := s.sign(headDomain, b)
	if err != nil {
		return Head{}, fmt.Errorf("sign head: %w", err)
	}
	return Head{
		Statement: st,
		digest:    sha256.Sum256(b),
		signed:    &proxyv1.SignedHead{Head: b, Signature: signature, KeyId: s.id()},
		key:       s.public.id,
	}, nil
}

// SignFreshness signs a freshness statement.
func (s *Signer) SignFreshness(f Freshness) (*proxyv1.SignedFreshness, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&proxyv1.Freshness{
		Epoch:       int64(f.Epoch),
		Environment: f.Environment,
		Revision:    int64(f.Revision),
		HeadDigest:  f.HeadDigest[:],
		IssuedAt:    timestamppb.New(f.IssuedAt),
	})
	if err != nil {
		return nil, fmt.Errorf("marshal freshness: %w", err)
	}
	signature, err := s.sign(freshnessDomain, b)
	if err != nil {
		return nil, fmt.Errorf("sign freshness: %w", err)
	}
	return &proxyv1.SignedFreshness{Statement: b, Signature: signature, KeyId: s.id()}, nil
}

// SignKeySet signs a set of keys, which says from then on who signs, as the one
// after previous; the zero KeySet is before the first. It takes the set only if
// those who know previous will: ErrSignature if s is none of its keys, where it
// has any.
func (s *Signer) SignKeySet(previous KeySet, keys ...PublicKey) (KeySet, error) {
	if previous.Generation > 0 && !previous.Has(s.public.id) {
		return KeySet{}, fmt.Errorf("key set: %w: key %s is not in generation %d", ErrSignature, s.public.id.Short(), previous.Generation)
	}
	m := &proxyv1.KeySet{Generation: int64(previous.Generation) + 1}
	if previous.Generation > 0 {
		m.Previous = previous.digest[:]
	}
	for _, k := range keys {
		m.Keys = append(m.Keys, k.der)
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return KeySet{}, fmt.Errorf("marshal key set: %w", err)
	}
	signature, err := s.sign(keySetDomain, b)
	if err != nil {
		return KeySet{}, fmt.Errorf("sign key set: %w", err)
	}
	return ParseKeySet(&proxyv1.SignedKeySet{Set: b, Signature: signature, KeyId: s.id()})
}

func (s *Signer) id() []byte { return slices.Clone(s.public.id[:]) }

// sign signs b as something of a domain. ErrSigning.
func (s *Signer) sign(domain string, b []byte) ([]byte, error) {
	message, hash := s.public.input(domain, b)
	signature, err := s.key.Sign(rand.Reader, message, hash)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSigning, err)
	}
	return signature, nil
}
