package snapshot_test

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

func of(t testing.TB, kind resource.Kind, name string) snapshot.Entry {
	t.Helper()
	b, err := proto.Marshal(&resourcev1.Document{Kind: string(kind), Namespace: "shop", Name: name, Spec: []byte("a")})
	if err != nil {
		t.Fatal(err)
	}
	e, err := snapshot.NewEntry(b)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// Counts depend on what is in a set, and not on the steps that led to it.
func TestCounts(t *testing.T) {
	kinds := []resource.Kind{resource.KindPolicy, resource.KindRoute, resource.KindUpstream}
	rapid.Check(t, func(rt *rapid.T) {
		model := map[resource.Key]bool{}
		var set *snapshot.Set
		for range rapid.IntRange(0, 60).Draw(rt, "steps") {
			e := of(t, rapid.SampledFrom(kinds).Draw(rt, "kind"), fmt.Sprint(rapid.IntRange(0, 9).Draw(rt, "name")))
			if rapid.Bool().Draw(rt, "remove") {
				set = set.With(nil, []resource.Key{e.Key})
				delete(model, e.Key)
				continue
			}
			set = set.With([]snapshot.Entry{e}, nil)
			model[e.Key] = true
		}
		var want []snapshot.KindCount
		for _, k := range kinds {
			n := 0
			for key := range model {
				if key.Kind == k {
					n++
				}
			}
			if n > 0 {
				want = append(want, snapshot.KindCount{Kind: k, Documents: n})
			}
		}
		if got := set.Counts(); !slices.Equal(got, want) {
			rt.Fatalf("counts are %v, want %v", got, want)
		}
	})
}

// What a head's signer counted has to be there, of each kind. A head without counts
// is one of before.
func TestCountsOfAHead(t *testing.T) {
	set := snapshot.NewSet(of(t, resource.KindPolicy, "a"), of(t, resource.KindPolicy, "b"), of(t, resource.KindRoute, "a"))
	plain := assemble(t, 10, set)
	counted, err := signer(1).Count(plain)
	if err != nil {
		t.Fatal(err)
	}
	another, err := signer(1).Count(assemble(t, 11, set))
	if err != nil {
		t.Fatal(err)
	}
	digest := plain.Head().Digest()
	says := func(of []byte, counts ...int64) *proxyv1.Counts {
		return &proxyv1.Counts{HeadDigest: of, Kinds: []*proxyv1.KindCount{{Kind: "Policy", Documents: counts[0]}, {Kind: "Route", Documents: counts[1]}}}
	}
	// claim is the head with other counts, signed as its signer would.
	claim := func(m *proxyv1.Counts) func(*proxyv1.SignedHead) {
		return func(h *proxyv1.SignedHead) {
			h.Counts, _ = proto.Marshal(m)
			h.CountsSignature = ed25519.Sign(ed25519.NewKeyFromSeed(slices.Repeat([]byte{1}, 32)), append([]byte("sallyport counts v1\x00"), h.GetCounts()...))
		}
	}
	for _, c := range []struct {
		name   string
		change func(*proxyv1.SignedHead)
		want   error // errAny: any
	}{
		{"as counted", func(*proxyv1.SignedHead) {}, nil},
		{"counted again by hand", claim(says(digest[:], 2, 1)), nil},
		{"one policy more than there is", claim(says(digest[:], 3, 1)), snapshot.ErrCounts},
		{"one policy for a route", claim(says(digest[:], 1, 2)), snapshot.ErrCounts},
		{"a kind is left out", claim(&proxyv1.Counts{HeadDigest: digest[:], Kinds: []*proxyv1.KindCount{{Kind: "Policy", Documents: 2}}}), snapshot.ErrCounts},
		{"there is nothing", claim(&proxyv1.Counts{HeadDigest: digest[:]}), snapshot.ErrCounts},
		{"of another head", func(h *proxyv1.SignedHead) {
			h.Counts, h.CountsSignature = another.Head().Signed().GetCounts(), another.Head().Signed().GetCountsSignature()
		}, snapshot.ErrSignature},
		{"of no head", claim(says(nil, 2, 1)), snapshot.ErrSignature},
		{"a bit flipped", func(h *proxyv1.SignedHead) { h.Counts[len(h.Counts)-1] ^= 1 }, snapshot.ErrSignature},
		{"not signed", func(h *proxyv1.SignedHead) { h.CountsSignature = nil }, snapshot.ErrSignature},
		{"signed as a head is", func(h *proxyv1.SignedHead) { h.Counts, h.CountsSignature = h.GetHead(), h.GetSignature() }, snapshot.ErrSignature},
		{"taken away", func(h *proxyv1.SignedHead) { h.Counts, h.CountsSignature = nil, nil }, nil},
		{"with a field of later", func(h *proxyv1.SignedHead) {
			m := says(digest[:], 2, 1)
			m.ProtoReflect().SetUnknown([]byte{0x78, 1})
			claim(m)(h)
		}, errAny},
	} {
		signed := proto.CloneOf(counted.Head().Signed())
		c.change(signed)
		head, err := signer(1).Verifier().VerifyHead(signed)
		if err == nil {
			_, err = snapshot.Assemble(head, set)
		}
		var update snapshot.Assembly
		part := slices.Collect(snapshot.Updates(nil, counted))[0]
		part.Head = signed
		_, taken := update.Add(signer(1).Verifier(), nil, part)
		if errors.Is(c.want, errAny) && err != nil && taken != nil {
			continue
		}
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		// With its documents it need not be signed what anybody can count.
		if c.name != "not signed" && !errors.Is(taken, c.want) || c.name == "not signed" && taken != nil {
			t.Errorf("%s: in an update %v, want %v", c.name, taken, c.want)
		}
		if err == nil && head.Digest() != digest {
			t.Errorf("%s: it is another head", c.name)
		}
	}
	if again, err := signer(1).Count(counted); err != nil || again != counted {
		t.Errorf("what was counted is counted again: %v", err)
	}
}

// BenchmarkUpdate is what a proxy does of a change before it compiles that.
func BenchmarkUpdate(b *testing.B) {
	set := snapshot.NewSet(entries(b, 0, 1000, "a")...)
	count := func(revision snapshot.Revision, set *snapshot.Set) *snapshot.Snapshot {
		s, err := signer(1).Count(assemble(b, revision, set))
		if err != nil {
			b.Fatal(err)
		}
		return s
	}
	before, v := count(10, set), signer(1).Verifier()
	part := slices.Collect(snapshot.Updates(before, count(11, set.With(entries(b, 0, 1, "b"), nil))))[0]
	for b.Loop() {
		var update snapshot.Assembly
		if _, err := update.Add(v, before, part); err != nil {
			b.Fatal(err)
		}
	}
}

var errAny = errors.New("any")
