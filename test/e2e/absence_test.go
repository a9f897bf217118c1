package e2e_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/identity/issuer"
)

// fading are identities of 20 seconds, from sockets that can be away.
type fading struct {
	*issuer.Issuer
	t   *testing.T
	dir string

	mu    sync.Mutex
	known map[string]fleet.Workload // by name
	stops map[string]func()
}

func newFading(t *testing.T) *fading {
	t.Helper()
	is, err := issuer.New(issuer.Config{DevelopmentOnly: true, TrustDomain: fleet.TrustDomain, TTL: 20 * time.Second, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "fading-") // short: sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	f := &fading{Issuer: is, t: t, dir: dir, known: map[string]fleet.Workload{}, stops: map[string]func(){}}
	t.Cleanup(func() {
		for name := range f.known {
			f.away(name)
		}
		_ = os.RemoveAll(dir)
	})
	return f
}

// Workload implements fleet.Identities.
func (f *fading) Workload(_ context.Context, w fleet.Workload) (string, error) {
	f.mu.Lock()
	f.known[w.Name] = w
	f.mu.Unlock()
	return f.socket(w.Name), f.back(w.Name)
}

// Certificate implements fleet.Identities.
func (f *fading) Certificate(_ context.Context, id identity.ID) (tls.Certificate, error) {
	return f.Issue(id, time.Hour)
}

func (f *fading) socket(name string) string { return filepath.Join(f.dir, name) }

// back serves a workload again.
func (f *fading) back(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	endpoint, err := f.Listen(f.known[name].ID, f.socket(name), 0o600)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- endpoint.Run(ctx) }()
	f.stops[name] = func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Error(err)
		}
	}
	return nil
}

// away has the workload find nobody at its socket.
func (f *fading) away(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if stop := f.stops[name]; stop != nil {
		stop()
	}
	delete(f.stops, name)
}

// The control plane and the Workload API are away for longer than limits and SVIDs
// last: each proxy goes by its environment's rule, and by it again when they are back,
// without a restart.
func TestLongAbsence(t *testing.T) {
	ids := newFading(t)
	f := startWith(t, ids)
	denies, serves := f.Members[0], f.Members[1]
	var rules strings.Builder
	for m, action := range map[*fleet.Member]string{denies: "DENY", serves: "SERVE"} {
		fmt.Fprintf(&rules, "---\n{apiVersion: sallyport/v1, kind: Environment, metadata: {name: %s}, spec: {configurationAge: {limit: 30s, action: %s}, securityAge: {limit: 30s, action: SERVE}}}\n",
			m.Environment, action)
	}
	revision, err := f.Admin.Apply(t.Context(), rules.String(), "rules for an absence")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Admin.Enforced(t.Context(), revision, f.Environments()...); err != nil {
		t.Fatal(err)
	}
	pids := [2]int{denies.PID(), serves.PID()}
	answers := func(m *fleet.Member, path, want string) {
		t.Helper()
		eventually(t, time.Minute, func(context.Context) (bool, string) {
			status, body := ask(t, f, m, http.MethodGet, path)
			return strings.HasPrefix(fmt.Sprint(status, " ", body), want) || strings.Contains(body, `"`+want+`"`), fmt.Sprint(m.Name, " answers ", status, " ", body)
		})
	}
	answers(denies, "/v1/orders/7", "200")
	began := time.Now()
	for _, m := range f.Members {
		ids.away(m.Name)
	}
	if err := f.ControlPlane.Stop(); err != nil {
		t.Fatal(err)
	}
	answers(denies, "/v1/inventory/7", "200") // it is not stale yet
	answers(serves, "/v1/orders/7", "identity_expired")
	answers(denies, "/v1/inventory/7", "configuration_stale")
	if after := time.Since(began); after < 20*time.Second {
		t.Errorf("it denies after %s already", after)
	}
	answers(serves, "/v1/inventory/7", "200")
	for _, m := range f.Members {
		eventually(t, time.Minute, func(context.Context) (bool, string) {
			now := metrics(t, m.Status)
			return now[`sallyport_stale{clock="configuration"}`] == 1 && now[`sallyport_stale{clock="security"}`] == 1, "no alarm at " + m.Name
		})
		if b, err := os.ReadFile(m.Log); err != nil || !strings.Contains(string(b), `"staleness limit exceeded"`) {
			t.Errorf("the log of %s says nothing (%v)", m.Name, err)
		}
	}
	answers(serves, "/v1/inventory/7", "200") // whatever the alarm

	for _, m := range f.Members {
		if err := ids.back(m.Name); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.ControlPlane.Start(); err != nil {
		t.Fatal(err)
	}
	for _, m := range f.Members {
		answers(m, "/v1/inventory/7", "200")
		answers(m, "/v1/orders/7", "200")
		eventually(t, time.Minute, func(context.Context) (bool, string) {
			return metrics(t, m.Status)[`sallyport_stale{clock="configuration"}`] == 0, "the alarm of " + m.Name + " goes on"
		})
	}
	if pids != [2]int{denies.PID(), serves.PID()} {
		t.Error("a proxy was restarted")
	}
	goesOn(t, f)
}
