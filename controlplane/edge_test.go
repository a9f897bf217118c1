package controlplane_test

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/sallyport/sallyport/controlplane"
	"github.com/sallyport/sallyport/controlplane/controlplanetest"
	"github.com/sallyport/sallyport/internal/identity"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1/proxyv1connect"
	replicav1 "github.com/sallyport/sallyport/proto/gen/sallyport/replica/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/replica/v1/replicav1connect"
	"github.com/sallyport/sallyport/storage/storagetest"
)

const edgeID identity.ID = "spiffe://prod.example/edge"

// withEdge starts a replica with a database, and an edge of it.
func withEdge(t *testing.T, log *logs) (*controlplanetest.Plane, *controlplane.Server) {
	t.Helper()
	p := forEdges(t, log)
	return p, startEdge(t, p, log)
}

// forEdges starts a replica with a database, at an address that it will have again.
func forEdges(t *testing.T, log *logs) *controlplanetest.Plane {
	t.Helper()
	p := controlplanetest.New(t)
	p.Settings.Proxies.Address = freeAddress(t)
	p.Settings.Edges = []controlplane.Edge{{SPIFFEID: string(edgeID)}}
	p.Settings.Targets = []controlplane.Target{{Name: "near", Etcd: controlplane.Etcd{Endpoints: storagetest.NewEtcd(t).Endpoints()}}}
	p.Save()
	p.Start(log.logger())
	apply(t, p, "aws")
	return p
}

func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// edgeSettings are those of an edge of p.
func edgeSettings(t *testing.T, p *controlplanetest.Plane) controlplane.Settings {
	t.Helper()
	public, err := controlplane.PublicKey(p.Settings)
	if err != nil {
		t.Fatal(err)
	}
	return controlplane.Settings{
		Replica: "near", Role: controlplane.RoleEdge, Etcd: p.Settings.Targets[0].Etcd, RootPublicKeyFile: file(t, "root.pem", string(public)),
		ControlPlanes: []string{"https://127.0.0.1:1", "https://" + p.Settings.Proxies.Address}, ControlPlaneID: string(controlplanetest.ID),
		Workload: controlplane.Workload{Socket: p.Socket(edgeID), TrustDomain: string(edgeID.TrustDomain())},
		Proxies:  controlplane.Listen{Address: "127.0.0.1:0"}, Health: controlplane.Listen{Address: "127.0.0.1:0"},
	}
}

func startEdge(t *testing.T, p *controlplanetest.Plane, log *logs) *controlplane.Server {
	t.Helper()
	edge := runEdge(t, edgeSettings(t, p), log)
	eventually(t, "the edge is ready", func() bool {
		if edge.Addr(controlplane.ListenerHealth) == nil {
			return false
		}
		code, _ := get(t, "http://"+edge.Addr(controlplane.ListenerHealth).String()+"/readyz")
		return code == http.StatusOK
	})
	return edge
}

// runEdge runs an edge until the test ends.
func runEdge(t *testing.T, s controlplane.Settings, log *logs) *controlplane.Server {
	t.Helper()
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	edge, err := controlplane.New(s, log.logger())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- edge.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("stop the edge: %v", err)
		}
	})
	return edge
}

// as returns a client with the certificate of somebody, and the URL of a server's
// listener for proxies.
func as(t *testing.T, p *controlplanetest.Plane, id identity.ID, s *controlplane.Server) (*http.Client, string) {
	t.Helper()
	svid, err := p.Issuer.Issue(id, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{svid}, InsecureSkipVerify: true}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}, "https://" + s.Addr(controlplane.ListenerProxies).String()
}

