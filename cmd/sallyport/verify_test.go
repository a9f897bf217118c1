package main_test

import (
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/controlplane/controlplanetest"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/postgres"
)

// verified has the replica that proxies of a script are connected to answer the next
// question of one: it has all, or lacks a policy.
func verified(t *testing.T, ts *testscript.TestScript, p *controlplanetest.Plane, args []string) {
	dsn, err := os.ReadFile(p.Settings.Database.URLFile)
	ts.Check(err)
	store, err := postgres.New(postgres.Config{DSN: string(dsn), Log: slog.New(slog.DiscardHandler)})
	ts.Check(err)
	if len(args) != 2 {
		ts.Fatalf("usage: verified all|lacking TOLD-BY")
	}
	m := &adminv1.VerifyResponse{Environment: "aws", Epoch: 1, Revision: 1, Documents: 3, Sequence: 4, SecurityDocuments: 2, ToldBy: args[1]}
	if args[0] == "lacking" {
		m.Deviations = []*adminv1.Deviation{{Kind: "Policy", Namespace: "shop", Name: "writers", Type: adminv1.DeviationType_DEVIATION_TYPE_MISSING}}
	}
	result, err := proto.Marshal(m)
	ts.Check(err)
	done := make(chan struct{})
	t.Cleanup(func() { <-done })
	go func() {
		defer close(done)
		defer store.Close()
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-t.Context().Done():
				return
			case <-tick.C:
			}
			asked, err := store.Unanswered(t.Context(), []string{"two"}, 1)
			if err != nil || len(asked) == 0 {
				continue
			}
			if err := store.Answer(t.Context(), asked[0].ID, storage.InquiryAnswer{Result: result}); err != nil {
				t.Error(err)
			}
			return
		}
	}()
}
