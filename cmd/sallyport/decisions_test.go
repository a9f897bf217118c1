package main_test

import (
	"errors"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/controlplane/controlplanetest"
	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/postgres"
)

// decided records what a proxy has decided: decided PRINCIPAL REASON PATH, with the
// number of requests that it stands for, if it is more than one, and the device that
// was proven. $DECISION is its ID then.
func decided(t *testing.T, ts *testscript.TestScript, p *controlplanetest.Plane, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: decided PRINCIPAL REASON PATH [COUNT [DEVICE]]")
	}
	store := recordsOf(ts, p)
	defer store.Close()
	now := time.Now()
	d := storage.Decision{
		ID: storage.DecisionsFrom(now), Sequence: now.UnixNano(), Environment: "aws", Principal: args[0], Route: "shop/orders",
		Allow: args[1] == "allowed_by_policy", Reason: args[1],
	}
	d.ID[6] |= 0x70
	const trace = "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"
	var err error
	d.Trace, err = storage.ParseTraceID(trace)
	ts.Check(err)
	m := &decisionv1.Decision{
		Id: d.ID.String(), Time: timestamppb.New(now), Environment: "aws", Revision: 7, Allow: d.Allow, Reason: d.Reason, Route: d.Route,
		Principal: &decisionv1.Principal{Kind: "user", Id: d.Principal},
		TraceId:   trace,
		Request:   &decisionv1.Request{Method: "GET", Host: "api.example", Path: args[2]},
	}
	if !d.Allow {
		m.Status = 403
	}
	if len(args) > 3 {
		m.Count = 12
	}
	if len(args) > 4 {
		m.Signals = &decisionv1.Signals{Device: &decisionv1.Device{
			Id: args[4], Owner: d.Principal, Compliant: new(true), Managed: new(false), LastSeen: timestamppb.New(now.Add(-time.Hour)),
		}}
	}
	ts.Setenv("DECISION", m.GetId())
	d.Record, err = proto.Marshal(m)
	ts.Check(errors.Join(err, store.SaveDecisions(t.Context(), storage.Records{Journal: journal, Last: d.Sequence, Decisions: []storage.Decision{d}})))
}

var journal = storage.Journal{Proxy: "spiffe://prod.example/proxy/aws#one", Boot: []byte("b")}

func recordsOf(ts *testscript.TestScript, p *controlplanetest.Plane) *postgres.Decisions {
	dsn, err := os.ReadFile(p.Settings.Database.URLFile)
	ts.Check(err)
	store, err := postgres.NewDecisions(postgres.Config{DSN: string(dsn), Log: slog.New(slog.DiscardHandler)})
	ts.Check(err)
	return store
}

// ended records how the request of $DECISION ended: ended STATUS [REASON [PATH]],
// the last by several attempts, with the path at the upstream.
func ended(t *testing.T, ts *testscript.TestScript, p *controlplanetest.Plane, args []string) {
	store := recordsOf(ts, p)
	defer store.Close()
	id, err := storage.ParseDecisionID(ts.Getenv("DECISION"))
	ts.Check(err)
	status, err := strconv.ParseInt(args[0], 10, 32)
	ts.Check(err)
	out := &decisionv1.Outcome{
		Time: timestamppb.Now(), Status: int32(status), Reason: strings.Join(args[1:min(2, len(args))], ""), Endpoint: "10.0.0.1:443", Sent: 1024,
		Took: durationpb.New(1500 * time.Millisecond),
	}
	if len(args) > 2 {
		out.Target, out.Upstream, out.Attempts = "orders.internal"+args[2], "shop/next", proto.Int32(3)
	}
	record, err := proto.Marshal(&decisionv1.Decision{Outcome: out})
	o := storage.Outcome{ID: id, Sequence: time.Now().UnixNano(), Record: record}
	ts.Check(errors.Join(err, store.SaveDecisions(t.Context(), storage.Records{Journal: journal, Last: o.Sequence, Outcomes: []storage.Outcome{o}})))
}
