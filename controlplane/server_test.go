package controlplane_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/sallyport/sallyport/controlplane"
	"github.com/sallyport/sallyport/controlplane/controlplanetest"
	"github.com/sallyport/sallyport/internal/identity/issuer"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
	"github.com/sallyport/sallyport/storage/postgres"
	"github.com/sallyport/sallyport/storage/storagetest"
)

func environment(name string) *adminv1.ApplyRequest {
	return &adminv1.ApplyRequest{Resources: []*adminv1.Resource{{
		ApiVersion: "sallyport/v1", Kind: "Environment", Metadata: &adminv1.Metadata{Name: name}, Spec: &structpb.Struct{},
	}}}
}

// apply applies an environment, or ends the test.
func apply(t *testing.T, p *controlplanetest.Plane, name string) {
	t.Helper()
	config := adminv1connect.NewConfigServiceClient(client(t, p, controlplanetest.Admin), p.URL())
	if _, err := config.Apply(t.Context(), connect.NewRequest(environment(name))); err != nil {
		t.Fatal(err)
	}
}

func TestAReplicaTellsWhatItWaitsFor(t *testing.T) {
	database := storagetest.NewPostgres(t)
	if err := errors.Join(database.CreateDatabase(t.Context(), "sallyport", ""), postgres.Migrate(t.Context(), database.DSN("sallyport"))); err != nil {
		t.Fatal(err)
	}
	if err := database.Stop(); err != nil {
		t.Fatal(err)
	}
	p := controlplanetest.Prepare(t)
	p.Settings.Database.URLFile = file(t, "url", database.DSN("sallyport"))
	socket := p.Settings.Workload.Socket
	p.Settings.Workload.Socket = filepath.Join(p.Dir, "later.sock")
	p.Run((&logs{}).logger())
	state := func() string {
		status, text := get(t, p.HealthURL()+"/readyz")
		return fmt.Sprint(status, " ", text)
	}
	if got, want := state(), "503 no identity from the Workload API yet"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if status, _ := get(t, p.HealthURL()+"/healthz"); status != 200 {
		t.Errorf("a replica that waits is not healthy: %d", status)
	}
	if status, _ := get(t, p.HealthURL()+"/debug/pprof/heap?gc=1"); status != 200 {
		t.Errorf("a replica that waits has no profiles: %d", status)
	}
	if err := os.Symlink(socket, p.Settings.Workload.Socket); err != nil {
		t.Fatal(err)
	}
	eventually(t, "identity", func() bool { return state() == "503 the database has not been reached yet" })
	if err := database.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "ready without a restart", func() bool { return state() == "200 " })
	apply(t, p, "aws")
}

func TestASchemaThatDoesNotFitEndsTheReplica(t *testing.T) {
	p := controlplanetest.Prepare(t)
	p.Settings.Database.URLFile = file(t, "url", storagetest.Postgres(t, nil))
	server, err := controlplane.New(p.Settings, (&logs{}).logger())
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Run(t.Context()); !errors.Is(err, postgres.ErrSchema) {
		t.Errorf("got %v, want ErrSchema", err)
	}
}

