package revocation_test

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"testing"
	"time"
	"weak"

	"pgregory.net/rapid"

	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/revocation"
	"github.com/sallyport/sallyport/internal/snapshot"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// world is the documents of the lane, by name.
type world map[string][]byte

func (w world) documents() (all [][]byte) {
	for _, name := range slices.Sorted(maps.Keys(w)) {
		all = append(all, w[name])
	}
	return all
}

// change adds, replaces, spoils or removes a revocation.
func (w world) change(t *rapid.T) {
	t.Helper()
	pick := func(label string, from ...string) string { return rapid.SampledFrom(from).Draw(t, label) }
	name := pick("name", "a", "b", "c", "d", "e", "f", "g", "h")
	if rapid.IntRange(0, 3).Draw(t, "remove") == 0 {
		delete(w, name)
		return
	}
	issuer, id := pick("issuer", "x", "y"), pick("id", "1", "2")
	before := pick("issued before", "09:00", "11:00")
	spec := pick("kind",
		fmt.Sprintf(`token: {issuer: %s, id: "%s"}`, issuer, id), fmt.Sprintf(`subject: {issuer: %s, id: "%s"}`, issuer, id),
		fmt.Sprintf(`session: {issuer: %s, id: "%s"}`, issuer, id), fmt.Sprintf(`key: "%s"`, id),
		fmt.Sprintf(`spiffeId: "spiffe://a/%s"`, id),
		fmt.Sprintf(`issuer: %s, issuedBefore: "2026-01-31T%s:00Z"`, issuer, before),
		fmt.Sprintf(`everyone: true, issuedBefore: "2026-01-31T%s:00Z"`, before))
	if rapid.Bool().Draw(t, "expires") {
		spec += fmt.Sprintf(`, expiresAt: "2026-01-31T%s:00Z"`, pick("expires at", "12:00", "13:00"))
	}
	w[name] = document(t, name, spec)
	if rapid.IntRange(0, 9).Draw(t, "spoil") == 0 {
		w[name] = edited(t, w[name], func(d *resourcev1.Document) { d.Spec = append(d.Spec, newer()...) })
	}
}

// everybody is every principal that revocations of a world may mean.
func everybody() (all []*policy.Principal) {
	for _, issued := range []time.Time{{}, noon.Add(-4 * time.Hour), noon.Add(-2 * time.Hour), noon} {
		for _, id := range []string{"1", "2", "3"} {
			for _, issuer := range []string{"x", "y"} {
				all = append(all,
					&policy.Principal{Kind: policy.User, Issuer: issuer, ID: "9", TokenID: id, IssuedAt: issued},
					&policy.Principal{Kind: policy.User, Issuer: issuer, ID: id, IssuedAt: issued},
					&policy.Principal{Kind: policy.User, Issuer: issuer, ID: "9", Session: id, SPIFFEID: "spiffe://a/" + id, IssuedAt: issued},
				)
			}
			all = append(all, &policy.Principal{Kind: policy.Key, ID: id, KeyID: id, IssuedAt: issued},
				&policy.Principal{Kind: policy.Workload, ID: "spiffe://a/" + id, SPIFFEID: "spiffe://a/" + id, IssuedAt: issued})
		}
	}
	return append(all, nil)
}

// answers are what a set says of everybody, at noon and an hour later.
func answers(s *revocation.Set) (all []string) {
	for _, p := range everybody() {
		for _, at := range []time.Time{noon, noon.Add(time.Hour)} {
			name, revoked := s.Revoked(p, at)
			all = append(all, fmt.Sprintf("%v at %s: %t %s", p, at.Format("15:04"), revoked, name))
		}
	}
	return all
}

// A set made from the one before is the set made from nothing.
func TestCompilingOnIsCompilingAnew(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := world{}
		set := revocation.Compile(nil, snap(t, 1, nil))
		for sequence := range rapid.IntRange(1, 8).Draw(t, "sequences") {
			for range rapid.IntRange(0, 4).Draw(t, "changes") {
				w.change(t)
			}
			s := snap(t, sequence+2, w.documents())
			before := answers(set)
			next, anew := revocation.Compile(set, s), revocation.Compile(nil, s)
			if !slices.Equal(answers(set), before) {
				t.Fatalf("the set before has changed")
			}
			checkRoot(t, set)
			set = next
			if got, want := answers(set), answers(anew); !slices.Equal(got, want) {
				t.Fatalf("answers %v, anew %v", got, want)
			}
			if got, want := fmt.Sprint(set.Rejects()), fmt.Sprint(anew.Rejects()); got != want {
				t.Fatalf("rejects %s, anew %s", got, want)
			}
			checkRoot(t, set)
			if set.Snapshot() != s {
				t.Fatalf("is of another snapshot")
			}
		}
	})
}

// However many there are, each cuts off its own and nobody else, and when one is
// taken back, that one alone passes.
func TestAmongMany(t *testing.T) {
	const many, back = 5000, 42
	entries := large(t, many)
	set := revocation.Compile(nil, assemble(t, 1, snapshot.NewSet(entries...)))
	checkRoot(t, set)
	next := revocation.Compile(set, assemble(t, 2, set.Snapshot().Set().With(nil, []resource.Key{entries[back].Key})))
	checkRoot(t, next)
	for i := range many {
		p := &policy.Principal{Kind: policy.User, Issuer: login, ID: fmt.Sprintf("user-%d", i), TokenID: fmt.Sprintf("token-%d", i)}
		for of, s := range map[string]*revocation.Set{"all": set, "all but one": next} {
			name, revoked := s.Revoked(p, noon)
			if passes := of == "all but one" && i == back; revoked == passes || revoked && name != fmt.Sprintf("r-%d", i) {
				t.Fatalf("%s: %d is revoked: %t, by %q", of, i, revoked, name)
			}
		}
	}
}

// A proxy lives through many changes: no set may hold on to those before.
func TestSetsDoNotHoldTheirPredecessors(t *testing.T) {
	set := compiled(t, everyKind...)
	first := weak.Make(set)
	for i := range 3 {
		set = revocation.Compile(set, snap(t, i+2, documents(t, append(slices.Clone(everyKind), fmt.Sprintf("more: key: k-%d", i))...)))
	}
	runtime.GC()
	if first.Value() != nil {
		t.Error("the first set is still there")
	}
	runtime.KeepAlive(set)
}
