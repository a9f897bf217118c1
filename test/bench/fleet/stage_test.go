package fleet_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
	"github.com/sallyport/sallyport/controlplane"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/identity/issuer"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
)

const svidTTL = 24 * time.Hour

// identities are those of a fleet, and of what is simulated.
type identities struct {
	*testing.T
	*issuer.Issuer
	dir string
}

func newIdentities(t *testing.T, dir string) *identities {
	t.Helper()
	is, err := issuer.New(issuer.Config{DevelopmentOnly: true, TrustDomain: fleet.TrustDomain, TTL: svidTTL, Log: quiet()})
	must(t, err)
	return &identities{t, is, dir}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// Workload implements fleet.Identities.
func (i *identities) Workload(_ context.Context, w fleet.Workload) (string, error) {
	socket := filepath.Join(i.dir, w.Name+".sock")
	endpoint, err := i.Listen(w.ID, socket, 0)
	if err != nil {
		return "", err
	}
	background(i.T, endpoint.Run)
	return socket, nil
}

// Certificate implements fleet.Identities.
func (i *identities) Certificate(_ context.Context, id identity.ID) (tls.Certificate, error) {
	return i.Issue(id, svidTTL)
}

// source returns an identity that has been got from the Workload API, which is
// not asked again: it lasts for longer than anything here.
func (i *identities) source(ctx context.Context, id identity.ID, name string) (_ *identity.Source, err error) {
	endpoint, err := i.Listen(id, filepath.Join(i.dir, name+".sock"), 0)
	if err != nil {
		return nil, err
	}
	s, err := identity.New(identity.Config{SocketAddr: endpoint.Addr(), TrustDomain: fleet.TrustDomain, Log: quiet()})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 2)
	go func() { ended <- endpoint.Run(ctx) }()
	go func() { ended <- s.Run(ctx) }()
	err = s.Wait(ctx)
	cancel()
	return s, errors.Join(err, <-ended, <-ended)
}

// background runs f until the test ends.
func background(t *testing.T, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// stage is a fleet whose control plane has a second replica, which is not started
// yet.
type stage struct {
	*fleet.Fleet
	ids           *identities
	first, second *replica
}

// replica is one of the control plane.
type replica struct {
	*fleet.Process
	proxies string // where it serves them
	status  string // where it serves /readyz and profiles
	admin   *fleet.Operator
}

func begin(t *testing.T) *stage {
	t.Helper()
	dir := folder(t)
	s := &stage{ids: newIdentities(t, dir)}
	f, err := fleet.Start(t.Context(), fleet.Config{Dir: dir, Bin: bin, Log: quiet(), Identities: s.ids})
	t.Cleanup(func() {
		if err := f.Stop(); err != nil {
			t.Error(err)
		}
	})
	must(t, err)
	s.Fleet = f
	settings, err := controlplane.LoadSettings(f.Path("controlplane.yaml"))
	must(t, err)
	s.first = &replica{f.ControlPlane, "https://" + settings.Proxies.Address, f.Described.Status, f.Admin}
	s.second = s.another(t)
	return s
}

// folder returns a folder for the test, and shows the logs in it should the test
// fail.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sallyport-fleet-") // short: sockets have short paths
	must(t, err)
	t.Cleanup(func() {
		logs, _ := filepath.Glob(filepath.Join(dir, "*.log")) // the pattern is well-formed
		for _, file := range logs {
			if b, err := os.ReadFile(file); err == nil && t.Failed() {
				t.Logf("--- the end of %s\n%s", filepath.Base(file), b[max(0, len(b)-4000):])
			}
		}
		_ = os.RemoveAll(dir)
	})
	return dir
}

