//go:build conformance

package conformance_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
)

// suites is where make conformance puts the programs of others.
const suites = "../../bin/conformance"

// patience is how long one run of a suite may take.
const patience = 5 * time.Minute

// stage is a fleet, and the servers of others behind its proxies.
type stage struct {
	fleet *fleet.Fleet
	suite string // a folder
}

func begin(t *testing.T) *stage {
	t.Helper()
	dir, err := os.MkdirTemp("", "sallyport-conformance-") // short: sockets have short paths
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &stage{}
	s.suite, err = filepath.Abs(suites)
	must(t, err)
	build := exec.CommandContext(t.Context(), "go", "build", "-o", dir, "github.com/sallyport/sallyport/cmd/...")
	build.Stderr = os.Stderr
	must(t, build.Run())
	s.fleet, err = fleet.Start(t.Context(), fleet.Config{Dir: dir, Bin: dir, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() {
		if err := s.fleet.Stop(); err != nil {
			t.Error(err)
		}
	})
	must(t, err)
	return s
}

// port is where a proxy of the fleet listens.
func (s *stage) port(t *testing.T, m *fleet.Member) string {
	t.Helper()
	_, port, err := net.SplitHostPort(strings.TrimPrefix(m.URL, "https://"))
	must(t, err)
	return port
}

// apply puts routes to upstreams in force, one of each.
func (s *stage) apply(t *testing.T, upstreams ...upstream) {
	t.Helper()
	var text strings.Builder
	text.WriteString(policyText)
	for _, u := range upstreams {
		fmt.Fprintf(&text, routeText, u.proxy.Environment, u.name, u.endpoint, u.transport, strings.Join(u.paths, ", "))
	}
	revision, err := s.fleet.Admin.Apply(t.Context(), text.String(), "to be tried")
	must(t, err)
	must(t, s.fleet.Admin.Enforced(t.Context(), revision, s.fleet.Environments()...))
}

// upstream is a server behind a proxy.
type upstream struct {
	name, endpoint, transport string
	proxy                     *fleet.Member
	paths                     []string
}

// secure is how servers are asked that have the fleet's certificate.
func (s *stage) secure() string {
	return fmt.Sprintf("tls: {caFile: %q}", s.fleet.Described.CAFile)
}

const policyText = `apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: conformance, name: everybody}
spec: {routes: {all: true}, effect: ALLOW, principals: [{anonymous: true}]}
`

const routeText = `---
apiVersion: sallyport/v1
kind: Upstream
metadata: {namespace: conformance, name: %[2]s}
spec: {environments: [%[1]s], endpoints: [%[3]q], %[4]s}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: conformance, name: %[2]s}
spec:
  environments: [%[1]s]
  hosts: [127.0.0.1]
  paths: [%[5]s]
  upstream: %[2]s
  authentication: {anonymous: true}
`

// run runs a program of a suite and returns what it says. It is an error if it
// fails, or takes too long.
func (s *stage) run(t *testing.T, env []string, program string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(s.suite, program), args...)
	cmd.Env = append(os.Environ(), env...)
	// What it has started itself ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = errors.Join(ctx.Err(), err)
	}
	return string(out), err
}

// keep runs a server of a suite until the test ends.
func (s *stage) keep(t *testing.T, in io.Reader, program string, args ...string) io.Reader {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(s.suite, program), args...)
	cmd.Stdin = in
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Wait() }) // it was killed
	return out
}

// plaintext is an upstream of our own, for what no suite has.
func (s *stage) plaintext(t *testing.T, h http.HandlerFunc) (address string) {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// Messages of suites have their length in front of them.
func writeMessage(w io.Writer, message []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(message))), message...))
	return err
}

func readMessage(r io.Reader) ([]byte, error) {
	var size uint32
	if err := binary.Read(r, binary.BigEndian, &size); err != nil {
		return nil, err
	}
	const most = 1 << 20
	if size > most {
		return nil, fmt.Errorf("message of %d bytes", size)
	}
	message := make([]byte, size)
	_, err := io.ReadFull(r, message)
	return message, err
}

// figure prints a result for whoever compares them.
func figure(name string, value int, unit string) {
	fmt.Println("figure", name, strconv.Itoa(value), unit)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
