package link_test

import (
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/internal/identity"
	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1/proxyv1connect"
	"github.com/sallyport/sallyport/storage"
)

// push has a proxy of aws, of whatever version, push records.
func (f *fleet) push(r *replica, all ...*decisionv1.Decision) {
	f.Helper()
	source := f.identify("spiffe://prod.example/proxy/aws/1")
	transport := &http.Transport{TLSClientConfig: identity.ClientConfig(source, identity.Only(controlID))}
	defer transport.CloseIdleConnections()
	req := &proxyv1.PushRequest{Instance: "one", Boot: make([]byte, 16), FirstSequence: 1}
	for _, m := range all {
		raw, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		req.Decisions = append(req.Decisions, raw)
	}
	client := proxyv1connect.NewRecordServiceClient(&http.Client{Transport: transport, Timeout: patience}, r.url)
	eventually(f.T, "the records were taken", func() bool {
		res, err := client.Push(f.Context(), connect.NewRequest(req))
		return err == nil && res.Msg.GetRefused() == 0
	})
}

// Whatever a proxy says of how requests went is kept within bounds, and what one of
// before does not say stays unsaid.
func TestRecordsAreConfined(t *testing.T) {
	f := newFleet(t)
	f.commit(clouds)
	r := f.replica("one")
	began := func(n int, trace string, o *decisionv1.Outcome) *decisionv1.Decision {
		d := decision(n, true)
		return &decisionv1.Decision{Id: d.ID, Time: timestamppb.New(d.Time), Allow: true, TraceId: trace, Outcome: o}
	}
	long, trace := strings.Repeat("\u00e9", 2000), strings.Repeat("0a", 16)
	all := []*decisionv1.Decision{
		began(1, trace, &decisionv1.Outcome{Target: "orders.internal/v2", Upstream: "shop/next", Endpoint: "10.0.0.1:443", Attempts: proto.Int32(2)}),
		began(2, strings.ToUpper(trace), &decisionv1.Outcome{Target: long, Upstream: long, Endpoint: long, Attempts: proto.Int32(1 << 30)}),
		began(3, strings.Repeat("0", 32), &decisionv1.Outcome{Attempts: proto.Int32(-1)}),
		began(4, trace+"0", &decisionv1.Outcome{}),
		began(5, "", nil),
		began(6, trace, nil),
	}
	f.push(r, append(all, &decisionv1.Decision{Id: all[5].GetId(), Outcome: &decisionv1.Outcome{Endpoint: long}})...)
	f.await(6)
	for i, want := range []*decisionv1.Decision{
		{TraceId: trace, Outcome: &decisionv1.Outcome{Target: "orders.internal/v2", Upstream: "shop/next", Endpoint: "10.0.0.1:443", Attempts: proto.Int32(2)}},
		{Outcome: &decisionv1.Outcome{Target: long[:2048], Upstream: long[:126] + "\ufffd", Endpoint: long[:260] + "\ufffd", Attempts: proto.Int32(100)}},
		{Outcome: &decisionv1.Outcome{Attempts: proto.Int32(0)}},
		{Outcome: &decisionv1.Outcome{}},
		{},
		{TraceId: trace, Outcome: &decisionv1.Outcome{Endpoint: long[:260] + "\ufffd"}},
	} {
		d := f.kept()[i]
		m := f.read(d)
		if got := (&decisionv1.Decision{TraceId: m.GetTraceId(), Outcome: m.GetOutcome()}); !proto.Equal(got, want) {
			t.Errorf("record %d: %v", i+1, got)
		}
		if kept := d.Trace != (storage.TraceID{}); kept != (want.GetTraceId() != "") {
			t.Errorf("record %d is found by the trace %x", i+1, d.Trace)
		}
	}
}