// another returns a replica with settings of its own, that is not started.
func (s *stage) another(t *testing.T) *replica {
	t.Helper()
	b, err := os.ReadFile(s.Path("controlplane.yaml"))
	must(t, err)
	var settings map[string]any
	must(t, yaml.Unmarshal(b, &settings))
	program := filepath.Join(bin, "sallyport-controlplane")
	socket, err := s.ids.Workload(t.Context(), fleet.Workload{ID: fleet.ControlPlaneID, Name: "second", Program: program})
	must(t, err)
	admin, proxies, status := free(t), free(t), free(t)
	settings["replica"] = "second"
	settings["workload"].(map[string]any)["socket"] = socket
	settings["admin"].(map[string]any)["address"] = admin
	settings["proxies"] = map[string]any{"address": proxies}
	settings["health"] = map[string]any{"address": status}
	b, err = yaml.Marshal(settings)
	must(t, err)
	file := s.Path("second.yaml")
	must(t, os.WriteFile(file, b, 0o600))
	return &replica{
		&fleet.Process{Label: "second replica", Args: []string{program, "--settings", file}, Log: s.Path("second.log")},
		"https://" + proxies, "http://" + status, s.operator(t, "https://"+admin),
	}
}

// free returns a loopback address that nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	return ln.Addr().String()
}

// operator returns an administrator who calls the replica at url.
func (s *stage) operator(t *testing.T, url string) *fleet.Operator {
	t.Helper()
	certificate, err := s.ids.Issue(fleet.OperatorID, svidTTL)
	must(t, err)
	roots, err := s.Roots()
	must(t, err)
	client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{certificate},
	}}}
	return &fleet.Operator{
		Config: adminv1connect.NewConfigServiceClient(client, url),
		Fleet:  adminv1connect.NewFleetServiceClient(client, url),
	}
}

// start starts the replica and waits until it serves.
func (r *replica) start(t *testing.T) {
	t.Helper()
	must(t, r.Start())
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	})
	eventually(t, r.Label+" is ready", func() bool {
		_, err := r.get(t, "/readyz")
		return err == nil
	})
}

func (r *replica) get(t *testing.T, path string) ([]byte, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.status+path, nil)
	must(t, err)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 3 * time.Minute}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, res.Status, body)
	}
	return body, err
}

// memory is what the replica holds after a collection, in KiB.
func (r *replica) memory(t *testing.T) int {
	t.Helper()
	_, err := r.get(t, "/debug/pprof/heap?gc=1")
	must(t, err)
	return status(t, r.PID(), "VmRSS")
}

// status is what the kernel says of a process' memory, in KiB: VmRSS is what it
// holds, VmHWM what it has held at most.
func status(t *testing.T, pid int, what string) int {
	t.Helper()
	all, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	_, after, _ := bytes.Cut(all, []byte(what+":"))
	n, err := strconv.Atoi(string(bytes.Fields(after)[0]))
	must(t, err)
	return n
}

// cpu is what the replica has used so far.
func (r *replica) cpu(t *testing.T) time.Duration { t.Helper(); return cpu(t, r.PID()) }

// cpu is what a process has used so far, in steps of 10 ms.
func cpu(t *testing.T, pid int) (sum time.Duration) {
	t.Helper()
	const tick = 10 * time.Millisecond // USER_HZ
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	_, after, _ := bytes.Cut(stat, []byte(") ")) // the name may hold anything
	for _, i := range []int{11, 12} {
		n, err := strconv.Atoi(string(bytes.Fields(after)[i]))
		must(t, err)
		sum += time.Duration(n) * tick
	}
	return sum
}

// profile begins a profile of the processor that goes to a file. Who calls what it
// returns waits for its end.
func (r *replica) profile(t *testing.T, file string, lasts time.Duration) (wait func()) {
	t.Helper()
	made := make(chan []byte)
	go func() {
		b, err := r.get(t, fmt.Sprintf("/debug/pprof/profile?seconds=%d", min(int(lasts.Seconds()), 120)))
		if err != nil {
			t.Error(err)
		}
		made <- b
	}()
	return func() { must(t, os.WriteFile(file, <-made, 0o600)) }
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	late := time.After(first)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-late:
			t.Fatalf("it never came to: %s", what)
		case <-tick.C:
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
