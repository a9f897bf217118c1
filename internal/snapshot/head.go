package snapshot

import (
	"errors"
	"fmt"
	"time"

	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

var (
	// ErrSignature says that something is not signed with a key that signs for the
	// fleet.
	ErrSignature = errors.New("signature does not verify")
	// ErrSigning says that nothing could be signed: the key, or what it lies in, has
	// failed.
	ErrSigning = errors.New("the signing key could not be used")
	// ErrRetired is an ErrSignature: the key did sign for the fleet, and does not
	// any more.
	ErrRetired = fmt.Errorf("%w: its key was retired", ErrSignature)
)

// Domains of signatures: what was signed as one thing never passes as another.
const (
	headDomain      = "sallyport head v1\x00"
	freshnessDomain = "sallyport freshness v1\x00"
	keySetDomain    = "sallyport key set v1\x00"
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
// Signer.SignHead, Signer.SignHeadAgain and Verifier.VerifyHead alone.
type Head struct {
	Statement
	digest Digest
	signed *proxyv1.SignedHead
	key    KeyID
	counts []KindCount // nil for none
}

// Digest returns the SHA-256 of the head's signed bytes.
func (h Head) Digest() Digest { return h.digest }

// Signed returns the head as it is stored and sent. It is not to be changed.
func (h Head) Signed() *proxyv1.SignedHead { return h.signed }

// Key returns the key that the head was signed with. It is no part of what was
// signed: the same head may be signed again with another.
func (h Head) Key() KeyID { return h.key }

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
