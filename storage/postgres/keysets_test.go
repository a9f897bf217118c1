package postgres_test

import (
	"crypto/ed25519"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

// second is the key that follows the first.
var second = snapshot.NewSigner(ed25519.NewKeyFromSeed(slices.Repeat([]byte{2}, ed25519.SeedSize)))

func keySet(t testing.TB, by *snapshot.Signer, previous snapshot.KeySet, keys ...*snapshot.Signer) snapshot.KeySet {
	t.Helper()
	var public []snapshot.PublicKey
	for _, k := range keys {
		public = append(public, k.Public())
	}
	set, err := by.SignKeySet(previous, public...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestKeySets(t *testing.T) {
	t.Parallel()
	f := history(t)
	changed := listen(t, connect(t, f.dsn))
	both := keySet(t, signer, snapshot.KeySet{}, signer, second)
	alone := keySet(t, second, both, second)
	entry := storage.AuditEntry{Caller: "ops", Action: "add signing key", Allowed: true, Detail: "generation 1"}
	wantErr(t, "a set before the one it follows", f.AppendKeySet(t.Context(), alone, entry), storage.ErrConflict)
	if err := f.AppendKeySet(t.Context(), both, entry); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	case <-time.After(10 * time.Second):
		t.Error("nobody heard of a key set")
	}
	other := keySet(t, signer, snapshot.KeySet{}, second)
	wantErr(t, "another set of the generation", f.AppendKeySet(t.Context(), other, entry), storage.ErrConflict)
	if err := f.AppendKeySet(t.Context(), snapshot.KeySet{}, entry); err == nil {
		t.Error("no set was appended")
	}
	if err := f.AppendKeySet(t.Context(), alone, entry); err != nil {
		t.Fatal(err)
	}
	all, err := f.KeySets(t.Context(), 0)
	if err != nil || len(all) != 2 || !proto.Equal(all[0], both.Signed()) || !proto.Equal(all[1], alone.Signed()) {
		t.Errorf("the sets were not kept byte by byte: %v (%v)", all, err)
	}
	if later, err := f.KeySets(t.Context(), 1); err != nil || len(later) != 1 || !proto.Equal(later[0], alone.Signed()) {
		t.Errorf("after the first: %v (%v)", later, err)
	}
	entries, err := f.Entries(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	entries = slices.DeleteFunc(entries, func(e storage.AuditEntry) bool { return e.Action != entry.Action })
	if len(entries) != 2 || entries[0].Caller != "ops" || !strings.Contains(entries[0].Detail, "generation 1") {
		t.Errorf("the audit says %+v", entries)
	}
}

func TestHeadsAreSignedAgain(t *testing.T) {
	t.Parallel()
	f := history(t)
	term := begin(t, f, "a")
	first := head(t, "aws", 2, 2)
	if err := f.SaveHeads(t.Context(), term, []snapshot.Head{first}); err != nil {
		t.Fatal(err)
	}
	again, err := second.SignHeadAgain(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.SaveHeads(t.Context(), term, []snapshot.Head{again}); err != nil {
		t.Fatalf("with another key: %v", err)
	}
	kept, err := f.Head(t.Context(), "aws", 2)
	if err != nil || !proto.Equal(kept.Signed, again.Signed()) {
		t.Errorf("the new signature was not kept (%v)", err)
	}
	other, err := second.SignHeadAgain(head(t, "aws", 2, 3))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.SaveHeads(t.Context(), term, []snapshot.Head{other}); err == nil {
		t.Error("with another key another head was saved")
	}
	wantErr(t, "in a term that has ended", f.SaveHeads(t.Context(), begin(t, f, "b")-1, []snapshot.Head{first}), storage.ErrFenced)
}
