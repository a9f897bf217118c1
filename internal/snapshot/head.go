package snapshot

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// ErrSignature says that something is not signed by the pinned key.
var ErrSignature = errors.New("signature does not verify")

// Domains of signatures: what was signed as one thing never passes as another.
const (
	headDomain      = "sallyport head v1\x00"
	freshnessDomain = "sallyport freshness v1\x00"
)

// Statements are small; what is larger is not looked at.
const maxStatement = 4096

// SecurityLane is what heads, freshness statements and whatever else is kept by
// environment call the security lane: that which is to be in force everywhere
// and at once. No environment can have this name. What is called a revision
// elsewhere is there the lane's sequence, a history of its own that begins with
// the empty lane at 1.
const SecurityLane = "@security"

// Revision numbers the commits of the fleet, gapless, from 1. 0 is the state
// before the first.
type Revision int64

// Epoch counts the histories of a fleet, from 1: recovery from a restored
// database begins a new one.
type Epoch int64

// Statement is what a head says.
type Statement struct {
	Epoch       Epoch
	Environment string
	Revision    Revision
	Previous    Digest // of the head before it; zero for the first
	Root        Digest
	Documents   int
}

// Head is a signed Statement. The zero Head is no head. Heads are made by
// Signer.SignHead and Verifier.VerifyHead alone.
type Head struct {
	Statement
	digest Digest
	signed *proxyv1.SignedHead
}

// Digest returns the SHA-256 of the head's signed bytes.
func (h Head) Digest() Digest { return h.digest }

// Signed returns the head as it is stored and sent. It is not to be changed.
func (h Head) Signed() *proxyv1.SignedHead { return h.signed }

// IsZero reports whether h is no head.
func (h Head) IsZero() bool { return h.signed == nil }

// NewerThan reports whether h may replace o: a higher epoch, or the same and a
// higher revision. Every head is newer than the zero Head.
func (h Head) NewerThan(o Head) bool {
	return Position{h.Epoch, h.Revision}.After(Position{o.Epoch, o.Revision})
}

// Position is a place in the history of a fleet.
type Position struct {
	Epoch    Epoch
	Revision Revision
}

// Position returns where in the fleet's history the statement stands.
func (s Statement) Position() Position { return Position{s.Epoch, s.Revision} }

// After reports whether p is later than o.
func (p Position) After(o Position) bool {
	return p.Epoch > o.Epoch || p.Epoch == o.Epoch && p.Revision > o.Revision
}

// Freshness confirms what an environment's newest head was when it was issued.
type Freshness struct {
	Epoch       Epoch
	Environment string
	Revision    Revision
	HeadDigest  Digest
	IssuedAt    time.Time
}

// Signer signs with the fleet's key. It is safe for concurrent use.
type Signer struct {
	key ed25519.PrivateKey
}

// NewSigner returns a signer for the key. It panics on a key of another size.
func NewSigner(key ed25519.PrivateKey) *Signer {
	if len(key) != ed25519.PrivateKeySize {
		panic("snapshot: not an Ed25519 private key")
	}
	return &Signer{key: key}
}

// Verifier returns the verifier of what s signs.
func (s *Signer) Verifier() *Verifier {
	return NewVerifier(s.key.Public().(ed25519.PublicKey)) //nolint:forcetypeassert // documented by ed25519
}

// SignHead signs a statement. Equal statements make equal heads.
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
	return Head{
		Statement: st,
		digest:    sha256.Sum256(b),
		signed:    &proxyv1.SignedHead{Head: b, Signature: s.sign(headDomain, b)},
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
	return &proxyv1.SignedFreshness{Statement: b, Signature: s.sign(freshnessDomain, b)}, nil
}

func (s *Signer) sign(domain string, b []byte) []byte {
	return ed25519.Sign(s.key, append([]byte(domain), b...))
}

// Verifier checks what was signed with the pinned key. It is safe for
// concurrent use.
type Verifier struct {
	key ed25519.PublicKey
}

// NewVerifier returns a verifier for the key. It panics on a key of another
// size.
func NewVerifier(key ed25519.PublicKey) *Verifier {
	if len(key) != ed25519.PublicKeySize {
		panic("snapshot: not an Ed25519 public key")
	}
	return &Verifier{key: key}
}

// VerifyHead returns the head if its signature verifies and its bytes are
// understood whole; ErrSignature if the signature does not verify.
func (v *Verifier) VerifyHead(signed *proxyv1.SignedHead) (Head, error) {
	b := signed.GetHead()
	if err := v.verify(headDomain, b, signed.GetSignature()); err != nil {
		return Head{}, fmt.Errorf("head: %w", err)
	}
	var m proxyv1.Head
	if err := unmarshalKnown(b, &m); err != nil {
		return Head{}, fmt.Errorf("head: %w", err)
	}
	root, ok := ParseDigest(m.GetRoot())
	previous, okPrevious := ParseDigest(m.GetPrevious())
	if !ok || !okPrevious && len(m.GetPrevious()) != 0 ||
		m.GetEpoch() < 1 || m.GetRevision() < 1 || m.GetEnvironment() == "" || m.GetDocuments() < 0 {
		return Head{}, errors.New("head: a field is missing or out of range")
	}
	return Head{
		Statement: Statement{
			Epoch:       Epoch(m.GetEpoch()),
			Environment: m.GetEnvironment(),
			Revision:    Revision(m.GetRevision()),
			Previous:    previous,
			Root:        root,
			Documents:   int(m.GetDocuments()),
		},
		digest: sha256.Sum256(b),
		signed: signed,
	}, nil
}

// VerifyFreshness returns the statement if its signature verifies and its
// bytes are understood whole; ErrSignature if the signature does not verify.
func (v *Verifier) VerifyFreshness(signed *proxyv1.SignedFreshness) (Freshness, error) {
	b := signed.GetStatement()
	if err := v.verify(freshnessDomain, b, signed.GetSignature()); err != nil {
		return Freshness{}, fmt.Errorf("freshness: %w", err)
	}
	var m proxyv1.Freshness
	if err := unmarshalKnown(b, &m); err != nil {
		return Freshness{}, fmt.Errorf("freshness: %w", err)
	}
	digest, ok := ParseDigest(m.GetHeadDigest())
	if !ok || m.GetEpoch() < 1 || m.GetRevision() < 1 || m.GetEnvironment() == "" || m.GetIssuedAt().CheckValid() != nil {
		return Freshness{}, errors.New("freshness: a field is missing or out of range")
	}
	return Freshness{
		Epoch:       Epoch(m.GetEpoch()),
		Environment: m.GetEnvironment(),
		Revision:    Revision(m.GetRevision()),
		HeadDigest:  digest,
		IssuedAt:    m.GetIssuedAt().AsTime(),
	}, nil
}

func (v *Verifier) verify(domain string, b, signature []byte) error {
	if len(b) == 0 || len(b) > maxStatement || len(signature) != ed25519.SignatureSize {
		return ErrSignature
	}
	if !ed25519.Verify(v.key, append([]byte(domain), b...), signature) {
		return ErrSignature
	}
	return nil
}

// unmarshalKnown refuses fields that this build does not know: a statement
// that says more than is understood is not acted on.
func unmarshalKnown(b []byte, m proto.Message) error {
	if err := proto.Unmarshal(b, m); err != nil {
		return err
	}
	if len(m.ProtoReflect().GetUnknown()) > 0 {
		return errors.New("has a field that this build does not know")
	}
	return nil
}
