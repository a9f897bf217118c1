//go:build upgrade

package e2e_test

import (
	"context"
	"crypto/tls"
	"flag"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
)

var previous = flag.String("previous", "", "the folder of the binaries of the release before")

// A fleet of the release before becomes one of this build, replica by replica and
// proxy by proxy. At each step a change is enforced everywhere, whoever commits it,
// and requests are answered.
func TestRollingUpgrade(t *testing.T) {
	if *previous == "" {
		t.Fatal("say where the release before is: -previous FOLDER")
	}
	f, err := fleet.Start(t.Context(), fleet.Config{Dir: folder(t), Bin: *previous, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() {
		if err := f.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	aws, gcp := f.Members[0], f.Members[1]
	follows(t, f, f.Admin, "of-before")

	// The schema of this build under a replica of before.
	control := filepath.Join(bin, "sallyport-controlplane")
	migrate := &fleet.Process{Label: "migration", Args: []string{control, "migrate", "--settings", f.Path("controlplane.yaml")}, Log: f.Path("migration.log")}
	if err := migrate.Start(); err != nil {
		t.Fatal(err)
	}
	<-migrate.Done()
	follows(t, f, f.Admin, "migrated")

	// Both side by side, whichever leads.
	beside := startBeside(t, f, control)
	follows(t, f, f.Admin, "beside-by-before")
	follows(t, f, beside, "beside-by-this")

	// A proxy of this build, begun with what one of before left, at a replica of before.
	become(t, f, aws)
	follows(t, f, beside, "one-proxy")

	// The replica of before ends: the other leads. A proxy of before is served by this
	// build.
	if err := f.ControlPlane.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := beside.Apply(t.Context(), policyNamed("taken-over"), "taken-over"); err != nil {
		t.Fatal(err)
	}
	f.ControlPlane.Args[0] = control
	if err := f.ControlPlane.Start(); err != nil {
		t.Fatal(err)
	}
	if err := f.ControlPlaneReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := f.Connected(t.Context()); err != nil {
		t.Fatal(err)
	}
	follows(t, f, f.Admin, "proxy-of-before")
	older, err := proxyOf(t.Context(), f, gcp)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the proxy of before is of build %q, protocol %d, and lacks %q", older.GetBuild(), older.GetProtocolVersion(), older.GetLacks())

	// And what one of before takes over from one of this build.
	become(t, f, gcp)
	follows(t, f, f.Admin, "upgraded")
	if err := aws.Stop(); err != nil {
		t.Fatal(err)
	}
	aws.Args[0] = filepath.Join(*previous, "sallyport-proxy")
	if err := f.ControlPlane.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := aws.Start(); err != nil {
		t.Fatal(err)
	}
	if err := f.MemberReady(t.Context(), aws); err != nil {
		t.Fatalf("one of before does not begin with what this build left: %v", err)
	}
	answers(t, f, aws)
}

// become replaces a proxy's build by this one.
func become(t *testing.T, f *fleet.Fleet, m *fleet.Member) {
	t.Helper()
	if err := m.Stop(); err != nil {
		t.Fatal(err)
	}
	m.Args[0] = filepath.Join(bin, "sallyport-proxy")
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	if err := f.MemberReady(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if err := f.Connected(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// follows commits a change through a replica, and wants it enforced by all proxies.
func follows(t *testing.T, f *fleet.Fleet, by *fleet.Operator, name string) {
	t.Helper()
	revision, err := by.Apply(t.Context(), policyNamed(name), name)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	for _, m := range f.Members {
		p := becomes(t, f, m, adminv1.Enforcement_ENFORCEMENT_ENFORCED, revision)
		if len(p.GetRejects()) > 0 {
			t.Errorf("%s: %s rejects %v", name, m.Name, p.GetRejects())
		}
		answers(t, f, m)
	}
}

func answers(t *testing.T, f *fleet.Fleet, m *fleet.Member) {
	t.Helper()
	if status, body := ask(t, f, m, http.MethodGet, "/v1/orders/7"); status != http.StatusOK {
		t.Errorf("%s answers %d %s", m.Name, status, body)
	}
}

// startBeside starts one more replica, of this build, with the settings of the first
// and addresses of its own, and returns its operator.
func startBeside(t *testing.T, f *fleet.Fleet, control string) *fleet.Operator {
	t.Helper()
	b, err := os.ReadFile(f.Path("controlplane.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var settings map[string]any
	if err := yaml.Unmarshal(b, &settings); err != nil {
		t.Fatal(err)
	}
	settings["replica"] = "beside"
	at := map[string]string{}
	for _, listener := range []string{"admin", "proxies", "health"} {
		at[listener] = freeAddress(t)
		settings[listener].(map[string]any)["address"] = at[listener]
	}
	if b, err = yaml.Marshal(settings); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.Path("beside.yaml"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	p := &fleet.Process{Label: "replica beside", Args: []string{control, "--settings", f.Path("beside.yaml")}, Log: f.Path("beside.log")}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	eventually(t, 20*time.Second, func(ctx context.Context) (bool, string) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at["health"]+"/readyz", nil)
		if err != nil {
			return false, err.Error()
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return false, err.Error()
		}
		defer res.Body.Close()
		return res.StatusCode == http.StatusOK, res.Status
	})
	return operatorAt(t, f, "https://"+at["admin"])
}

// operatorAt is the operator at another replica.
func operatorAt(t *testing.T, f *fleet.Fleet, url string) *fleet.Operator {
	t.Helper()
	roots, err := f.Roots()
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := tls.LoadX509KeyPair(f.Described.Operator.CertificateFile, f.Described.Operator.PrivateKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{certificate},
	}}}
	t.Cleanup(client.CloseIdleConnections)
	return &fleet.Operator{
		Config: adminv1connect.NewConfigServiceClient(client, url),
		Fleet:  adminv1connect.NewFleetServiceClient(client, url),
	}
}
