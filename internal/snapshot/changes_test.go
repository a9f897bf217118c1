package snapshot_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
)

// What is said to turn one set into another does, and is no more than it takes.
func TestChangesTurnOneSetIntoTheOther(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	random := func() (s *snapshot.Set, held map[resource.Key]snapshot.Digest) {
		held = map[resource.Key]snapshot.Digest{}
		var all []snapshot.Entry
		for i := range 300 {
			if r.IntN(3) > 0 {
				e := entry(t, fmt.Sprint("e-", i), fmt.Sprint("spec ", r.IntN(2)))
				held[e.Key], all = e.Digest, append(all, e)
			}
		}
		return snapshot.NewSet(all...), held
	}
	for range 50 {
		from, had := random()
		to, has := random()
		upserts, removed := from.Changes(to)
		if got := from.With(upserts, removed).Root(); got != to.Root() {
			t.Fatal("another set comes out")
		}
		for _, e := range upserts {
			if had[e.Key] == has[e.Key] {
				t.Fatalf("%s is sent, and is the same", e.Key)
			}
		}
		for _, key := range removed {
			if had[key].IsZero() {
				t.Fatalf("%s is removed, and was not there", key)
			}
		}
	}
}

// Sets that follow from each other share what did not change.
func TestSetsShareMemory(t *testing.T) {
	t.Parallel()
	const each = 1000 // bytes of a document, and more
	all := snapshot.NewSet(entries(t, 0, 5000, string(make([]byte, each)))...)
	next := all.With([]snapshot.Entry{entry(t, "r0", "small")}, nil)
	if got := all.Apart(all); got != 0 {
		t.Errorf("%d bytes apart from itself", got)
	}
	if got := all.Apart(nil); got < 5000*each {
		t.Errorf("%d bytes apart from nothing", got)
	}
	if got := all.Apart(next); got > 20_000 {
		t.Errorf("%d bytes apart from one that differs in one document", got)
	}
}
