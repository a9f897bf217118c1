package controlplane_test

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/controlplane/controlplanetest"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/postgres"
)

// recorded has the database of a plane keep n decisions from the sequence first on:
// every other one is denied.
func recorded(t *testing.T, p *controlplanetest.Plane, first, n int64) {
	t.Helper()
	dsn, err := os.ReadFile(p.Settings.Database.URLFile)
	if err != nil {
		t.Fatal(err)
	}
	store, err := postgres.NewDecisions(postgres.Config{DSN: string(dsn), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	var all []storage.Decision
	now := time.Now()
	for i := first; i < first+n; i++ {
		d := storage.Decision{ID: storage.DecisionsFrom(now), Sequence: i, Environment: "aws", Principal: "alice", Route: "shop/orders", Allow: i%2 == 0}
		d.ID[6], d.ID[14], d.ID[15] = d.ID[6]|0x70, byte(i>>8), byte(i)
		if d.Record, err = proto.Marshal(&decisionv1.Decision{
			Id: d.ID.String(), Time: timestamppb.New(now), Allow: d.Allow, Request: &decisionv1.Request{Path: fmt.Sprintf("/%d", i)},
		}); err != nil {
			t.Fatal(err)
		}
		all = append(all, d)
	}
	if err := store.SaveDecisions(t.Context(), storage.Records{Journal: storage.Journal{Proxy: "p#1", Boot: []byte("b")}, Last: first + n - 1, Decisions: all}); err != nil {
		t.Fatal(err)
	}
}

func pathsOf(all []*decisionv1.Decision) string {
	var paths []string
	for _, d := range all {
		paths = append(paths, d.GetRequest().GetPath())
	}
	return strings.Join(paths, " ")
}

func TestDecisions(t *testing.T) {
	p := controlplanetest.New(t)
	p.Start(slog.New(slog.DiscardHandler))
	asked := adminv1connect.NewDecisionServiceClient(client(t, p, controlplanetest.Viewer), p.URL())
	recorded(t, p, 1, 5)

	query := &adminv1.QueryRequest{PageSize: 2, Filter: &adminv1.DecisionFilter{Principal: "alice", Proxy: "p#1"}}
	var pages []string
	for {
		res, err := asked.Query(t.Context(), connect.NewRequest(query))
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, pathsOf(res.Msg.GetDecisions()))
		if d := res.Msg.GetDecisions()[0]; d.GetProxy() != "p#1" || string(d.GetBoot()) != "b" || d.GetSequence() == 0 {
			t.Errorf("a decision is %v", d)
		}
		if query.PageToken = res.Msg.GetNextPageToken(); query.GetPageToken() == "" {
			break
		}
	}
	if got := strings.Join(pages, ", "); got != "/5 /4, /3 /2, /1" {
		t.Errorf("the pages are %s", got)
	}
	for _, c := range []struct {
		req  *adminv1.QueryRequest
		code connect.Code
	}{
		{&adminv1.QueryRequest{Filter: &adminv1.DecisionFilter{Id: "x"}}, connect.CodeInvalidArgument},
		{&adminv1.QueryRequest{Filter: &adminv1.DecisionFilter{Trace: strings.Repeat("0A", 16)}}, connect.CodeInvalidArgument},
		{&adminv1.QueryRequest{PageToken: "x"}, connect.CodeInvalidArgument},
		{&adminv1.QueryRequest{PageSize: 1001}, connect.CodeInvalidArgument},
	} {
		if _, err := asked.Query(t.Context(), connect.NewRequest(c.req)); connect.CodeOf(err) != c.code {
			t.Errorf("%v: %v", c.req, err)
		}
	}

	tail, err := asked.Tail(t.Context(), connect.NewRequest(&adminv1.TailRequest{Filter: &adminv1.DecisionFilter{Verdict: adminv1.Verdict_VERDICT_DENY}}))
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	if !tail.Receive() || len(tail.Msg().GetDecisions()) > 0 {
		t.Fatalf("Tail begins with %v (%v)", tail.Msg(), tail.Err())
	}
	recorded(t, p, 6, 4)
	if !tail.Receive() || pathsOf(tail.Msg().GetDecisions()) != "/7 /9" {
		t.Errorf("Tail tells %v (%v)", tail.Msg(), tail.Err())
	}
	// More than a slow caller could take: what was passed over is told.
	recorded(t, p, 10, 4100)
	if !tail.Receive() || tail.Msg().GetSkipped() != 100 {
		t.Errorf("Tail skipped %d (%v)", tail.Msg().GetSkipped(), tail.Err())
	}
	p.Stop()
	for tail.Receive() {
	}
	if connect.CodeOf(tail.Err()) != connect.CodeUnavailable {
		t.Errorf("the end of the replica ends Tail with %v", tail.Err())
	}
}
