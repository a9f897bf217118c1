package api_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
	"github.com/sallyport/sallyport/storage"
)

// record saves a proxy that was seen a while ago.
func (w *world) record(t testing.TB, spiffeID, instance string, ago time.Duration) string {
	t.Helper()
	seen := time.Now().Add(-ago)
	p := &adminv1.Proxy{
		Id: spiffeID + "#" + instance, SpiffeId: spiffeID, Instance: instance, Environment: "aws", LastSeenAt: timestamppb.New(seen),
		Connection: adminv1.Connection_CONNECTION_LOST,
	}
	if err := w.store.SaveProxies(t.Context(), "", []storage.Proxy{{
		ID: storage.ProxyID(p.GetId()), SPIFFEID: spiffeID, Instance: instance, Environment: "aws",
		Status: must(proto.Marshal(p)), RegisteredAt: seen, LastSeen: seen,
	}}); err != nil {
		t.Fatal(err)
	}
	return p.GetId()
}

// caller makes calls of one caller, each with the code that it ends with.
type caller struct {
	t     testing.TB
	fleet adminv1connect.FleetServiceClient
}

func (s caller) approve(id string, want connect.Code) {
	s.t.Helper()
	_, err := s.fleet.Approve(s.t.Context(), connect.NewRequest(&adminv1.ApproveRequest{SpiffeId: id, Reason: "new rack"}))
	s.ended("approve "+id, err, want)
}

func (s caller) refuse(id string, want connect.Code) {
	s.t.Helper()
	_, err := s.fleet.Refuse(s.t.Context(), connect.NewRequest(&adminv1.RefuseRequest{SpiffeId: id, Reason: "not ours"}))
	s.ended("refuse "+id, err, want)
}

func (s caller) quarantine(id string, want connect.Code) {
	s.t.Helper()
	_, err := s.fleet.Quarantine(s.t.Context(), connect.NewRequest(&adminv1.QuarantineRequest{SpiffeId: id, Reason: "odd traffic"}))
	s.ended("quarantine "+id, err, want)
}

func (s caller) release(id string, want connect.Code) {
	s.t.Helper()
	_, err := s.fleet.Release(s.t.Context(), connect.NewRequest(&adminv1.ReleaseRequest{SpiffeId: id, Reason: "looked at"}))
	s.ended("release "+id, err, want)
}

func (s caller) drain(id string, want connect.Code) {
	s.t.Helper()
	_, err := s.fleet.Drain(s.t.Context(), connect.NewRequest(&adminv1.DrainRequest{Id: id, Reason: "new kernel"}))
	s.ended("drain "+id, err, want)
}

func (s caller) undrain(id string, want connect.Code) {
	s.t.Helper()
	_, err := s.fleet.Undrain(s.t.Context(), connect.NewRequest(&adminv1.UndrainRequest{Id: id}))
	s.ended("undrain "+id, err, want)
}

func (s caller) forget(id string, want connect.Code) {
	s.t.Helper()
	_, err := s.fleet.Forget(s.t.Context(), connect.NewRequest(&adminv1.ForgetRequest{Id: id, Reason: "sold"}))
	s.ended("forget "+id, err, want)
}

func (s caller) label(id string, want connect.Code, remove []string, labels map[string]string) *adminv1.SetLabelsResponse {
	s.t.Helper()
	res, err := s.fleet.SetLabels(s.t.Context(), connect.NewRequest(&adminv1.SetLabelsRequest{Id: id, Labels: labels, Remove: remove}))
	s.ended("label "+id, err, want)
	if err != nil {
		return nil
	}
	return res.Msg
}

const ok connect.Code = 0

func (s caller) ended(what string, err error, want connect.Code) {
	s.t.Helper()
	if err == nil && want == ok || err != nil && connect.CodeOf(err) == want {
		return
	}
	s.t.Errorf("%s: %v, want %v", what, err, want)
}

func TestRulings(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const id = "spiffe://prod.example/proxy/aws"
	one := w.record(t, id, "one", time.Hour)
	s := caller{t, w.fleet(t, admin)}
	is := func(want adminv1.Standing, reason string) {
		t.Helper()
		res, err := s.fleet.GetProxy(t.Context(), connect.NewRequest(&adminv1.GetProxyRequest{Id: one}))
		if err != nil {
			t.Fatal(err)
		}
		p := res.Msg.GetProxy()
		if p.GetStanding() != want || p.GetStandingRuling().GetReason() != reason || (reason != "") != (p.GetStandingRuling().GetCaller() == string(admin)) {
			t.Errorf("it is %s: %v", p.GetStanding(), p.GetStandingRuling())
		}
	}
	is(adminv1.Standing_STANDING_UNSPECIFIED, "")
	s.approve(id, ok)
	is(adminv1.Standing_STANDING_APPROVED, "new rack")
	s.release(id, connect.CodeFailedPrecondition)
	s.quarantine(id, ok)
	is(adminv1.Standing_STANDING_QUARANTINED, "odd traffic")
	s.approve(id, connect.CodeFailedPrecondition)
	s.refuse(id, connect.CodeFailedPrecondition)
	s.forget(one, connect.CodeFailedPrecondition)
	s.release(id, ok)
	is(adminv1.Standing_STANDING_APPROVED, "looked at")
	s.refuse(id, ok)
	is(adminv1.Standing_STANDING_REFUSED, "not ours")
	s.forget(one, connect.CodeFailedPrecondition)
	s.approve(id, ok)
	s.approve("spiffe://prod.example/proxy/not-yet", ok) // before it comes

	for _, bad := range []string{"", one, id + "/*", "spiffe://prod.example/**", "https://prod.example", "spiffe://prod.example/proxy/", strings.Repeat("a", 4000)} {
		s.approve(bad, connect.CodeInvalidArgument)
		s.quarantine(bad, connect.CodeInvalidArgument)
	}
}

