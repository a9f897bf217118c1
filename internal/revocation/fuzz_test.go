package revocation_test

import (
	"slices"
	"testing"

	"github.com/sallyport/sallyport/internal/revocation"
	"github.com/sallyport/sallyport/internal/snapshot"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// Whatever a document holds, compiling it beside others ends, rejects or
// enforces it, and gives nobody back what those others have cut off.
func FuzzCompile(f *testing.F) {
	base := documents(f, everyKind...)
	for _, b := range base {
		b = edited(f, b, func(d *resourcev1.Document) { d.Name += "-2" })
		f.Add(b)
		f.Add(edited(f, b, func(d *resourcev1.Document) { d.Spec = append(d.Spec, newer()...) }))
		f.Add(edited(f, b, func(d *resourcev1.Document) { d.Spec = []byte{0xff} }))
	}
	before := revocation.Compile(nil, snap(f, 1, base))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := snapshot.NewEntry(b)
		if err != nil {
			return
		}
		if _, replaces := before.Snapshot().Set().Lookup(e.Key); replaces {
			return
		}
		set := revocation.Compile(before, snap(t, 2, append(slices.Clip(base), b)))
		checkRoot(t, set)
		for _, r := range set.Rejects() {
			if r.Reason == "" || len(r.Reason) > 1024 {
				t.Errorf("%s is rejected for %q", r.Key, r.Reason)
			}
		}
		if rejected := len(set.Rejects()) > 0; rejected != (set.Unavailable() != "") {
			t.Errorf("rejects %v, unavailable is %q", set.Rejects(), set.Unavailable())
		}
		for _, p := range everybody() {
			_, was := before.Revoked(p, noon)
			if _, is := set.Revoked(p, noon); was && !is {
				t.Errorf("%v passes because of %x", p, b)
			}
		}
	})
}
