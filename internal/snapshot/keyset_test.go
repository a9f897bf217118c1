package snapshot_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// curve returns a signer whose key is on P-256.
func curve(t testing.TB) *snapshot.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return snapshot.NewSigner(key)
}

// change is who signs a set of whose keys.
type change struct {
	by   *snapshot.Signer
	keys []*snapshot.Signer
}

// chain returns the sets that changes make, one after the other.
func chain(t testing.TB, changes ...change) []*proxyv1.SignedKeySet {
	t.Helper()
	var last snapshot.KeySet
	var sets []*proxyv1.SignedKeySet
	for _, c := range changes {
		var keys []snapshot.PublicKey
		for _, k := range c.keys {
			keys = append(keys, k.Public())
		}
		next, err := c.by.SignKeySet(last, keys...)
		if err != nil {
			t.Fatal(err)
		}
		sets, last = append(sets, next.Signed()), next
	}
	return sets
}

func signed(t testing.TB, by *snapshot.Signer) *proxyv1.SignedHead {
	t.Helper()
	head, err := by.SignHead(statement(7, snapshot.NewSet()))
	if err != nil {
		t.Fatal(err)
	}
	return head.Signed()
}

func TestKeysAreRotated(t *testing.T) {
	first, second, third := signer(1), curve(t), signer(3)
	sets := chain(t,
		change{first, []*snapshot.Signer{first, second}},
		change{second, []*snapshot.Signer{second}},
		change{second, []*snapshot.Signer{second, third}},
		change{third, []*snapshot.Signer{third}},
	)
	v := first.Verifier()
	for generation, trusted := range [][]*snapshot.Signer{{first}, {first, second}, {second}, {second, third}, {third}} {
		if generation > 0 {
			if n, err := v.Extend(sets[:generation]); n != 1 || err != nil {
				t.Fatalf("generation %d: %d taken, %v", generation, n, err)
			}
		}
		if got := v.Newest().Generation; got != snapshot.Generation(generation) {
			t.Errorf("newest is generation %d, not %d", got, generation)
		}
		for i, s := range []*snapshot.Signer{first, second, third} {
			want := slices.Contains(trusted, s)
			if _, err := v.VerifyHead(signed(t, s)); (err == nil) != want {
				t.Errorf("generation %d: head of key %d: %v", generation, i+1, err)
			}
			if v.Trusts(s.Public().ID()) != want {
				t.Errorf("generation %d: key %d is trusted: %v", generation, i+1, !want)
			}
		}
	}
	if _, err := v.VerifyHead(signed(t, first)); !errors.Is(err, snapshot.ErrRetired) || !errors.Is(err, snapshot.ErrSignature) {
		t.Errorf("a retired key: %v", err)
	}
	if _, err := v.Past().VerifyHead(signed(t, first)); err != nil {
		t.Errorf("what was kept since the key was good: %v", err)
	}
	if _, err := v.Past().VerifyHead(signed(t, signer(4))); !errors.Is(err, snapshot.ErrSignature) {
		t.Errorf("a key that never was: %v", err)
	}
	if _, err := first.Verifier().Past().VerifyHead(signed(t, third)); !errors.Is(err, snapshot.ErrSignature) {
		t.Errorf("a key that is not known yet: %v", err)
	}
}

func TestLaterKeyIsPinned(t *testing.T) {
	first, second, third := signer(1), signer(2), signer(3)
	sets := chain(t,
		change{first, []*snapshot.Signer{first, second}},
		change{second, []*snapshot.Signer{second}},
		change{second, []*snapshot.Signer{second, third}},
	)
	v := second.Verifier()
	if n, err := v.Extend(sets[:1]); n != 0 || err != nil {
		t.Errorf("%d taken that the pinned key has not signed: %v", n, err)
	}
	if n, err := v.Extend(sets); n != 2 || err != nil {
		t.Fatalf("%d taken, %v", n, err)
	}
	if n, err := v.Extend(sets); n != 0 || err != nil {
		t.Errorf("the same again: %d taken, %v", n, err)
	}
	if _, err := v.VerifyHead(signed(t, third)); err != nil {
		t.Error(err)
	}
	if _, err := v.VerifyHead(signed(t, first)); err == nil {
		t.Error("a key before the pinned one verifies")
	}
}