// registering returns what a proxy is told at an edge.
func registering(t *testing.T, p *controlplanetest.Plane, edge *controlplane.Server, id identity.ID) string {
	t.Helper()
	web, url := as(t, p, id, edge)
	res, err := proxyv1connect.NewProxyServiceClient(web, url).Register(t.Context(),
		connect.NewRequest(&proxyv1.RegisterRequest{Instance: "one", ProtocolVersion: 2}))
	if err != nil {
		return connect.CodeOf(err).String()
	}
	return strings.TrimPrefix(res.Msg.GetAdmission().String(), "ADMISSION_") + " " + res.Msg.GetEnvironment()
}

// enrollManually has operators approve the proxies of a pattern.
func enrollManually(t *testing.T, p *controlplanetest.Plane, pattern string) {
	t.Helper()
	spec, err := structpb.NewStruct(map[string]any{"spiffeId": pattern, "environment": "aws", "approval": "MANUAL"})
	if err != nil {
		t.Fatal(err)
	}
	config := adminv1connect.NewConfigServiceClient(client(t, p, controlplanetest.Admin), p.URL())
	if _, err := config.Apply(t.Context(), connect.NewRequest(&adminv1.ApplyRequest{Resources: []*adminv1.Resource{{
		ApiVersion: "sallyport/v1", Kind: "Enrollment", Metadata: &adminv1.Metadata{Name: "manual"}, Spec: spec,
	}}})); err != nil {
		t.Fatal(err)
	}
}

// An edge admits by itself whom an Enrollment admits without an operator; whom one has
// to approve, when a replica with a database says so; and nobody whom they keep out.
func TestEdgeAdmits(t *testing.T) {
	log := &logs{}
	p, edge := withEdge(t, log)
	enroll(t, p, "auto", "spiffe://prod.example/proxy/auto/*")
	enrollManually(t, p, "spiffe://prod.example/proxy/manual/*")
	const auto, late, manual, stranger identity.ID = "spiffe://prod.example/proxy/auto/1", "spiffe://prod.example/proxy/auto/2",
		"spiffe://prod.example/proxy/manual/1", "spiffe://prod.example/web"
	told := func(id identity.ID, want string) {
		t.Helper()
		got := ""
		eventually(t, string(id)+" is told "+want, func() bool { got = registering(t, p, edge, id); return got == want })
	}
	told(auto, "ADMITTED aws")
	told(manual, "PENDING ")
	told(stranger, "PENDING ")
	fleet := adminv1connect.NewFleetServiceClient(client(t, p, controlplanetest.Admin), p.URL())
	if _, err := fleet.Approve(t.Context(), connect.NewRequest(&adminv1.ApproveRequest{SpiffeId: string(manual)})); err != nil {
		t.Fatal(err)
	}
	told(manual, "ADMITTED aws")
	if _, err := fleet.Quarantine(t.Context(), connect.NewRequest(&adminv1.QuarantineRequest{SpiffeId: string(auto)})); err != nil {
		t.Fatal(err)
	}
	told(auto, "REFUSED ")
	p.Stop()
	for id, want := range map[identity.ID]string{late: "ADMITTED aws", auto: "REFUSED ", stranger: "PENDING ", "spiffe://prod.example/proxy/manual/2": "PENDING "} {
		if got := registering(t, p, edge, id); got != want {
			t.Errorf("without any replica %s is told %q, want %q", id, got, want)
		}
	}
}

