package compile_test

import (
	"slices"
	"testing"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/snapshot"
)

// Whatever a document holds, compiling it beside the fleet ends and rejects or
// enforces it; one that is rejected, and replaces none, lets nobody in.
func FuzzCompile(f *testing.F) {
	base := documents(f, fleet)
	for _, b := range base {
		f.Add(b)
		f.Add(spoil(f, b, newField))
		f.Add(spoil(f, b, noSpec))
	}
	before := compile.Compile(nil, snap(f, 1, base))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := snapshot.NewEntry(b)
		if err != nil {
			return
		}
		table := compile.Compile(before, snap(t, 2, append(slices.Clip(base), b)))
		checkRoot(t, table)
		for _, r := range table.Rejects() {
			if r.Reason == "" || len(r.Reason) > 1024 {
				t.Errorf("%s is rejected for %q", r.Key, r.Reason)
			}
		}
		if _, replaces := before.Snapshot().Set().Lookup(e.Key); replaces || len(table.Rejects()) == 0 {
			return
		}
		for _, r := range requests {
			if r.allowed(table) && !r.allowed(before) {
				t.Errorf("%s: %s, and without %x: %s", r, r.answer(table), b, r.answer(before))
			}
		}
	})
}