func TestHostileKeySetsAreRefused(t *testing.T) {
	first, second, thief := signer(1), signer(2), signer(9)
	sets := chain(t, change{first, []*snapshot.Signer{first, second}}, change{second, []*snapshot.Signer{second}})
	other := chain(t, change{first, []*snapshot.Signer{thief}}, change{thief, []*snapshot.Signer{thief, second}})
	known, err := snapshot.ParseKeySet(sets[1])
	if err != nil {
		t.Fatal(err)
	}
	sign := func(by byte, m *proxyv1.KeySet) *proxyv1.SignedKeySet { return signKeySet(t, by, m) }
	digest, der := known.Digest(), thief.Public().DER()
	next := func(change func(*proxyv1.KeySet)) *proxyv1.KeySet {
		m := &proxyv1.KeySet{Generation: 3, Previous: digest[:], Keys: [][]byte{der}}
		change(m)
		return m
	}
	same := func(*proxyv1.KeySet) {}
	unknown := next(same)
	unknown.ProtoReflect().SetUnknown(protowire.AppendTag(nil, 99, protowire.BytesType))
	flipped := sign(2, next(same))
	flipped.Set[len(flipped.Set)-1] ^= 1
	for name, c := range map[string]struct {
		set *proxyv1.SignedKeySet
		is  error // nil: any
	}{
		"by a retired key":             {sign(1, next(same)), snapshot.ErrRetired},
		"by a key of its own":          {sign(9, next(same)), snapshot.ErrSignature},
		"by nobody":                    {&proxyv1.SignedKeySet{Set: sign(2, next(same)).GetSet()}, snapshot.ErrSignature},
		"under the name of a good key": {&proxyv1.SignedKeySet{Set: flipped.GetSet(), Signature: sign(9, next(same)).GetSignature(), KeyId: flipped.GetKeyId()}, nil},
		"one bit of it changed":        {flipped, nil},
		"another first":                {other[0], snapshot.ErrKeySetFork},
		"another second":               {other[1], snapshot.ErrKeySetFork},
		"after another one":            {sign(2, next(func(m *proxyv1.KeySet) { m.Previous = make([]byte, 32) })), snapshot.ErrKeySetFork},
		"beyond the next":              {sign(2, next(func(m *proxyv1.KeySet) { m.Generation = 4 })), nil},
		"beyond all":                   {sign(2, next(func(m *proxyv1.KeySet) { m.Generation = snapshot.MaxGenerations + 1 })), nil},
		"generation 0":                 {sign(2, next(func(m *proxyv1.KeySet) { m.Generation = 0 })), nil},
		"without keys":                 {sign(2, next(func(m *proxyv1.KeySet) { m.Keys = nil })), nil},
		"a key twice":                  {sign(2, next(func(m *proxyv1.KeySet) { m.Keys = [][]byte{der, der} })), nil},
		"a key that is none":           {sign(2, next(func(m *proxyv1.KeySet) { m.Keys = [][]byte{der[1:]} })), nil},
		"a key with more behind it":    {sign(2, next(func(m *proxyv1.KeySet) { m.Keys = [][]byte{append(slices.Clone(der), 0)} })), nil},
		"a field of a later build":     {sign(2, unknown), nil},
		"nothing":                      {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			v := first.Verifier()
			if n, err := v.Extend(sets); n != 2 || err != nil {
				t.Fatal(n, err)
			}
			n, err := v.Extend([]*proxyv1.SignedKeySet{sets[0], c.set, sign(2, next(same))})
			if n != 0 || err == nil || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("%d taken: %v", n, err)
			}
			if v.Newest().Digest() != known.Digest() || v.Trusts(thief.Public().ID()) {
				t.Error("it has left something behind")
			}
		})
	}
	v := first.Verifier()
	if n, err := v.Extend(append(sets, sign(2, next(same)))); n != 3 || err != nil {
		t.Errorf("the set that all those spoil is refused: %v", err)
	}
}

// signKeySet signs a set with the key of a seed, whatever it says.
func signKeySet(t testing.TB, seed byte, m *proxyv1.KeySet) *proxyv1.SignedKeySet {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	id := signer(seed).Public().ID()
	private := ed25519.NewKeyFromSeed(slices.Repeat([]byte{seed}, ed25519.SeedSize))
	return &proxyv1.SignedKeySet{Set: b, Signature: ed25519.Sign(private, append([]byte("sallyport key set v1\x00"), b...)), KeyId: id[:]}
}