// Records and logouts go to a replica with a database, or stay where they are.
func TestEdgeHandsOn(t *testing.T) {
	log := &logs{}
	p, edge := withEdge(t, log)
	enroll(t, p, "auto", "spiffe://prod.example/proxy/auto/*")
	const proxy identity.ID = "spiffe://prod.example/proxy/auto/1"
	eventually(t, "it is admitted", func() bool { return registering(t, p, edge, proxy) == "ADMITTED aws" })
	web, url := as(t, p, proxy, edge)
	push := func(id identity.ID) (*proxyv1.PushResponse, connect.Code) {
		web, url := as(t, p, id, edge)
		res, err := proxyv1connect.NewRecordServiceClient(web, url).Push(t.Context(), connect.NewRequest(&proxyv1.PushRequest{
			Instance: "one", Boot: make([]byte, 16), FirstSequence: 1, Decisions: [][]byte{[]byte("no decision")},
		}))
		if err != nil {
			return nil, connect.CodeOf(err)
		}
		return res.Msg, 0
	}
	eventually(t, "records are kept", func() bool {
		kept, _ := push(proxy)
		return kept.GetSequence() == 1 && kept.GetRefused() == 1 // it was looked at where it is kept
	})
	if _, code := push("spiffe://prod.example/web"); code != connect.CodePermissionDenied {
		t.Errorf("records of who is not admitted: %s", code)
	}
	logout := func() connect.Code {
		_, err := proxyv1connect.NewProxyServiceClient(web, url).Logout(t.Context(), connect.NewRequest(&proxyv1.LogoutRequest{
			Proof: &proxyv1.LogoutRequest_LogoutToken{LogoutToken: "none"},
		}))
		return connect.CodeOf(err)
	}
	if code := logout(); code != connect.CodeInvalidArgument {
		t.Errorf("a proof that is none: %s", code)
	}
	p.Stop()
	if _, code := push(proxy); code != connect.CodeUnavailable {
		t.Errorf("records, without a replica: %s", code)
	}
	if code := logout(); code != connect.CodeUnavailable {
		t.Errorf("logout, without a replica: %s", code)
	}
	p.Start(log.logger())
	eventually(t, "records are kept again", func() bool { kept, _ := push(proxy); return kept.GetSequence() == 1 })
	fleet := adminv1connect.NewFleetServiceClient(client(t, p, controlplanetest.Admin), p.URL())
	eventually(t, "the proxy is listed", func() bool {
		res, err := fleet.GetProxy(t.Context(), connect.NewRequest(&adminv1.GetProxyRequest{Id: string(proxy) + "#one"}))
		return err == nil && res.Msg.GetProxy().GetEnvironment() == "aws"
	})
}

// An edge that is given the etcd of the election admits nobody.
func TestEdgeKeepsAwayFromTheElection(t *testing.T) {
	log := &logs{}
	p := forEdges(t, log)
	enroll(t, p, "auto", "spiffe://prod.example/proxy/auto/*")
	s := edgeSettings(t, p)
	s.Etcd = p.Settings.Etcd
	edge := runEdge(t, s, log)
	eventually(t, "it says so", func() bool { return strings.Contains(log.String(), "this etcd elects the publisher") })
	eventually(t, "it listens", func() bool { return edge.Addr(controlplane.ListenerProxies) != nil })
	if got := registering(t, p, edge, "spiffe://prod.example/proxy/auto/1"); got == "ADMITTED aws" {
		t.Error("a proxy is admitted")
	}
}

// Nobody but an edge may say what others have said.
func TestOnlyEdgesHandOn(t *testing.T) {
	log := &logs{}
	p := forEdges(t, log)
	for id, want := range map[identity.ID]connect.Code{edgeID: 0, controlplanetest.Proxy: connect.CodePermissionDenied, controlplanetest.ID: connect.CodePermissionDenied} {
		web, url := as(t, p, id, p.Server)
		_, err := replicav1connect.NewReplicaServiceClient(web, url).Report(t.Context(), connect.NewRequest(&replicav1.ReportRequest{Replica: "near"}))
		if code := connect.CodeOf(err); err != nil && code != want || err == nil && want != 0 {
			t.Errorf("%s: %v", id, err)
		}
	}
	if !strings.Contains(log.String(), "call of somebody who is no edge was refused") {
		t.Error("nobody is told of it")
	}
	plain := controlplanetest.New(t)
	plain.Start(log.logger())
	web, url := as(t, plain, edgeID, plain.Server)
	_, err := replicav1connect.NewReplicaServiceClient(web, url).Report(t.Context(), connect.NewRequest(&replicav1.ReportRequest{Replica: "near"}))
	if connect.CodeOf(err) != connect.CodeUnimplemented {
		t.Errorf("where no edge is named: %v", err)
	}
}

