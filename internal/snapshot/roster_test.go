package snapshot_test

import (
	"crypto/ed25519"
	"errors"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/internal/snapshot"
	distributionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/distribution/v1"
)

var rosterAt = time.Date(2026, time.November, 26, 9, 0, 0, 0, time.UTC)

func rosterOf(epoch snapshot.Epoch, sequence int64) snapshot.Roster {
	return snapshot.Roster{Epoch: epoch, Sequence: sequence, Digest: snapshot.Digest{byte(sequence)}, IssuedAt: rosterAt}
}

func TestRosterIsSigned(t *testing.T) {
	t.Parallel()
	signed, err := signer(1).SignRoster(rosterOf(2, 7))
	if err != nil {
		t.Fatal(err)
	}
	got, err := signer(1).Verifier().VerifyRoster(signed)
	if err != nil || got != rosterOf(2, 7) {
		t.Errorf("%+v, %v", got, err)
	}
	for name, change := range map[string]func(*distributionv1.SignedRoster){
		"a bit of what it says":  func(s *distributionv1.SignedRoster) { s.Statement[3] ^= 1 },
		"a bit of the signature": func(s *distributionv1.SignedRoster) { s.Signature[3] ^= 1 },
		"no signature":           func(s *distributionv1.SignedRoster) { s.Signature = nil },
		"another key":            func(s *distributionv1.SignedRoster) { s.KeyId[3] ^= 1 },
		"nothing":                func(s *distributionv1.SignedRoster) { s.Statement = nil },
	} {
		bad := proto.CloneOf(signed)
		change(bad)
		if _, err := signer(1).Verifier().VerifyRoster(bad); !errors.Is(err, snapshot.ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := signer(2).Verifier().VerifyRoster(signed); !errors.Is(err, snapshot.ErrSignature) {
		t.Errorf("of somebody else's fleet: %v", err)
	}
}

// What was signed as something else is no roster, whatever its bytes say.
func TestRosterHasADomainOfItsOwn(t *testing.T) {
	t.Parallel()
	signed, err := signer(1).SignRoster(rosterOf(1, 7))
	if err != nil {
		t.Fatal(err)
	}
	signature, key, err := signer(1).SignEnforced(signed.GetStatement())
	if err != nil {
		t.Fatal(err)
	}
	other := &distributionv1.SignedRoster{Statement: signed.GetStatement(), Signature: signature, KeyId: key}
	if _, err := signer(1).Verifier().VerifyRoster(other); !errors.Is(err, snapshot.ErrSignature) {
		t.Errorf("a claim is taken for a roster: %v", err)
	}
	if err := signer(1).Verifier().VerifyEnforced(signed.GetStatement(), signed.GetSignature(), signed.GetKeyId()); err == nil {
		t.Error("a roster is taken for a claim")
	}
}

// A statement that is signed is taken whole, or not at all.
func TestRosterThatMakesNoSense(t *testing.T) {
	t.Parallel()
	private := ed25519.NewKeyFromSeed(slices.Repeat([]byte{1}, ed25519.SeedSize))
	digest := make([]byte, 32)
	at := timestamppb.New(rosterAt)
	unknown, err := proto.Marshal(&distributionv1.RosterStatement{Epoch: 1, Sequence: 1, Digest: digest, IssuedAt: at})
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string][]byte{
		"a field of a later build": protowire.AppendVarint(protowire.AppendTag(unknown, 99, protowire.VarintType), 1),
	}
	for name, m := range map[string]*distributionv1.RosterStatement{
		"no epoch":      {Sequence: 1, Digest: digest, IssuedAt: at},
		"no sequence":   {Epoch: 1, Digest: digest, IssuedAt: at},
		"half a digest": {Epoch: 1, Sequence: 1, Digest: digest[:16], IssuedAt: at},
		"no time":       {Epoch: 1, Sequence: 1, Digest: digest},
	} {
		if cases[name], err = proto.Marshal(m); err != nil {
			t.Fatal(err)
		}
	}
	id := signer(1).Public().ID()
	for name, b := range cases {
		signature := ed25519.Sign(private, append([]byte("sallyport fleet roster v1\x00"), b...))
		_, err := signer(1).Verifier().VerifyRoster(&distributionv1.SignedRoster{Statement: b, Signature: signature, KeyId: id[:]})
		if err == nil || errors.Is(err, snapshot.ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRostersHaveAnOrder(t *testing.T) {
	t.Parallel()
	ordered := []snapshot.Roster{{}, rosterOf(1, 1), rosterOf(1, 2), rosterOf(2, 1)}
	for i, a := range ordered {
		for j, b := range ordered {
			if a.NewerThan(b) != (i > j) {
				t.Errorf("%+v is newer than %+v: %v", a, b, i <= j)
			}
		}
	}
}