func TestSignHeadAgain(t *testing.T) {
	first, second := signer(1), curve(t)
	head, err := first.SignHead(statement(7, snapshot.NewSet()))
	if err != nil {
		t.Fatal(err)
	}
	again, err := second.SignHeadAgain(head)
	if err != nil {
		t.Fatal(err)
	}
	if again.Digest() != head.Digest() || again.Key() == head.Key() || again.Statement != head.Statement {
		t.Error("it is another head, or has the same signature")
	}
	got, err := second.Verifier().VerifyHead(again.Signed())
	if err != nil || got.Digest() != head.Digest() || got.Key() != second.Public().ID() {
		t.Errorf("it verifies as %v: %v", got.Statement, err)
	}
}

// What was signed before there were IDs of keys is of the pinned key.
func TestSignatureWithoutKeyID(t *testing.T) {
	v := signer(1).Verifier()
	old := signed(t, signer(1))
	old.KeyId = nil
	if _, err := v.VerifyHead(old); err != nil {
		t.Error(err)
	}
	other := signed(t, signer(2))
	other.KeyId = nil
	if _, err := v.VerifyHead(other); !errors.Is(err, snapshot.ErrSignature) {
		t.Errorf("of another key: %v", err)
	}
	odd := signed(t, signer(1))
	odd.KeyId = odd.KeyId[1:]
	if _, err := v.VerifyHead(odd); !errors.Is(err, snapshot.ErrSignature) {
		t.Errorf("with half an ID: %v", err)
	}
}

func TestOnlySomeKeysSign(t *testing.T) {
	large, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	odd, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.PublicKey{
		"RSA": large.Public(), "P-384": odd.Public(), "nothing": nil, "short": ed25519.PublicKey{1},
	} {
		if k, err := snapshot.NewPublicKey(key); err == nil {
			t.Errorf("%s: is taken as %s", name, k.Type())
		}
	}
	if _, err := curve(t).SignKeySet(snapshot.KeySet{}); err == nil {
		t.Error("a set without keys is signed")
	}
	sets := chain(t, change{signer(1), []*snapshot.Signer{signer(2)}})
	set, err := snapshot.ParseKeySet(sets[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signer(1).SignKeySet(set, signer(1).Public()); !errors.Is(err, snapshot.ErrSignature) {
		t.Errorf("a key that is gone signs the next set: %v", err)
	}
}

// broken is a key whose hardware is away.
type broken struct{ crypto.Signer }

var errAway = errors.New("the module is away")

func (broken) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return nil, errAway }

func TestSigningFails(t *testing.T) {
	s := snapshot.NewSigner(broken{ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))})
	if _, err := s.SignHead(statement(1, snapshot.NewSet())); !errors.Is(err, errAway) || !errors.Is(err, snapshot.ErrSigning) {
		t.Errorf("head: %v", err)
	}
	if _, err := s.SignFreshness(snapshot.Freshness{IssuedAt: time.Unix(1, 0)}); !errors.Is(err, errAway) {
		t.Errorf("freshness: %v", err)
	}
	if _, err := s.SignKeySet(snapshot.KeySet{}, s.Public()); !errors.Is(err, errAway) {
		t.Errorf("key set: %v", err)
	}
}

func TestKeyIDIsWhatOpenSSLSays(t *testing.T) {
	k := signer(1).Public()
	if k.ID() != snapshot.KeyID(sha256.Sum256(k.DER())) || len(k.ID().Short()) != 12 {
		t.Errorf("key %s", k.ID())
	}
	back, err := snapshot.ParsePublicKey(k.DER())
	if err != nil || back.ID() != k.ID() {
		t.Errorf("parsed again: %v", err)
	}
}

func FuzzKeySet(f *testing.F) {
	sets := chain(f, change{signer(1), []*snapshot.Signer{signer(1), curve(f)}})
	f.Add(sets[0].GetSet())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := snapshot.ParseKeySet(&proxyv1.SignedKeySet{Set: b})
		if err != nil {
			return
		}
		if s.Generation < 1 || s.Generation > snapshot.MaxGenerations || len(s.Keys()) < 1 || len(s.Keys()) > snapshot.MaxKeys {
			t.Errorf("generation %d with %d keys", s.Generation, len(s.Keys()))
		}
	})
}