func TestProcessRulings(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const id = "spiffe://prod.example/proxy/aws"
	one, two := w.record(t, id, "one", time.Hour), w.record(t, id, "two", 10*time.Second)
	s := caller{t, w.fleet(t, admin)}
	get := func(id string) *adminv1.Proxy {
		t.Helper()
		res, err := s.fleet.GetProxy(t.Context(), connect.NewRequest(&adminv1.GetProxyRequest{Id: id}))
		if err != nil {
			t.Fatal(err)
		}
		return res.Msg.GetProxy()
	}
	s.drain(one, ok)
	s.label(one, ok, nil, map[string]string{"region": "eu-central-1", "rack": "7"})
	if p := get(one); !p.GetDrain() || p.GetDrainRuling().GetReason() != "new kernel" || p.GetPlace().GetRegion() != "eu-central-1" || p.GetOperatorLabels()["rack"] != "7" {
		t.Errorf("it is %v", p)
	}
	if p := get(two); p.GetDrain() || len(p.GetOperatorLabels()) > 0 {
		t.Errorf("the other is %v", p)
	}
	if got := s.label(one, ok, []string{"rack", "none"}, map[string]string{"tier": ""}); !maps.Equal(got.GetLabels(), map[string]string{"region": "eu-central-1", "tier": ""}) {
		t.Errorf("it has %v", got.GetLabels())
	}
	s.undrain(one, ok)
	if p := get(one); p.GetDrain() || len(p.GetOperatorLabels()) != 2 {
		t.Errorf("it is %v", p)
	}
	for _, unknown := range []string{id + "#three", id, "three"} {
		s.drain(unknown, connect.CodeNotFound)
		s.label(unknown, connect.CodeNotFound, nil, map[string]string{"a": "b"})
		s.forget(unknown, connect.CodeNotFound)
	}
	many := map[string]string{}
	for i := range 31 {
		many[fmt.Sprint("k", i)] = "v"
	}
	s.label(one, connect.CodeInvalidArgument, nil, many) // with those that there are
	for _, bad := range []map[string]string{{"": "v"}, {"a b": "v"}, {"a": "-"}, {strings.Repeat("a", 129): "v"}} {
		s.label(one, connect.CodeInvalidArgument, nil, bad)
	}
	s.forget(two, connect.CodeFailedPrecondition) // it was heard of not long ago
	s.forget(one, ok)
	s.forget(one, connect.CodeNotFound)
}

// Whatever is ruled, or was to be, is in the audit, with who and why.
func TestRulingsAreAudited(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const id = "spiffe://prod.example/proxy/aws"
	one := w.record(t, id, "one", time.Hour)
	s, v := caller{t, w.fleet(t, admin)}, caller{t, w.fleet(t, viewer)}
	s.quarantine(id, ok)
	s.approve(id, connect.CodeFailedPrecondition)
	v.release(id, connect.CodePermissionDenied)
	s.release(id, ok)
	s.label(one, ok, []string{"b"}, map[string]string{"a": "1"})
	s.drain("nobody", connect.CodeNotFound)
	s.forget(one, ok)
	entries, err := w.store.Entries(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		who := strings.TrimPrefix(e.Caller, "spiffe://prod.example/operator/")
		got = append(got, fmt.Sprint(who, " ", e.Action[strings.LastIndexByte(e.Action, '/')+1:], " ", e.Allowed, " ", e.Detail))
	}
	want := []string{
		"admin Quarantine true " + id + ": odd traffic",
		"admin Approve true refused: failed_precondition: " + id + ": new rack",
		got[min(2, len(got)-1)], // of the guard
		"admin Release true " + id + ": looked at",
		"admin SetLabels true " + one + ": a=1 b-",
		"admin Drain true refused: not_found: nobody: new kernel",
		"admin Forget true " + one + ": sold",
	}
	if !slices.Equal(got, want) || !strings.HasPrefix(got[2], "viewer Release false") {
		t.Errorf("the audit has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