// Edges hear what is asked of their proxies, answer for themselves alone, and are let go
// when the replica ends.
func TestEdgesAreAsked(t *testing.T) {
	log := &logs{}
	p := controlplanetest.New(t)
	const other identity.ID = "spiffe://prod.example/other-edge"
	p.Settings.Edges = []controlplane.Edge{{SPIFFEID: string(edgeID)}, {SPIFFEID: string(other)}}
	p.Settings.Targets = []controlplane.Target{{Name: "near", Etcd: controlplane.Etcd{Endpoints: storagetest.NewEtcd(t).Endpoints()}}}
	p.Save()
	p.Start(log.logger())
	apply(t, p, "aws")
	enroll(t, p, "auto", "spiffe://prod.example/proxy/auto/*")
	const proxy = "spiffe://prod.example/proxy/auto/1"
	edge := func(id identity.ID) replicav1connect.ReplicaServiceClient {
		web, url := as(t, p, id, p.Server)
		return replicav1connect.NewReplicaServiceClient(web, url)
	}
	fleet := adminv1connect.NewFleetServiceClient(client(t, p, controlplanetest.Admin), p.URL())
	eventually(t, "the proxy is listed", func() bool {
		_, err := edge(edgeID).Report(t.Context(), connect.NewRequest(&replicav1.ReportRequest{Replica: "near", Proxies: []*replicav1.ProxyReport{
			{SpiffeId: proxy, Instance: "one", Connected: true, SilentFor: durationpb.New(0)},
		}}))
		res, listed := fleet.GetProxy(t.Context(), connect.NewRequest(&adminv1.GetProxyRequest{Id: proxy + "#one"}))
		return err == nil && listed == nil && res.Msg.GetProxy().GetReplica() == "edge near" && res.Msg.GetProxy().GetEnvironment() == "aws"
	})
	verified := make(chan error, 1)
	go func() {
		_, err := fleet.Verify(t.Context(), connect.NewRequest(&adminv1.VerifyRequest{Id: proxy + "#one"}))
		verified <- err
	}()
	var questions []*replicav1.Question
	for len(questions) == 0 {
		res, err := edge(edgeID).Poll(t.Context(), connect.NewRequest(&replicav1.PollRequest{Replica: "near"}))
		if err != nil {
			t.Fatal(err)
		}
		questions = res.Msg.GetQuestions()
	}
	if questions[0].GetProxy() != proxy+"#one" || !questions[0].GetInspect().GetSecurity() {
		t.Errorf("asked is %v", questions)
	}
	answer := connect.NewRequest(&replicav1.AnswerRequest{Id: questions[0].GetId()})
	for id, want := range map[identity.ID]connect.Code{other: connect.CodeNotFound, controlplanetest.Proxy: connect.CodePermissionDenied} {
		if _, err := edge(id).Answer(t.Context(), answer); connect.CodeOf(err) != want {
			t.Errorf("an answer of %s: %v", id, err)
		}
	}
	if _, err := edge(edgeID).Answer(t.Context(), answer); err != nil {
		t.Error(err)
	}
	if err := <-verified; connect.CodeOf(err) != connect.CodeUnavailable || !strings.Contains(err.Error(), "has gone to another replica") {
		t.Errorf("of a proxy that is not there any more: %v", err)
	}
	ended := make(chan time.Time, 1)
	go func() {
		_, _ = edge(edgeID).Poll(t.Context(), connect.NewRequest(&replicav1.PollRequest{Replica: "near"}))
		ended <- time.Now()
	}()
	began := time.Now()
	p.Stop()
	if took := (<-ended).Sub(began); took > 2*time.Second {
		t.Errorf("a poll holds up a replica that ends for %s", took)
	}
}

