package snapshot_test

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

func entry(t testing.TB, name, spec string) snapshot.Entry {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&resourcev1.Document{
		Kind: "Route", Namespace: "shop", Name: name, Spec: []byte(spec),
	})
	if err != nil {
		t.Fatal(err)
	}
	e, err := snapshot.NewEntry(b)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func entries(t testing.TB, from, to int, spec string) []snapshot.Entry {
	t.Helper()
	var all []snapshot.Entry
	for i := from; i < to; i++ {
		all = append(all, entry(t, fmt.Sprintf("r%d", i), spec))
	}
	return all
}

func key(name string) resource.Key {
	return resource.Key{Kind: resource.KindRoute, Namespace: "shop", Name: name}
}

func signer(seed byte) *snapshot.Signer {
	return snapshot.NewSigner(ed25519.NewKeyFromSeed(slices.Repeat([]byte{seed}, ed25519.SeedSize)))
}

func statement(revision snapshot.Revision, set *snapshot.Set) snapshot.Statement {
	return snapshot.Statement{
		Epoch: 1, Environment: "aws", Revision: revision, Root: set.Root(), Documents: set.Len(),
	}
}

func assemble(t testing.TB, revision snapshot.Revision, set *snapshot.Set) *snapshot.Snapshot {
	t.Helper()
	head, err := signer(1).SignHead(statement(revision, set))
	if err != nil {
		t.Fatal(err)
	}
	s, err := snapshot.Assemble(head, set)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The root depends on what is in a set and on nothing else: not on the order
// or the number of the steps that led to it.
func TestRootIsAFunctionOfTheContent(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		model := map[string]string{}
		var set *snapshot.Set
		for range rapid.IntRange(0, 40).Draw(rt, "steps") {
			name := fmt.Sprintf("r%d", rapid.IntRange(0, 12).Draw(rt, "name"))
			if rapid.Bool().Draw(rt, "remove") {
				set = set.With(nil, []resource.Key{key(name)})
				delete(model, name)
				continue
			}
			spec := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "spec")
			set = set.With([]snapshot.Entry{entry(t, name, spec)}, nil)
			model[name] = spec
		}
		var fresh []snapshot.Entry
		for name, spec := range model {
			fresh = append(fresh, entry(t, name, spec))
		}
		if got, want := set.Root(), snapshot.NewSet(fresh...).Root(); got != want {
			rt.Fatalf("root %v after steps, %v when built at once", got, want)
		}
		if set.Len() != len(model) {
			rt.Fatalf("set has %d documents, want %d", set.Len(), len(model))
		}
	})
}

func TestRootTellsSetsApart(t *testing.T) {
	base := snapshot.NewSet(entries(t, 0, 3, "a")...)
	for name, other := range map[string]*snapshot.Set{
		"empty":             nil,
		"one less":          base.With(nil, []resource.Key{key("r1")}),
		"one more":          base.With(entries(t, 3, 4, "a"), nil),
		"another content":   base.With([]snapshot.Entry{entry(t, "r1", "b")}, nil),
		"renamed":           base.With([]snapshot.Entry{entry(t, "r9", "a")}, []resource.Key{key("r1")}),
		"contents swapped":  snapshot.NewSet(entry(t, "r0", "b"), entry(t, "r1", "a"), entry(t, "r2", "a")),
		"contents swapped2": snapshot.NewSet(entry(t, "r0", "a"), entry(t, "r1", "b"), entry(t, "r2", "a")),
	} {
		if other.Root() == base.Root() {
			t.Errorf("%s: same root as the base", name)
		}
	}
}

// Whatever two snapshots an update leads between, it arrives, in parts or
// whole.
func TestUpdatesArrive(t *testing.T) {
	big := string(slices.Repeat([]byte{'x'}, 100<<10))
	from := assemble(t, 1, snapshot.NewSet(entries(t, 0, 40, "a")...))
	for name, next := range map[string]*snapshot.Set{
		"nothing changed":  from.Set(),
		"one changed":      from.Set().With(entries(t, 3, 4, "b"), nil),
		"one removed":      from.Set().With(nil, []resource.Key{key("r7")}),
		"all removed":      snapshot.NewSet(),
		"in several parts": from.Set().With(entries(t, 30, 60, big), []resource.Key{key("r0")}),
	} {
		for _, base := range []*snapshot.Snapshot{nil, from} {
			want := assemble(t, 2, next)
			var a snapshot.Assembly
			var got *snapshot.Snapshot
			parts := 0
			for part := range snapshot.Updates(base, want) {
				if got != nil {
					t.Fatalf("%s: a part after the last", name)
				}
				if size := proto.Size(part); size > snapshot.MaxPart {
					t.Fatalf("%s: part of %d bytes", name, size)
				}
				var err error
				if got, err = a.Add(signer(1).Verifier(), base, part); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				parts++
			}
			if got == nil || got.Set().Root() != next.Root() || got.Head().Revision != 2 {
				t.Errorf("%s: did not arrive", name)
			}
			if name == "in several parts" && parts < 2 {
				t.Errorf("%s: came in %d parts", name, parts)
			}
		}
	}
}

// A delta of one document among many carries that document only.
func TestUpdateIsAsSmallAsTheChange(t *testing.T) {
	from := assemble(t, 1, snapshot.NewSet(entries(t, 0, 1000, "a")...))
	next := assemble(t, 2, from.Set().With(entries(t, 3, 4, "b"), nil))
	parts := slices.Collect(snapshot.Updates(from, next))
	if len(parts) != 1 || len(parts[0].GetDocuments()) != 1 || len(parts[0].GetRemoved()) != 0 {
		t.Errorf("update has %d parts, want one with one document", len(parts))
	}
}

