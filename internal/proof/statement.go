package proof

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/internal/snapshot"
	distributionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/distribution/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

const (
	magic        = "sallyport statement v1\n"
	rosterDomain = "sallyport roster v1\x00"
)

// MaxBytes bounds the file of a statement, in bytes.
const MaxBytes = 64 << 20

var errNoStatement = errors.New("not a statement of who enforces a revision")

// Claim is what the control plane says of a statement.
type Claim struct {
	Environment string
	// Position is that of the head which is enforced, or one after it.
	snapshot.Position
	At time.Time // when it was exported
	// Others are the environment's proxies that have not proven it.
	Others int
}

// Witnessed is what a statement is made of.
type Witnessed struct {
	KeySets []*proxyv1.SignedKeySet // all that lead from the root key, ascending
	Heads   []*proxyv1.SignedHead   // those that the proxies speak of
	Proxies []*distributionv1.ProvenProxy
	// SecurityHeads are those of the security lane that the proxies speak of.
	SecurityHeads []*proxyv1.SignedHead
}

// Write returns the file of a statement. Its proxies have to be ordered by ID.
func Write(c Claim, w Witnessed, s *snapshot.Signer) ([]byte, error) {
	roster := rosterOf(w.Proxies)
	claim, err := proto.MarshalOptions{Deterministic: true}.Marshal(&distributionv1.EnforcedClaim{
		Environment: c.Environment, Epoch: int64(c.Epoch), Revision: int64(c.Revision),
		ExportedAt: timestamppb.New(c.At), Roster: roster[:], Others: int64(c.Others),
	})
	if err != nil {
		return nil, fmt.Errorf("marshal claim: %w", err)
	}
	signature, key, err := s.SignEnforced(claim)
	if err != nil {
		return nil, err
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&distributionv1.EnforcedStatement{
		Claim: claim, Signature: signature, KeyId: key, KeySets: w.KeySets, Heads: w.Heads, Proxies: w.Proxies,
		SecurityHeads: w.SecurityHeads,
	})
	if err != nil {
		return nil, fmt.Errorf("marshal statement: %w", err)
	}
	return append([]byte(magic), b...), nil
}

// rosterOf digests whose keys they are.
func rosterOf(proxies []*distributionv1.ProvenProxy) snapshot.Digest {
	h := sha256.New()
	h.Write([]byte(rosterDomain))
	for _, p := range proxies {
		writeSized(h, []byte(p.GetId()))
		writeSized(h, p.GetAckKey())
	}
	return snapshot.Digest(h.Sum(nil))
}

// Statement is one that was verified whole.
type Statement struct {
	Claim
	// Generation is that of the key set with which it was signed; 0 for the root key.
	Generation snapshot.Generation
	Proxies    []Proven // by ID
}

// Proven is a proxy process that has said that it enforces the revision of the
// statement, or one after it.
type Proven struct {
	ID string
	Said
	// Security is the same of the security lane, at whatever sequence; zero if nothing
	// of that is proven.
	Security Said
}

// Read returns what a statement says, if everything in it can be verified with the
// root key that v has pinned; else it says nothing. v learns the key sets that are in
// it.
func Read(file []byte, v *snapshot.Verifier) (*Statement, error) {
	b, ok := bytes.CutPrefix(file, []byte(magic))
	if !ok || len(file) > MaxBytes {
		return nil, errNoStatement
	}
	var m distributionv1.EnforcedStatement
	if err := unmarshal(b, &m); err != nil {
		return nil, err
	}
	if _, err := v.Extend(m.GetKeySets()); err != nil {
		return nil, err
	}
	if err := v.VerifyEnforced(m.GetClaim(), m.GetSignature(), m.GetKeyId()); err != nil {
		return nil, err
	}
	claim, err := readClaim(&m)
	if err != nil {
		return nil, err
	}
	heads, err := readAllHeads(&m, claim, v.Past())
	if err != nil {
		return nil, err
	}
	s := &Statement{Claim: claim, Generation: v.Newest().Generation}
	for _, p := range m.GetProxies() {
		proven, err := readProxy(p, heads)
		if err != nil {
			return nil, fmt.Errorf("proxy %q: %w", p.GetId(), err)
		}
		if n := len(s.Proxies); n > 0 && s.Proxies[n-1].ID >= proven.ID {
			return nil, fmt.Errorf("proxy %q: is there twice, or out of order", p.GetId())
		}
		s.Proxies = append(s.Proxies, proven)
	}
	return s, nil
}

