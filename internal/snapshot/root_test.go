package snapshot_test

import (
	"math/rand/v2"
	"testing"

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
