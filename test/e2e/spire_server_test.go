//go:build spire

package e2e_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
	"github.com/sallyport/sallyport/internal/identity"
)

const (
	// spireBin is where make e2e-spire puts SPIRE's programs.
	spireBin = "../../bin/spire"
	// svidTTL is short, so that SPIRE renews SVIDs while a test looks on. It
	// does so at about half of it.
	svidTTL = 30 * time.Second
	// spireWithin bounds each thing that SPIRE is asked for.
	spireWithin = 20 * time.Second
)

// spire is the SPIRE server of a trust domain with an agent for each workload, as
// if each ran on a machine of its own. It gives a fleet its identities.
type spire struct {
	domain   identity.TrustDomain
	dir, bin string
	port     int
	bundles  int // the port where others fetch the bundle
	partners []identity.TrustDomain
	server   *fleet.Process
	agents   map[string]*fleet.Process // by the workload's name
}

func startSPIRE(t *testing.T, domain identity.TrustDomain) *spire {
	t.Helper()
	bin, err := filepath.Abs(spireBin)
	if err != nil {
		t.Fatal(err)
	}
	s := &spire{domain: domain, dir: folder(t), bin: bin, port: freePort(t), bundles: freePort(t), agents: map[string]*fleet.Process{}}
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	})
	if s.server, err = s.process("spire-server", "server", fmt.Sprintf(serverConfig, s.port, s.socket("server"), s.path("server"), domain, s.bundles)); err != nil {
		t.Fatal(err)
	}
	if err := s.start(t.Context(), "spire-server", "server", s.server); err != nil {
		t.Fatal(err)
	}
	if err := s.saveBundle(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *spire) stop() error {
	var errs []error
	for _, agent := range s.agents {
		errs = append(errs, agent.Stop())
	}
	if s.server != nil {
		errs = append(errs, s.server.Stop())
	}
	return errors.Join(errs...)
}

func (s *spire) path(name string) string   { return filepath.Join(s.dir, name) }
func (s *spire) socket(name string) string { return s.path(name + ".sock") }
func (s *spire) id(path string) string     { return "spiffe://" + string(s.domain) + "/" + path }

const serverConfig = `server {
	bind_address = "127.0.0.1"
	bind_port = "%d"
	socket_path = %q
	data_dir = %[3]q
	trust_domain = %[4]q
	federation {
		bundle_endpoint {
			address = "127.0.0.1"
			port = %[5]d
			profile "https_spiffe" {}
		}
	}
}
plugins {
	DataStore "sql" {
		plugin_data {
			database_type = "sqlite3"
			connection_string = "%[3]s/datastore.sqlite3"
		}
	}
	NodeAttestor "join_token" { plugin_data {} }
	KeyManager "memory" { plugin_data {} }
}
`

// An agent keeps its key on disk: a join token is good for one start only.
const agentConfig = `agent {
	server_address = "127.0.0.1"
	server_port = "%d"
	socket_path = %q
	data_dir = %[3]q
	trust_bundle_path = %[4]q
	trust_domain = %[5]q
	join_token = %[6]q
}
plugins {
	NodeAttestor "join_token" { plugin_data {} }
	KeyManager "disk" { plugin_data { directory = %[3]q } }
	WorkloadAttestor "unix" { plugin_data { discover_workload_path = true } }
}
`

// Workload registers the workload, told from others by its executable, and
// starts an agent for it.
func (s *spire) Workload(ctx context.Context, w fleet.Workload) (string, error) {
	token, err := s.joinToken(ctx)
	if err != nil {
		return "", err
	}
	entry := []string{
		"entry", "create", "-socketPath", s.socket("server"),
		"-parentID", s.id("spire/agent/join_token/" + token),
		"-spiffeID", string(w.ID), "-selector", "unix:path:" + w.Program,
		"-x509SVIDTTL", strconv.Itoa(int(svidTTL.Seconds())),
	}
	for _, partner := range s.partners {
		entry = append(entry, "-federatesWith", "spiffe://"+string(partner))
	}
	if _, err := s.ask(ctx, entry...); err != nil {
		return "", err
	}
	agent, err := s.process("spire-agent", w.Name, fmt.Sprintf(agentConfig, s.port, s.socket(w.Name), s.path(w.Name), s.path("bundle.pem"), s.domain, token))
	if err != nil {
		return "", err
	}
	s.agents[w.Name] = agent
	return s.socket(w.Name), s.start(ctx, "spire-agent", w.Name, agent)
}

// Certificate mints an SVID, without an agent.
func (s *spire) Certificate(ctx context.Context, id identity.ID) (tls.Certificate, error) {
	dir, err := os.MkdirTemp(s.dir, "minted-")
	if err != nil {
		return tls.Certificate{}, err
	}
	if _, err := s.ask(ctx, "x509", "mint", "-socketPath", s.socket("server"), "-spiffeID", string(id), "-ttl", "1h", "-write", dir); err != nil {
		return tls.Certificate{}, err
	}
	return tls.LoadX509KeyPair(filepath.Join(dir, "svid.pem"), filepath.Join(dir, "key.pem"))
}

func (s *spire) joinToken(ctx context.Context) (string, error) {
	out, err := s.ask(ctx, "token", "generate", "-socketPath", s.socket("server"), "-output", "json")
	if err != nil {
		return "", err
	}
	var token struct{ Value string }
	if err := json.Unmarshal(out, &token); err != nil || token.Value == "" {
		return "", fmt.Errorf("no join token: %s: %w", out, err)
	}
	return token.Value, nil
}

func (s *spire) saveBundle(ctx context.Context) error {
	bundle, err := s.ask(ctx, "bundle", "show", "-socketPath", s.socket("server"), "-format", "pem")
	if err != nil {
		return err
	}
	return os.WriteFile(s.path("bundle.pem"), bundle, 0o600)
}

// ask runs a command of the server's program and returns what it prints.
func (s *spire) ask(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, spireWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "spire-server"), args...)
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cmd, err)
	}
	return out, nil
}

// process makes a server or an agent that is ready to be started.
func (s *spire) process(program, name, config string) (*fleet.Process, error) {
	file := s.path(name + ".conf")
	return &fleet.Process{
		Label: program + " " + name,
		Args:  []string{filepath.Join(s.bin, program), "run", "-config", file},
		Log:   s.path(name + ".log"),
	}, errors.Join(os.Mkdir(s.path(name), 0o700), os.WriteFile(file, []byte(config), 0o600))
}

// start starts a server or an agent and waits until it says that it is well.
func (s *spire) start(ctx context.Context, program, name string, p *fleet.Process) error {
	if err := p.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, spireWithin)
	defer cancel()
	for {
		err := exec.CommandContext(ctx, filepath.Join(s.bin, program), "healthcheck", "-socketPath", s.socket(name)).Run()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not well after %s: %w", p.Label, spireWithin, err)
		case <-p.Done():
			return fmt.Errorf("%s has ended", p.Label)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}
