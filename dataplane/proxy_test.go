package dataplane_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/dataplane"
	"github.com/sallyport/sallyport/dataplane/geo/geotest"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/identity/issuer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// settings are those of a proxy that gets an identity and reaches no control
// plane.
func settings(t *testing.T) dataplane.Settings {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	is, err := issuer.New(issuer.Config{DevelopmentOnly: true, TrustDomain: "prod.example", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "s")
	e, err := is.Listen(identity.ID("spiffe://prod.example/proxy/one"), socket, 0)
	if err != nil {
		t.Fatal(err)
	}
	run(t, e.Run)
	return dataplane.Settings{
		Instance:       "one",
		ControlPlanes:  []string{"https://127.0.0.1:1"},
		ControlPlaneID: "spiffe://prod.example/sallyport/control",
		RootPublicKey:  base64.StdEncoding.EncodeToString(rootKey.(ed25519.PublicKey)),
		Workload:       dataplane.Workload{Socket: socket, TrustDomain: "prod.example"},
		StateDirectory: filepath.Join(t.TempDir(), "state"),
		Admin:          dataplane.Admin{Address: free(t)},
		Records:        filepath.Join(t.TempDir(), "records.jsonl"),
	}
}

// free returns an address that nobody listens on at the moment.
func free(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func run(t *testing.T, part func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := part(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

// get asks until the admin listener answers.
func get(t *testing.T, address, path string) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	for until := time.Now().Add(patience); ; {
		r, err := client.Get("http://" + address + path)
		if err != nil {
			if time.Now().After(until) {
				t.Fatal(err)
			}
			continue
		}
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Body.Close()
		return r.StatusCode, string(b)
	}
}

// Without a snapshot a proxy lives and is not ready, and it says so.
func TestAdmin(t *testing.T) {
	s := settings(t)
	s.Geo.Databases = []string{filepath.Join(t.TempDir(), "city.mmdb"), filepath.Join(t.TempDir(), "none.mmdb")}
	if err := (geotest.Database{Type: "GeoLite2-City", Built: time.Now().Add(time.Hour)}).Put(s.Geo.Databases[0]); err != nil {
		t.Fatal(err)
	}
	p, err := dataplane.New(s, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	run(t, p.Run)
	if code, _ := get(t, s.Admin.Address, "/healthz"); code != http.StatusOK {
		t.Errorf("/healthz answers %d", code)
	}
	if code, body := get(t, s.Admin.Address, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "no snapshot is enforced yet") {
		t.Errorf("/readyz answers %d %q", code, body)
	}
	_, metrics := get(t, s.Admin.Address, "/metrics")
	for _, name := range []string{
		"sallyport_snapshot_revision 0", "sallyport_configuration_age_seconds +Inf", "sallyport_security_sequence 0", "sallyport_security_age_seconds +Inf", "sallyport_identity_expires_timestamp_seconds ",
		"sallyport_link_connected 0", "go_goroutines ",
		fmt.Sprintf("sallyport_geo_database_age_seconds{file=%q} 0", s.Geo.Databases[0]),
		fmt.Sprintf("sallyport_geo_database_age_seconds{file=%q} +Inf", s.Geo.Databases[1]),
	} {
		if !strings.Contains(metrics, "\n"+name) {
			t.Errorf("/metrics has no %q", name)
		}
	}
	for accepts, want := range map[string]string{
		"application/openmetrics-text;version=1.0.0":                                                 "application/openmetrics-text; version=1.0.0",
		"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited": "application/vnd.google.protobuf;",
	} {
		if got := answersIn(t, s.Admin.Address, accepts); !strings.HasPrefix(got, want) {
			t.Errorf("/metrics for who accepts %s is %s", accepts, got)
		}
	}
	for path, want := range map[string]int{
		"/debug/pprof/heap": http.StatusOK, "/debug/pprof/profile?seconds=1": http.StatusOK, "/debug/pprof/none": http.StatusNotFound,
		"/debug/pprof/profile?seconds=0": http.StatusBadRequest, "/debug/pprof/profile?seconds=3600": http.StatusBadRequest,
	} {
		if code, _ := get(t, s.Admin.Address, path); code != want {
			t.Errorf("%s answers %d, not %d", path, code, want)
		}
	}
}

// answersIn returns in what /metrics answers who accepts something.
func answersIn(t *testing.T, address, accepts string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", accepts)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	res, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	return res.Header.Get("Content-Type")
}

// What cannot work ends the process, with a reason, at once.
func TestRunFails(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*testing.T, *dataplane.Settings)
		want  string
	}{
		"the admin address is taken": {func(t *testing.T, s *dataplane.Settings) {
			ln, err := net.Listen("tcp", s.Admin.Address)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = ln.Close() })
		}, "listen for admin"},
		"records cannot be written": {func(t *testing.T, s *dataplane.Settings) {
			s.Records = filepath.Join(s.Records, "below", "nothing")
		}, "open records"},
		"the state directory is a file": {func(t *testing.T, s *dataplane.Settings) {
			if err := os.WriteFile(s.StateDirectory, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "state directory"},
	} {
		t.Run(name, func(t *testing.T) {
			s := settings(t)
			c.spoil(t, &s)
			p, err := dataplane.New(s, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if err := p.Run(ctx); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestNewChecksTheSettings(t *testing.T) {
	if _, err := dataplane.New(dataplane.Settings{}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("empty settings were accepted")
	}
}

// Records go on in a new file when the old one was moved away, and nothing of
// the old one is lost.
func TestRecordFileMayBeMoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "records.jsonl")
	w := dataplane.NewRecordFile(path)
	for i := range 4 {
		if _, err := fmt.Fprintln(w, i); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			if err := os.Rename(path, path+".1"); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, want := range map[string]string{path + ".1": "0\n1\n", path: "2\n3\n"} {
		b, err := os.ReadFile(name)
		if err != nil || string(b) != want {
			t.Errorf("%s holds %q, %v; want %q", filepath.Base(name), b, err, want)
		}
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", filepath.Base(name), info.Mode(), err)
		}
	}
	gone := dataplane.NewRecordFile(filepath.Join(path, "below", "a", "file"))
	if _, err := gone.Write([]byte("x")); err == nil {
		t.Error("wrote to where nothing can be written")
	}
}
