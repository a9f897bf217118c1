package controlplane_test

import (
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sallyport/sallyport/controlplane/controlplanetest"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/proof"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1/proxyv1connect"
	replicav1 "github.com/sallyport/sallyport/proto/gen/sallyport/replica/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/replica/v1/replicav1connect"
)

// binding has somebody with an SVID sign that a key is that of a proxy's process "a".
func binding(t *testing.T, p *controlplanetest.Plane, by, proxy identity.ID, key []byte) *proxyv1.KeyBinding {
	t.Helper()
	svid, err := p.Issuer.Issue(by, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	b, err := proof.Bind(proof.Keys{SPIFFEID: string(proxy), Instance: "a", Ack: key}, identity.SVID{ID: by, Certificate: &svid})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A replica verifies what an edge hands on of a proxy's keys with what it trusts when
// proxies connect to it, and reads no more of it than is bounded.
func TestKeysBehindAnEdge(t *testing.T) {
	log := &logs{}
	p := forEdges(t, log)
	const proxy identity.ID = "spiffe://prod.example/proxy/auto/1"
	web, url := as(t, p, edgeID, p.Server)
	edge := replicav1connect.NewReplicaServiceClient(web, url)
	fleet := adminv1connect.NewFleetServiceClient(client(t, p, controlplanetest.Admin), p.URL())
	k, err := proof.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	report := func(b *proxyv1.KeyBinding) error {
		_, err := edge.Report(t.Context(), connect.NewRequest(&replicav1.ReportRequest{Replica: "near", Proxies: []*replicav1.ProxyReport{{
			SpiffeId: string(proxy), Instance: "a", Connected: true, SilentFor: durationpb.New(0), Binding: b,
			Status: &adminv1.Proxy{AckKey: k.Public(), ProtocolVersion: 3},
		}}}))
		return err
	}
	doubt := func(b *proxyv1.KeyBinding) string {
		t.Helper()
		if err := report(b); err != nil {
			t.Fatal(err)
		}
		res, err := fleet.GetProxy(t.Context(), connect.NewRequest(&adminv1.GetProxyRequest{Id: string(proxy) + "#a"}))
		if err != nil {
			t.Fatal(err)
		}
		return res.Msg.GetProxy().GetAckKeyDoubt()
	}
	eventually(t, "it takes reports", func() bool { return report(nil) == nil })
	if got := doubt(binding(t, p, proxy, proxy, k.Public())); got != "" {
		t.Errorf("its own key is in doubt: %s", got)
	}
	if got := doubt(binding(t, p, edgeID, proxy, k.Public())); !strings.Contains(got, string(edgeID)) {
		t.Errorf("the key of the edge is in doubt: %q", got)
	}
	if !strings.Contains(log.String(), "an edge told of keys that are not those of the processes that registered") {
		t.Error("nobody is told of it")
	}
	web, url = as(t, p, proxy, p.Server)
	proxies := proxyv1connect.NewProxyServiceClient(web, url)
	for name, b := range map[string]*proxyv1.KeyBinding{
		"chain": {Chain: make([]byte, 16385)}, "statement": {Statement: make([]byte, 4097)}, "signature": {Signature: make([]byte, 1025)},
	} {
		if err := report(b); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("of a large %s an edge is told: %v", name, err)
		}
		_, err := proxies.Register(t.Context(), connect.NewRequest(&proxyv1.RegisterRequest{Instance: "a", ProtocolVersion: 3, Binding: b}))
		if connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("of a large %s a proxy is told: %v", name, err)
		}
	}
}
