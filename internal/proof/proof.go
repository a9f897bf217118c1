// Package proof has proxies sign what they say that they enforce, and makes of that
// statements which anybody can verify who knows the fleet's root key.
package proof

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

const (
	ackDomain     = "sallyport ack v1\x00"
	rejectsDomain = "sallyport rejects v1\x00"
	// maxSaid bounds an AckStatement, in bytes.
	maxSaid = 1024
)

var (
	// ErrSignature says that a proxy process has not signed what it is said to.
	ErrSignature = errors.New("it is not signed with the key of the process")
	// ErrOther says that what was signed is not what the ack says.
	ErrOther = errors.New("what is signed is not what the acknowledgement says")
)

// Key is what one proxy process signs with, as long as it lives. It is safe for
// concurrent use.
type Key struct{ private ed25519.PrivateKey }

// NewKey returns a new key, which is never stored.
func NewKey() (*Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key for acknowledgements: %w", err)
	}
	return &Key{private}, nil
}

// Public returns the key's 32 public bytes, which are not to be changed.
func (k *Key) Public() []byte {
	return k.private[ed25519.PrivateKeySize-ed25519.PublicKeySize:]
}

// Sign adds to an ack what it says, signed: of an environment, in force since a time.
// It leaves the ack as it is if the environment's name is no text.
func (k *Key) Sign(ack *proxyv1.Ack, environment string, since, now time.Time) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&proxyv1.AckStatement{
		Environment:   environment,
		Epoch:         ack.GetEpoch(),
		Revision:      ack.GetRevision(),
		HeadDigest:    ack.GetHeadDigest(),
		EnforcedRoot:  ack.GetEnforcedRoot(),
		RejectsDigest: digestOf(ack.GetRejects()),
		EnforcedAt:    timestamppb.New(since),
		SaidAt:        timestamppb.New(now),
	})
	if err != nil {
		return
	}
	ack.Statement, ack.Signature = b, ed25519.Sign(k.private, append([]byte(ackDomain), b...))
}

// digestOf names what was rejected; nil for nothing.
func digestOf(rejects []*proxyv1.Reject) []byte {
	if len(rejects) == 0 {
		return nil
	}
	h := sha256.New()
	h.Write([]byte(rejectsDomain))
	for _, r := range rejects {
		for _, part := range []string{r.GetKey().GetKind(), r.GetKey().GetNamespace(), r.GetKey().GetName()} {
			writeSized(h, []byte(part))
		}
	}
	return h.Sum(nil)
}

// writeSized writes b after its length, so that nothing else gives the same.
func writeSized(h hash.Hash, b []byte) {
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b)))) //nolint:gosec // of messages that are bounded far below
	h.Write(b)
}

// Said is what a process has signed of what it enforces.
type Said struct {
	Environment string
	snapshot.Position
	Head     snapshot.Digest // of the head that it speaks of
	Enforced snapshot.Digest // root over what it enforces; zero for nothing
	Rejected bool            // it does not enforce all of that head
	// Since when it enforces that, and when it said so, by its own clock.
	Since, At time.Time

	rejects []byte
}

// Open returns what a process with a public key has signed. ErrSignature if it has
// not; another error if that is not understood whole.
func Open(public, statement, signature []byte) (Said, error) {
	if len(public) != ed25519.PublicKeySize || len(statement) == 0 || len(statement) > maxSaid ||
		!ed25519.Verify(public, append([]byte(ackDomain), statement...), signature) {
		return Said{}, ErrSignature
	}
	var m proxyv1.AckStatement
	if err := proto.Unmarshal(statement, &m); err != nil {
		return Said{}, fmt.Errorf("statement of a proxy: %w", err)
	}
	head, ok := snapshot.ParseDigest(m.GetHeadDigest())
	enforced, okEnforced := snapshot.ParseDigest(m.GetEnforcedRoot())
	switch {
	case len(m.ProtoReflect().GetUnknown()) > 0:
		return Said{}, errors.New("statement of a proxy: has a field that this build does not know")
	case !ok || !okEnforced && len(m.GetEnforcedRoot()) > 0 || m.GetEnvironment() == "" || m.GetEpoch() < 1 || m.GetRevision() < 1,
		m.GetEnforcedAt().CheckValid() != nil, m.GetSaidAt().CheckValid() != nil:
		return Said{}, errors.New("statement of a proxy: a field is missing or out of range")
	}
	return Said{
		Environment: m.GetEnvironment(),
		Position:    snapshot.Position{Epoch: snapshot.Epoch(m.GetEpoch()), Revision: snapshot.Revision(m.GetRevision())},
		Head:        head, Enforced: enforced, Rejected: len(m.GetRejectsDigest()) > 0,
		Since: m.GetEnforcedAt().AsTime(), At: m.GetSaidAt().AsTime(), rejects: m.GetRejectsDigest(),
	}, nil
}

// OpenAck is Open of an ack about an environment. ErrOther if what is signed is not
// what the ack says.
func OpenAck(public []byte, environment string, ack *proxyv1.Ack) (Said, error) {
	said, err := Open(public, ack.GetStatement(), ack.GetSignature())
	if err != nil {
		return Said{}, err
	}
	head, _ := snapshot.ParseDigest(ack.GetHeadDigest())
	enforced, _ := snapshot.ParseDigest(ack.GetEnforcedRoot())
	at := snapshot.Position{Epoch: snapshot.Epoch(ack.GetEpoch()), Revision: snapshot.Revision(ack.GetRevision())}
	if said.Environment != environment || said.Position != at || said.Head != head || said.Enforced != enforced ||
		!bytes.Equal(said.rejects, digestOf(ack.GetRejects())) {
		return Said{}, ErrOther
	}
	return said, nil
}

// Enforces reports whether a process has said that it enforces all that a head
// describes, and nothing else.
func (s Said) Enforces(h snapshot.Head) bool {
	return !h.IsZero() && s.Environment == h.Environment && s.Position == h.Position() &&
		s.Head == h.Digest() && s.Enforced == h.Root && !s.Rejected
}