// unmarshal refuses what this build does not know: of a statement that says more than
// is understood nothing is believed.
func unmarshal(b []byte, m proto.Message) error {
	if err := proto.Unmarshal(b, m); err != nil {
		return fmt.Errorf("%w: %w", errNoStatement, err)
	}
	if len(m.ProtoReflect().GetUnknown()) > 0 {
		return errors.New("the statement has a field that this build does not know")
	}
	return nil
}

func readClaim(m *distributionv1.EnforcedStatement) (Claim, error) {
	var c distributionv1.EnforcedClaim
	if err := unmarshal(m.GetClaim(), &c); err != nil {
		return Claim{}, err
	}
	roster, ok := snapshot.ParseDigest(c.GetRoster())
	switch {
	case c.GetEnvironment() == "" || c.GetEpoch() < 1 || c.GetRevision() < 1 || c.GetOthers() < 0 || c.GetExportedAt().CheckValid() != nil:
		return Claim{}, errors.New("claim: a field is missing or out of range")
	case !ok || roster != rosterOf(m.GetProxies()):
		return Claim{}, errors.New("claim: it is about other proxies, or other keys of them")
	}
	return Claim{
		Environment: c.GetEnvironment(),
		Position:    snapshot.Position{Epoch: snapshot.Epoch(c.GetEpoch()), Revision: snapshot.Revision(c.GetRevision())},
		At:          c.GetExportedAt().AsTime(), Others: int(c.GetOthers()),
	}, nil
}

// heads are those of a statement by their digests: of the environment, and of the
// security lane.
type heads struct {
	policy, security map[snapshot.Digest]snapshot.Head
}

func readAllHeads(m *distributionv1.EnforcedStatement, c Claim, v *snapshot.Verifier) (h heads, err error) {
	if h.policy, err = readHeads(m.GetHeads(), c, v); err != nil {
		return heads{}, err
	}
	// Of this lane no sequence is claimed: it says up to which each proxy was.
	h.security, err = readHeads(m.GetSecurityHeads(), Claim{Environment: snapshot.SecurityLane}, v)
	return h, err
}

// readHeads returns heads by their digests. They may be signed with a key that was
// retired since: whose word counts is in the claim, which is not.
func readHeads(signed []*proxyv1.SignedHead, c Claim, v *snapshot.Verifier) (map[snapshot.Digest]snapshot.Head, error) {
	heads := map[snapshot.Digest]snapshot.Head{}
	for _, one := range signed {
		h, err := v.VerifyHead(one)
		switch {
		case err != nil:
			return nil, err
		case h.Environment != c.Environment || c.After(h.Position()):
			return nil, fmt.Errorf("head: it is of %s at revision %d, which proves nothing here", h.Environment, h.Revision)
		}
		heads[h.Digest()] = h
	}
	return heads, nil
}

func readProxy(p *distributionv1.ProvenProxy, h heads) (Proven, error) {
	if len(p.ProtoReflect().GetUnknown()) > 0 {
		return Proven{}, errors.New("it has a field that this build does not know")
	}
	said, err := openOne(p.GetAckKey(), p.GetStatement(), p.GetSignature(), h.policy)
	if err != nil {
		return Proven{}, err
	}
	proven := Proven{ID: p.GetId(), Said: said}
	if len(p.GetSecurityStatement())+len(p.GetSecuritySignature()) > 0 {
		proven.Security, err = openOne(p.GetAckKey(), p.GetSecurityStatement(), p.GetSecuritySignature(), h.security)
	}
	return proven, err
}

// openOne is Open of what has to be about one of the heads, and all of it.
func openOne(public, statement, signature []byte, heads map[snapshot.Digest]snapshot.Head) (Said, error) {
	said, err := Open(public, statement, signature)
	switch {
	case err != nil:
		return Said{}, err
	case !said.Enforces(heads[said.Head]):
		return Said{}, errors.New("what it has signed is not that it enforces a head of the statement")
	}
	return said, nil
}
