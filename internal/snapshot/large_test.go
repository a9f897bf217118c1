package snapshot_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// sized is a document of a kind with exactly so many bytes.
func sized(t testing.TB, kind resource.Kind, name string, bytes int) []byte {
	t.Helper()
	d := &resourcev1.Document{Kind: string(kind), Namespace: "shop", Name: name, Spec: []byte{}}
	for proto.Size(d) < bytes {
		d.Spec = fill(len(d.Spec) + bytes - proto.Size(d))
	}
	for proto.Size(d) > bytes { // the length itself has grown
		d.Spec = d.Spec[1:]
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(d)
	if err != nil || len(b) != bytes {
		t.Fatalf("%d bytes, not %d: %v", len(b), bytes, err)
	}
	return b
}

// fill returns so many bytes, of which no piece is like another.
func fill(n int) []byte {
	b := make([]byte, 0, n+16)
	for i := 0; len(b) < n; i++ {
		b = fmt.Appendf(b, "%d,", i)
	}
	return b[:n]
}

func large(t testing.TB, name string, bytes int) snapshot.Entry {
	t.Helper()
	e, err := snapshot.NewEntry(sized(t, resource.KindSet, name, bytes))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// However large documents are, the parts that carry them are not, and bring
// them as they were committed.
func TestLargeDocumentsComeInPieces(t *testing.T) {
	small := entries(t, 0, 40, strings.Repeat("x", 20<<10))
	for name, documents := range map[string][]snapshot.Entry{
		"the largest":               {large(t, "a", resource.MaxSet)},
		"as large as a part":        {large(t, "a", 512<<10)},
		"a byte larger than a part": {large(t, "a", 512<<10+1)},
		"the largest that is whole": {large(t, "a", 256<<10), large(t, "b", 256<<10), large(t, "c", 256<<10)},
		"a byte larger than that":   {large(t, "a", 256<<10+1), large(t, "b", 256<<10+1), large(t, "c", 256<<10+1)},
		"several, among others":     append(small, large(t, "a", 3<<20), large(t, "b", 700<<10), large(t, "c", resource.MaxSet)),
	} {
		want := assemble(t, 2, snapshot.NewSet(documents...))
		var a snapshot.Assembly
		var got *snapshot.Snapshot
		for part := range snapshot.Updates(nil, want) {
			if size := proto.Size(part); size > snapshot.MaxPart {
				t.Fatalf("%s: a part of %d bytes", name, size)
			}
			var err error
			if got, err = a.Add(signer(1).Verifier(), nil, part); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if got == nil || got.Set().Root() != want.Set().Root() {
			t.Errorf("%s: did not arrive", name)
		}
	}
}

// Only a Set and a Schema may be large, and not larger than they may be, whole or in
// pieces.
func TestDocumentsAreBoundedByKind(t *testing.T) {
	for _, c := range []struct {
		kind  resource.Kind
		bytes int
		ok    bool
	}{
		{resource.KindSet, resource.MaxSet, true},
		{resource.KindSet, resource.MaxSet + 1, false},
		{resource.KindSchema, resource.MaxSchema, true},
		{resource.KindSchema, resource.MaxSchema + 1, false},
		{resource.KindPolicy, resource.MaxDocument, true},
		{resource.KindPolicy, resource.MaxDocument + 1, false},
		{"Future", resource.MaxDocument + 1, false},
	} {
		document := sized(t, c.kind, "a", c.bytes)
		if _, err := snapshot.NewEntry(document); (err == nil) != c.ok || err != nil && !errors.Is(err, resource.ErrTooLarge) {
			t.Errorf("%s of %d bytes: %v", c.kind, c.bytes, err)
		}
		for pieces := range 4 {
			if err := offer(document, pieces+1); (err == nil) != c.ok || err != nil && !errors.Is(err, snapshot.ErrTooLarge) {
				t.Errorf("%s of %d bytes in %d pieces: %v", c.kind, c.bytes, pieces+1, err)
			}
		}
	}
}

// offer adds a document in so many pieces.
func offer(document []byte, pieces int) error {
	var a snapshot.Assembly
	size := (len(document) + pieces - 1) / pieces
	for piece := range slices.Chunk(document, size) {
		pieces--
		part := &proxyv1.Update{Documents: [][]byte{piece}, Unfinished: pieces > 0}
		if _, err := a.Add(signer(1).Verifier(), nil, part); err != nil {
			return err
		}
	}
	return nil
}

// What does not add up to whole documents is refused, and what was begun is not
// kept for the update after it.
func TestPiecesThatDoNotFitAreRefused(t *testing.T) {
	want := assemble(t, 2, snapshot.NewSet(append(entries(t, 0, 10, "a"), large(t, "a", 3<<20))...))
	parts := func() (all []*proxyv1.Update) {
		for part := range snapshot.Updates(nil, want) {
			all = append(all, proto.CloneOf(part))
		}
		return all
	}
	endless := slices.Repeat([]*proxyv1.Update{{Documents: [][]byte{make([]byte, 512<<10)}, Unfinished: true}}, 17)
	for name, c := range map[string]struct {
		parts []*proxyv1.Update
		want  error
	}{
		"without an end":            {endless, snapshot.ErrTooLarge},
		"a piece left out":          {slices.Delete(parts(), 2, 3), nil},
		"pieces exchanged":          {swapped(parts(), 2, 3), snapshot.ErrRoot},
		"the mark of one taken off": {edited(parts(), 1, func(u *proxyv1.Update) { u.Unfinished = false }), nil},
		"the last one unfinished":   {edited(parts(), -1, func(u *proxyv1.Update) { u.Unfinished = true }), nil},
		"nothing to go on with":     {edited(parts(), 2, func(u *proxyv1.Update) { u.Documents = nil }), nil},
		"nothing begun":             {[]*proxyv1.Update{{Unfinished: true}}, nil},
		"nothing behind what began": {[]*proxyv1.Update{parts()[0], {Head: want.Head().Signed()}}, nil},
	} {
		var a snapshot.Assembly
		var err error
		for _, part := range c.parts {
			if _, err = a.Add(signer(1).Verifier(), nil, part); err != nil {
				break
			}
		}
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		var got *snapshot.Snapshot
		for _, part := range parts() {
			if got, err = a.Add(signer(1).Verifier(), nil, part); err != nil {
				t.Fatalf("%s: the next good update: %v", name, err)
			}
		}
		if got == nil {
			t.Errorf("%s: the next good update did not arrive", name)
		}
	}
}

func swapped(parts []*proxyv1.Update, i, j int) []*proxyv1.Update {
	parts[i], parts[j] = parts[j], parts[i]
	return parts
}

// edited edits one part, counted from the end when i is negative.
func edited(parts []*proxyv1.Update, i int, edit func(*proxyv1.Update)) []*proxyv1.Update {
	edit(parts[(i+len(parts))%len(parts)])
	return parts
}

func BenchmarkLargeSetArrives(b *testing.B) {
	want := assemble(b, 1, snapshot.NewSet(large(b, "a", resource.MaxSet)))
	for b.Loop() {
		var a snapshot.Assembly
		for part := range snapshot.Updates(nil, want) {
			if _, err := a.Add(signer(1).Verifier(), nil, part); err != nil {
				b.Fatal(err)
			}
		}
	}
	fmt.Printf("figure large_set_arrives %.1f ms\n", float64(b.Elapsed().Microseconds())/1000/float64(b.N))
}
