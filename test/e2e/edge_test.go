package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
	"github.com/sallyport/sallyport/internal/proof"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
)

// startEdge runs a fleet of two replicas with an edge, which hands on to the first of
// them alone. The proxy of aws is connected to the replicas, that of gcp to the edge.
func startEdge(t *testing.T) *fleet.Fleet {
	t.Helper()
	f, err := fleet.Start(t.Context(), fleet.Config{Dir: folder(t), Bin: bin, Log: slog.New(slog.DiscardHandler), Replicas: 2, Edge: true})
	t.Cleanup(func() {
		if err := f.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// stated returns which proxies of an environment a statement proves to enforce a
// revision, verified with the root key alone.
func stated(ctx context.Context, t *testing.T, f *fleet.Fleet, by *fleet.Operator, environment string, revision int64) []proof.Proven {
	t.Helper()
	root, err := f.RootPublicKey()
	if err != nil {
		t.Fatal(err)
	}
	res, err := by.Fleet.ExportStatement(ctx, connect.NewRequest(&adminv1.ExportStatementRequest{Environment: environment, Revision: revision}))
	if err != nil {
		return nil
	}
	s, err := proof.Read(res.Msg.GetStatement(), snapshot.NewVerifier(root))
	if err != nil {
		t.Fatal(err)
	}
	return s.Proxies
}

// A proxy behind an edge is as any other, for who changes something and for who asks.
func TestProxyBehindAnEdge(t *testing.T) {
	f := startEdge(t)
	aws, gcp := f.Members[0], f.Members[1]
	revision, err := f.Admin.Apply(t.Context(), policyNamed("near"), "for both")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Admin.Enforced(t.Context(), revision, aws.Environment, gcp.Environment); err != nil {
		t.Fatal(err)
	}
	if got := asks(t, f, gcp, "alice"); got != "200" {
		t.Errorf("before: %s", got)
	}
	sequence, err := f.Admin.Revoke(t.Context(), revocationOf(f, "alice-left", "alice"), "alice has left")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Admin.Revoked(t.Context(), sequence, gcp.Environment); err != nil {
		t.Fatal(err)
	}
	if got := asks(t, f, gcp, "alice"); got != "401 revoked" {
		t.Errorf("revoked: %s", got)
	}
	p, err := proxyOf(t.Context(), f, gcp)
	if err != nil || p.GetReplica() != "edge edge-1" || p.GetConfigurationAge() == nil || len(p.GetListeners()) != 1 {
		t.Errorf("it is listed as %v (%v)", p, err)
	}
	if near, err := proxyOf(t.Context(), f, aws); err != nil || near.GetReplica() != "demo" && near.GetReplica() != "demo-2" {
		t.Errorf("the other one is connected to %q (%v)", near.GetReplica(), err)
	}
	eventually(t, 10*time.Second, func(ctx context.Context) (bool, string) {
		return len(stated(ctx, t, f, f.Admin, gcp.Environment, revision)) == 1, "nobody has proven it"
	})
}

// A proxy behind an edge is verified whichever replica is asked, also one that the edge
// does not call; and it is said whose word that is.
func TestProxyBehindAnEdgeIsVerified(t *testing.T) {
	f := startEdge(t)
	gcp := f.Members[1]
	if err := gcp.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := gcp.Start(armed("gateway.drop-policy")); err != nil {
		t.Fatal(err)
	}
	revision, err := f.Admin.Apply(t.Context(), policyNamed("gateway-drop-policy"), "what is lost")
	if err != nil {
		t.Fatal(err)
	}
	p := becomes(t, f, gcp, adminv1.Enforcement_ENFORCEMENT_DRIFT, revision)
	verify := func(want int) {
		t.Helper()
		for i, r := range f.Replicas {
			res, err := r.Admin.Fleet.Verify(within(t, 30*time.Second), connect.NewRequest(&adminv1.VerifyRequest{Id: p.GetId()}))
			if err != nil {
				t.Fatalf("at replica %d: %v", i+1, err)
			}
			if m := res.Msg; len(m.GetDeviations()) != want || m.GetDocuments() == 0 || m.GetSequence() == 0 || m.GetToldBy() != fleet.EdgeID {
				t.Errorf("at replica %d: %v", i+1, m)
			}
		}
	}
	verify(1)
	if err := gcp.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := gcp.Start(); err != nil {
		t.Fatal(err)
	}
	becomes(t, f, gcp, adminv1.Enforcement_ENFORCEMENT_ENFORCED, revision)
	verify(0)
}

// Whom operators keep out is cut off at an edge as well, and drained there.
func TestRulingsAtAnEdge(t *testing.T) {
	f := startEdge(t)
	gcp := f.Members[1]
	p, err := proxyOf(t.Context(), f, gcp)
	if err != nil {
		t.Fatal(err)
	}
	is := func(what string, ok func(*adminv1.Proxy) bool) {
		t.Helper()
		eventually(t, 20*time.Second, func(ctx context.Context) (bool, string) {
			now, err := proxyOf(ctx, f, gcp)
			return err == nil && ok(now), fmt.Sprintf("%s: it is %v (%v)", what, now, err)
		})
	}
	if _, err := f.Admin.Fleet.Drain(t.Context(), connect.NewRequest(&adminv1.DrainRequest{Id: p.GetId()})); err != nil {
		t.Fatal(err)
	}
	is("drained", func(p *adminv1.Proxy) bool { return p.GetDraining() })
	if _, err := f.Admin.Fleet.Quarantine(t.Context(), connect.NewRequest(&adminv1.QuarantineRequest{SpiffeId: p.GetSpiffeId(), Reason: "odd"})); err != nil {
		t.Fatal(err)
	}
	is("quarantined", func(p *adminv1.Proxy) bool { return p.GetConnection() == adminv1.Connection_CONNECTION_LOST })
	if n := metrics(t, f.Edge.Status)[`sallyport_connected_proxies{environment="`+gcp.Environment+`"}`]; n != 0 {
		t.Errorf("%v proxies are connected to the edge", n)
	}
	if _, err := f.Admin.Fleet.Release(t.Context(), connect.NewRequest(&adminv1.ReleaseRequest{SpiffeId: p.GetSpiffeId()})); err != nil {
		t.Fatal(err)
	}
	is("released", func(p *adminv1.Proxy) bool { return p.GetConnection() == adminv1.Connection_CONNECTION_CONNECTED })
}

// An edge that reaches no replica with a database goes on to serve: what is changed
// comes to its proxies by etcd, and new ones are admitted. When it reaches one again,
// that hears of all.
func TestEdgeThatIsCutOff(t *testing.T) {
	f := startEdge(t)
	gcp := f.Members[1]
	far, _, err := f.Invite(t.Context(), fleet.TrustDomain, "far")
	if err != nil {
		t.Fatal(err)
	}
	client := etcdAt(t, f.Near.Endpoints())
	eventually(t, 20*time.Second, func(ctx context.Context) (bool, string) {
		r, err := client.Get(ctx, prefix+"env/@roster/body")
		return err == nil && len(r.Kvs) == 1 && bytes.Contains(r.Kvs[0].Value, []byte("far")), "the roster does not have the new proxy"
	})
	if err := f.Replicas[0].Kill(); err != nil {
		t.Fatal(err)
	}
	if err := far.Start(); err != nil {
		t.Fatal(err)
	}
	if err := f.MemberReady(t.Context(), far); err != nil {
		t.Fatalf("a new proxy: %v", err)
	}
	second := f.Replicas[1].Admin
	if _, err := second.Revoke(t.Context(), revocationOf(f, "alice-left", "alice"), "alice has left"); err != nil {
		t.Fatal(err)
	}
	revision, err := second.Apply(t.Context(), policyNamed("meanwhile"), "while the edge is cut off")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []*fleet.Member{gcp, far} {
		eventually(t, 20*time.Second, func(context.Context) (bool, string) {
			got := asks(t, f, m, "alice")
			return got == "401 revoked", m.Name + " answers " + got
		})
		if got := asks(t, f, m, "bob"); got != "200" {
			t.Errorf("%s answers bob %s", m.Name, got)
		}
	}
	if err := f.Replicas[0].Start(); err != nil {
		t.Fatal(err)
	}
	if err := f.ReplicaReady(t.Context(), f.Replicas[0]); err != nil {
		t.Fatal(err)
	}
	if err := second.Enforced(t.Context(), revision, gcp.Environment, far.Environment); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*fleet.Member{gcp, far} {
		if proven := stated(t.Context(), t, f, second, m.Environment, revision); len(proven) != 1 {
			t.Errorf("%s has proven nothing: %v", m.Name, proven)
		}
		checkOrder(t, m)
	}
}

// recorded returns the record of a decision that a replica has; nil for none.
func recorded(ctx context.Context, by *fleet.Operator, id string) (*decisionv1.Decision, error) {
	res, err := by.Decisions.Query(ctx, connect.NewRequest(&adminv1.QueryRequest{Filter: &adminv1.DecisionFilter{Id: id}}))
	switch {
	case err != nil:
		return nil, err
	case len(res.Msg.GetDecisions()) > 1:
		return nil, fmt.Errorf("%s is kept %d times", id, len(res.Msg.GetDecisions()))
	case len(res.Msg.GetDecisions()) == 0:
		return nil, nil //nolint:nilnil // documented
	}
	return res.Msg.GetDecisions()[0], nil
}

// What a proxy behind an edge decides is found where operators ask, with its outcome.
// While the edge reaches no replica with a database, requests go on, also those that
// have to be recorded, and their records wait at the proxy, and arrive afterwards.
func TestRecordsBehindAnEdge(t *testing.T) {
	f := startEdge(t)
	gcp := f.Members[1]
	if err := prove(within(t, time.Minute), f, recordedRoutes+allowBilling("counted")+"---\n"+allowBilling("audited")); err != nil {
		t.Fatal(err)
	}
	p, err := proxyOf(t.Context(), f, gcp)
	if err != nil || p.GetReplica() != "edge edge-1" {
		t.Fatalf("the proxy is not behind the edge: %v (%v)", p, err)
	}
	ask := func(path string) string {
		t.Helper()
		v := newVisitors(t, f, gcp)
		if !v.ask(within(t, 10*time.Second), path) {
			t.Fatalf("%s: %v", path, v.denied)
		}
		return v.allowed[0]
	}
	arrives := func(id, route string) {
		t.Helper()
		for _, r := range f.Replicas {
			eventually(t, 40*time.Second, func(ctx context.Context) (bool, string) {
				d, err := recorded(ctx, r.Admin, id)
				return d.GetRoute() == route && d.GetProxy() == p.GetId() && d.GetEnvironment() == gcp.Environment && d.GetOutcome().GetStatus() == 200,
					fmt.Sprintf("%s knows of a request to %s: %v (%v)", r.Name, route, d, err)
			})
		}
	}
	arrives(ask("/v1/counted/7"), "shop/counted")
	arrives(ask("/v1/audited/7"), "shop/audited")

	if err := f.Replicas[0].Kill(); err != nil {
		t.Fatal(err)
	}
	var counted, audited []string
	for range 20 {
		counted, audited = append(counted, ask("/v1/counted/8")), append(audited, ask("/v1/audited/8"))
	}
	eventually(t, 20*time.Second, func(context.Context) (bool, string) {
		failed := metrics(t, f.Edge.Status)[`sallyport_edge_forwarded_total{result="failed",what="records"}`]
		return failed > 1, fmt.Sprintf("the edge has failed to hand on records %v times", failed)
	})
	for _, id := range []string{counted[0], audited[0]} {
		if d, err := recorded(t.Context(), f.Replicas[1].Admin, id); d != nil || err != nil {
			t.Errorf("the edge is not cut off: %v has arrived (%v)", d, err)
		}
	}
	if err := f.Replicas[0].Start(); err != nil {
		t.Fatal(err)
	}
	if err := f.ReplicaReady(t.Context(), f.Replicas[0]); err != nil {
		t.Fatal(err)
	}
	for i := range counted {
		arrives(counted[i], "shop/counted")
		arrives(audited[i], "shop/audited")
	}
	all := metrics(t, gcp.Status)
	if dropped := all["sallyport_remote_records_dropped_total"]; dropped != 0 {
		t.Errorf("%v records were dropped", dropped)
	}
}