func TestHostileUpdatesAreRefused(t *testing.T) {
	base := assemble(t, 1, snapshot.NewSet(entries(t, 0, 10, "a")...))
	next := assemble(t, 2, base.Set().With(entries(t, 3, 4, "b"), nil))
	good := func() *proxyv1.Update {
		for part := range snapshot.Updates(base, next) {
			return proto.CloneOf(part)
		}
		return nil
	}
	foreign, err := signer(2).SignHead(next.Head().Statement)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		tamper func(*proxyv1.Update)
		want   error
	}{
		{"as it was sent", func(*proxyv1.Update) {}, nil},
		{"a bit flipped in a document", func(u *proxyv1.Update) { d := u.Documents[0]; d[len(d)-1] ^= 1 }, snapshot.ErrRoot},
		{"a document left out", func(u *proxyv1.Update) { u.Documents = nil }, snapshot.ErrRoot},
		{"a document too many", func(u *proxyv1.Update) {
			u.Documents = append(u.Documents, entry(t, "r99", "a").Document)
		}, snapshot.ErrRoot},
		{"a removal too many", func(u *proxyv1.Update) {
			u.Removed = append(u.Removed, &proxyv1.DocumentKey{Kind: "Route", Namespace: "shop", Name: "r5"})
		}, snapshot.ErrRoot},
		{"a bit flipped in the head", func(u *proxyv1.Update) { u.Head.Head[3] ^= 1 }, snapshot.ErrSignature},
		{"a bit flipped in the signature", func(u *proxyv1.Update) { u.Head.Signature[0] ^= 1 }, snapshot.ErrSignature},
		{"no signature", func(u *proxyv1.Update) { u.Head.Signature = nil }, snapshot.ErrSignature},
		{"signed by another key", func(u *proxyv1.Update) { u.Head = foreign.Signed() }, snapshot.ErrSignature},
		{"on another base", func(u *proxyv1.Update) { u.BaseRoot[0] ^= 1 }, snapshot.ErrBase},
		{"delta said to be a full snapshot", func(u *proxyv1.Update) { u.BaseRoot = nil }, snapshot.ErrRoot},
	} {
		part := good()
		c.tamper(part)
		var a snapshot.Assembly
		_, err := a.Add(signer(1).Verifier(), base, part)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if got, err := a.Add(signer(1).Verifier(), base, good()); err != nil || got == nil {
			t.Errorf("%s: the next good update: %v", c.name, err)
		}
	}
}

// A head that says more than this build understands is not acted on.
func TestHeadWithUnknownFieldIsRefused(t *testing.T) {
	head, err := signer(1).SignHead(statement(1, nil))
	if err != nil {
		t.Fatal(err)
	}
	key := ed25519.NewKeyFromSeed(slices.Repeat([]byte{1}, ed25519.SeedSize))
	sign := func(b []byte) *proxyv1.SignedHead {
		return &proxyv1.SignedHead{Head: b, Signature: ed25519.Sign(key, append([]byte("sallyport head v1\x00"), b...))}
	}
	if _, err := signer(1).Verifier().VerifyHead(sign(head.Signed().GetHead())); err != nil {
		t.Fatalf("the head itself: %v", err)
	}
	extended := append(slices.Clone(head.Signed().GetHead()), 0xa8, 0x06, 0x01) // field 101 = 1
	if _, err := signer(1).Verifier().VerifyHead(sign(extended)); err == nil {
		t.Error("accepted a head with an unknown field")
	}
}

// What was signed as freshness never passes as a head, whatever its bytes.
func TestSignaturesDoNotCross(t *testing.T) {
	f, err := signer(1).SignFreshness(snapshot.Freshness{
		Epoch: 1, Environment: "aws", Revision: 7, HeadDigest: snapshot.Digest{1}, IssuedAt: time.Unix(1, 0),
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := signer(1).Verifier().VerifyFreshness(f); err != nil || got.Revision != 7 || !got.IssuedAt.Equal(time.Unix(1, 0)) {
		t.Errorf("freshness came back as %+v, %v", got, err)
	}
	asHead := &proxyv1.SignedHead{Head: f.GetStatement(), Signature: f.GetSignature()}
	if _, err := signer(1).Verifier().VerifyHead(asHead); !errors.Is(err, snapshot.ErrSignature) {
		t.Errorf("freshness as head: %v, want ErrSignature", err)
	}
}

func TestReplaceRefusesEntriesOfOtherBuckets(t *testing.T) {
	set := snapshot.NewSet(entries(t, 0, 50, "a")...)
	var rebuilt *snapshot.Set
	for b := range set.Buckets() {
		rebuilt = rebuilt.Replace(b.Index, b.Entries)
		if set.Replace((b.Index+1)%snapshot.BucketCount, b.Entries) != nil {
			t.Fatalf("bucket %d was taken as bucket %d", b.Index, b.Index+1)
		}
		if set.Replace(b.Index, append(slices.Clone(b.Entries), b.Entries[0])) != nil {
			t.Fatal("took a duplicate")
		}
	}
	if rebuilt.Root() != set.Root() {
		t.Error("rebuilt from its buckets, the set has another root")
	}
}

func BenchmarkChangeOneOf100000(b *testing.B) {
	set := snapshot.NewSet(entries(b, 0, 100_000, "a")...)
	change := entries(b, 77, 78, "b")
	for b.Loop() {
		set.With(change, nil).Root()
	}
}