func TestSettingsOfAnEdge(t *testing.T) {
	p := controlplanetest.Prepare(t)
	p.Settings.Proxies.Address = "127.0.0.1:8444"
	p.Settings.Targets = []controlplane.Target{{Name: "near", Etcd: controlplane.Etcd{Endpoints: []string{"http://127.0.0.1:2379"}}}}
	base := edgeSettings(t, p)
	for name, c := range map[string]struct {
		change func(*controlplane.Settings)
		want   string
	}{
		"good":         {func(*controlplane.Settings) {}, ""},
		"unknown role": {func(s *controlplane.Settings) { s.Role = "leader" }, `role: "leader" is neither full nor edge`},
		"what a replica with a database has": {func(s *controlplane.Settings) {
			s.Database.URLFile, s.Decisions.RetentionDays, s.Fleet.ForgetLostAfterDays, s.Revisions.RetentionDays = "/url", 1, 1, 1
			s.SigningKeyFile, s.SecretsKeyFile, s.SigningKeyPKCS11.Token = "/key", "/secrets", "t"
			s.Admin.Address, s.Edges = ":8443", []controlplane.Edge{{SPIFFEID: string(edgeID)}}
			s.Targets, s.Election, s.Follows = []controlplane.Target{{Name: "near"}}, s.Etcd, "near"
		}, `targets: an edge publishes nothing
election: an edge never has the etcd of the election
follows: an edge serves from etcd
database: an edge has no database
decisions: an edge has no database
fleet: an edge has no database
revisions: an edge has no database
signing_key_file: an edge signs nothing
signing_key_pkcs11: an edge signs nothing
secrets_key_file: an edge signs nothing
admin: an edge has no API
edges: an edge takes nothing from other edges`},
		"nothing of its own": {func(s *controlplane.Settings) {
			s.RootPublicKeyFile, s.ControlPlanes, s.ControlPlaneID, s.Etcd = "", nil, "", controlplane.Etcd{}
		}, `etcd.endpoints: is required
root_public_key_file: is required
control_planes: is required
control_plane_id: is required`},
		"names that are none": {func(s *controlplane.Settings) {
			s.ControlPlanes, s.ControlPlaneID = []string{"http://a:1", "https://a", "https://a:1/b"}, "controlplane"
		}, `control_planes[0]: "http://a:1" is not of the form https://host:port
control_planes[1]: "https://a" is not of the form https://host:port
control_planes[2]: "https://a:1/b" is not of the form https://host:port
control_plane_id: parse SPIFFE ID "controlplane": scheme is missing or invalid`},
	} {
		s := base
		c.change(&s)
		got := ""
		if err := s.Validate(); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, c.want)
		}
	}
	p.Settings.Database.URLFile = file(t, "url", "postgres://sallyport@localhost/sallyport\n")
	p.Settings.Edges = []controlplane.Edge{{}, {SPIFFEID: string(edgeID)}, {SPIFFEID: string(edgeID)}, {SPIFFEID: "x"}}
	p.Settings.ControlPlaneID = string(controlplanetest.ID)
	p.Settings.Targets = nil
	want := `edges: need an etcd that does not elect the publisher: name it in targets, or another one in election
control_plane_id: is for edges: this replica has a database
edges[0].spiffe_id: is required
edges[2].spiffe_id: spiffe://prod.example/edge is there twice
edges[3].spiffe_id: parse SPIFFE ID "x": scheme is missing or invalid`
	if err := p.Settings.Validate(); err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

// Commands that need a database say so.
func TestCommandsOfAnEdge(t *testing.T) {
	p := controlplanetest.Prepare(t)
	p.Settings.Targets = []controlplane.Target{{}}
	s := edgeSettings(t, p)
	const want = "these are the settings of an edge, which has no database"
	if err := controlplane.Migrate(t.Context(), s); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("migrate: %v", err)
	}
	if _, _, err := controlplane.Rotation(t.Context(), s); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("keys: %v", err)
	}
	if err := controlplane.Recover(t.Context(), s, controlplane.RecoverOptions{}, &logs{}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("recover: %v", err)
	}
}
