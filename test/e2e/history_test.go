package e2e_test

import (
	"log/slog"
	"slices"
	"testing"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/postgres"
)

// checkHistory reads all heads: every revision that touches an environment has
// one, signed over the head before it.
func checkHistory(t *testing.T, f *fleet.Fleet, revisions []*adminv1.Revision) {
	t.Helper()
	store := database(t, f)
	for _, environment := range f.Environments() {
		var previous snapshot.Digest
		heads := 0
		for _, r := range revisions {
			if !slices.Contains(r.GetEnvironments(), environment) {
				continue
			}
			head := headAt(t, store, f, environment, snapshot.Revision(r.GetRevision()))
			if head.Previous != previous {
				t.Errorf("%s: the head of revision %d follows %s, not %s", environment, head.Revision, head.Previous.Short(), previous.Short())
			}
			previous = head.Digest()
			heads++
		}
		t.Logf("%s: %d heads in one chain", environment, heads)
	}
}

// gapless returns all revisions, oldest first, after checking that none is
// missing or doubled.
func gapless(t *testing.T, f *fleet.Fleet) []*adminv1.Revision {
	t.Helper()
	var all []*adminv1.Revision
	req := &adminv1.ListRevisionsRequest{PageSize: 1000}
	for {
		res, err := f.Admin.Config.ListRevisions(t.Context(), connect.NewRequest(req))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, res.Msg.GetRevisions()...)
		if req.PageToken = res.Msg.GetNextPageToken(); req.GetPageToken() == "" {
			break
		}
	}
	slices.Reverse(all)
	for i, r := range all {
		if r.GetRevision() != int64(i+1) {
			t.Fatalf("revision %d stands in place %d", r.GetRevision(), i+1)
		}
	}
	t.Logf("%d revisions, gapless", len(all))
	return all
}

func database(t *testing.T, f *fleet.Fleet) *postgres.Store {
	t.Helper()
	store, err := postgres.New(postgres.Config{DSN: f.Postgres.DSN(fleet.Database), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	return store
}

func headAt(t *testing.T, store storage.Publishing, f *fleet.Fleet, environment string, at snapshot.Revision) snapshot.Head {
	t.Helper()
	recorded, err := store.Head(t.Context(), environment, at)
	if err != nil {
		t.Fatal(err)
	}
	key, err := f.RootPublicKey()
	if err != nil {
		t.Fatal(err)
	}
	head, err := snapshot.NewVerifier(key).VerifyHead(recorded.Signed)
	if err != nil {
		t.Fatal(err)
	}
	if head.Revision != at {
		t.Fatalf("%s: the head at revision %d is of revision %d", environment, at, head.Revision)
	}
	return head
}
