package snapshot

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	distributionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/distribution/v1"
)

const rosterDomain = "sallyport fleet roster v1\x00"

// Roster says what the newest roster of the fleet was when it was issued: a document
// that says who is admitted, of which this knows the digest alone.
type Roster struct {
	Epoch Epoch
	// Sequence is of the newest entry of the audit that the roster takes account of.
	Sequence int64
	Digest   Digest
	IssuedAt time.Time
}

// NewerThan reports whether r may replace o. Every roster is newer than the zero
// Roster.
func (r Roster) NewerThan(o Roster) bool {
	return r.Epoch > o.Epoch || r.Epoch == o.Epoch && r.Sequence > o.Sequence
}

// SignRoster signs a statement; ErrSigning.
func (s *Signer) SignRoster(r Roster) (*distributionv1.SignedRoster, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&distributionv1.RosterStatement{
		Epoch: int64(r.Epoch), Sequence: r.Sequence, Digest: r.Digest[:], IssuedAt: timestamppb.New(r.IssuedAt),
	})
	if err != nil {
		return nil, fmt.Errorf("marshal roster: %w", err)
	}
	signature, err := s.sign(rosterDomain, b)
	if err != nil {
		return nil, fmt.Errorf("sign roster: %w", err)
	}
	return &distributionv1.SignedRoster{Statement: b, Signature: signature, KeyId: s.id()}, nil
}

// VerifyRoster returns the statement if its signature verifies and its bytes are
// understood whole; ErrSignature if the signature does not verify.
func (v *Verifier) VerifyRoster(signed *distributionv1.SignedRoster) (Roster, error) {
	b := signed.GetStatement()
	if _, err := v.verify(rosterDomain, b, signed.GetSignature(), signed.GetKeyId()); err != nil {
		return Roster{}, fmt.Errorf("roster: %w", err)
	}
	var m distributionv1.RosterStatement
	if err := unmarshalKnown(b, &m); err != nil {
		return Roster{}, fmt.Errorf("roster: %w", err)
	}
	digest, ok := ParseDigest(m.GetDigest())
	if !ok || m.GetEpoch() < 1 || m.GetSequence() < 1 || m.GetIssuedAt().CheckValid() != nil {
		return Roster{}, errors.New("roster: a field is missing or out of range")
	}
	return Roster{
		Epoch: Epoch(m.GetEpoch()), Sequence: m.GetSequence(), Digest: digest, IssuedAt: m.GetIssuedAt().AsTime(),
	}, nil
}
