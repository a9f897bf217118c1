package snapshot_test

import (
	"math/rand/v2"
	"testing"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
)

func TestRootOfIsTheRootOfTheSet(t *testing.T) {
	if snapshot.RootOf(nil) != snapshot.NewSet().Root() {
		t.Error("nothing has another root than the empty set")
	}
	all := entries(t, 0, 2000, "a")
	set := snapshot.NewSet(all...)
	var ordered []*snapshot.Entry
	for e := range set.All() {
		ordered = append(ordered, &e)
	}
	if snapshot.RootOf(ordered) != set.Root() {
		t.Error("in order it is another root")
	}
	r := rand.New(rand.NewPCG(1, 2))
	r.Shuffle(len(ordered)/2, func(i, j int) { ordered[i*2], ordered[j*2] = ordered[j*2], ordered[i*2] })
	if snapshot.RootOf(ordered) != set.Root() {
		t.Error("half shuffled it is another root")
	}
	if snapshot.RootOf(ordered[1:]) == set.Root() {
		t.Error("one less has the same root")
	}
}

// Whatever changes, sums made of those before are those made of nothing.
func TestSumsAreThoseOfTheSet(t *testing.T) {
	const n = 2000
	versions := [2][]snapshot.Entry{entries(t, 0, n, "a"), entries(t, 0, n, "b")}
	r := rand.New(rand.NewPCG(1, 2))
	current := map[resource.Key]*snapshot.Entry{}
	var sums *snapshot.Sums
	for range 50 {
		for range 100 {
			e := &versions[r.IntN(2)][r.IntN(n)]
			if current[e.Key] = e; r.IntN(3) == 0 {
				delete(current, e.Key)
			}
		}
		all := make([]snapshot.Entry, 0, len(current))
		for _, e := range current {
			all = append(all, *e)
		}
		set := snapshot.NewSet(all...)
		var ordered, others snapshot.Spread
		for e := range set.All() {
			if e.Key.Name[1] < '5' {
				ordered.Add(current[e.Key])
			}
		}
		for key, e := range current {
			if key.Name[1] >= '5' {
				others.Add(e)
			}
		}
		if sums = snapshot.Sum(sums, &ordered, &others); sums.Root() != set.Root() {
			t.Fatal("it is another root")
		}
	}
	if snapshot.Sum(sums, &snapshot.Spread{}, &snapshot.Spread{}).Root() != snapshot.NewSet().Root() {
		t.Error("nothing has another root than the empty set")
	}
}