func TestAnAddressThatIsTakenEndsTheReplica(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, set := range map[string]func(*controlplane.Settings, string){
		"admin":   func(s *controlplane.Settings, address string) { s.Admin.Address = address },
		"proxies": func(s *controlplane.Settings, address string) { s.Proxies.Address = address },
		"health":  func(s *controlplane.Settings, address string) { s.Health.Address = address },
	} {
		p := controlplanetest.New(t)
		set(&p.Settings, taken.Addr().String())
		server, err := controlplane.New(p.Settings, (&logs{}).logger())
		if err != nil {
			t.Fatal(err)
		}
		if err := server.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "listen for "+name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDraining(t *testing.T) {
	p := controlplanetest.New(t)
	log := &logs{}
	p.Start(log.logger())
	apply(t, p, "aws")
	// Someone waits for a proxy that never comes.
	if err := saveLaggard(t, p); err != nil {
		t.Fatal(err)
	}
	fleet := adminv1connect.NewFleetServiceClient(client(t, p, controlplanetest.Viewer), p.URL())
	stream, err := fleet.WaitEnforced(t.Context(), connect.NewRequest(&adminv1.WaitEnforcedRequest{Revision: 1, Timeout: durationpb.New(time.Minute)}))
	if err != nil || !stream.Receive() {
		t.Fatal(err, stream.Err())
	}
	began := time.Now()
	p.Stop()
	if stream.Receive() || connect.CodeOf(stream.Err()) != connect.CodeUnavailable {
		t.Errorf("the wait ended with %v", stream.Err())
	}
	if took := time.Since(began); took > 30*time.Second { // and it would wait for a minute
		t.Errorf("took %s", took)
	}
	if strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("logged %s", log)
	}
}

func TestMetrics(t *testing.T) {
	p := controlplanetest.New(t)
	p.Start((&logs{}).logger())
	apply(t, p, "aws")
	apply(t, p, "gcp")
	apply(t, p, "gcp")
	want := []string{
		`sallyport_revision 2`,
		`sallyport_environment_committed_revision{environment="aws"} 1`,
		`sallyport_environment_committed_revision{environment="gcp"} 2`,
		`sallyport_environment_committed_revision{environment="@security"} 1`,
		`sallyport_environment_distributed_revision{environment="@security"} 1`,
		`sallyport_environment_distributed_revision{environment="aws"} 1`,
		`sallyport_environment_distributed_revision{environment="gcp"} 2`,
		`sallyport_connected_proxies{environment="aws"} 0`,
		`sallyport_admin_calls_total{code="ok",procedure="/sallyport.admin.v1.ConfigService/Apply"} 3`,
		`sallyport_admin_call_seconds_count{procedure="/sallyport.admin.v1.ConfigService/Apply"} 3`,
		`go_goroutines `,
	}
	eventually(t, "metrics", func() bool {
		_, text := get(t, p.HealthURL()+"/metrics")
		for _, line := range want {
			if !strings.Contains(text, "\n"+line) {
				return false
			}
		}
		return true
	})
}

// A certificate that is renewed counts without a restart; while its two files
// do not belong together the one before goes on.
func TestTheAdminCertificateIsReadAgain(t *testing.T) {
	p := controlplanetest.New(t)
	log := &logs{}
	p.Start(log.logger())
	serial := func() string {
		conn, err := tls.Dial("tcp", p.Server.Addr(controlplane.ListenerAdmin).String(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	first := serial()
	renewed, err := p.Issuer.IssueServerCertificate([]string{"127.0.0.1"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	chain, key, err := issuer.EncodePEM(renewed)
	if err != nil {
		t.Fatal(err)
	}
	replace(t, p.Settings.Admin.CertificateFile, chain)
	eventually(t, "trouble to be told", func() bool {
		if got := serial(); got != first {
			t.Fatalf("a certificate without its key is presented: %s", got)
		}
		return strings.Contains(log.String(), "admin certificate was not read again")
	})
	replace(t, p.Settings.Admin.PrivateKeyFile, key)
	eventually(t, "the renewed certificate", func() bool { return serial() != first })
	if n := strings.Count(log.String(), "admin certificate was not read again"); n != 1 {
		t.Errorf("told %d times", n)
	}
}

// What is secret stands in files, and nowhere else: not even in the log of one
// who looks for faults.
func TestSecretsAreNotLogged(t *testing.T) {
	const password = "correct-horse-battery"
	refused := refusedAddress(t)
	for name, dsn := range map[string]string{
		"nobody there": "postgres://sallyport:" + password + "@" + refused + "/sallyport",
		"key=value":    "host=127.0.0.1 port=" + strings.TrimPrefix(refused, "127.0.0.1:") + " user=sallyport password=" + password,
		"malformed":    "postgres://sallyport:" + password + "@host:port/%zz",
	} {
		t.Run(name, func(t *testing.T) {
			p := controlplanetest.Prepare(t)
			p.Settings.Database.URLFile = file(t, "url", dsn)
			p.Save()
			log := &logs{}
			_, err := controlplane.LoadSettings(p.SettingsFile)
			server, newErr := controlplane.New(p.Settings, log.logger())
			migrateErr := controlplane.Migrate(t.Context(), p.Settings)
			if migrateErr == nil {
				t.Error("a database that is not there was migrated")
			}
			if newErr == nil {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ran := make(chan error, 1)
				go func() { ran <- server.Run(ctx) }()
				eventually(t, "it has tried", func() bool { return strings.Contains(log.String(), "database cannot be reached yet") })
				cancel()
				if err := <-ran; err != nil {
					t.Error(err)
				}
			}
			token := p.Token("alice", "sallyport", time.Hour)
			said := fmt.Sprint(err, newErr, migrateErr, log)
			for _, secret := range []string{password, token} {
				if strings.Contains(said, secret) {
					t.Errorf("says %s", regexp.MustCompile(secret).ReplaceAllString(said, "SECRET"))
				}
			}
			if name != "malformed" && newErr != nil {
				t.Error(newErr)
			}
		})
	}
}

// refusedAddress is one at which nobody listens.
func refusedAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// replace replaces a file as those do who renew certificates.
func replace(t *testing.T, path string, content []byte) {
	t.Helper()
	next := path + ".next"
	if err := errors.Join(os.WriteFile(next, content, 0o600), os.Rename(next, path)); err != nil {
		t.Fatal(err)
	}
}
