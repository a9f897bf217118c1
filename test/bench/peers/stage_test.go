//go:build peers

package peers_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Roles of this test's binary.
const (
	roleVariable = "SALLYPORT_PEERS_ROLE"
	roleLoad     = "load"
	roleUpstream = "upstream"
	roleVerifier = "verifier"
	keyVariable  = "SALLYPORT_PEERS_KEY" // the verifier's file
)

const host = "127.0.0.1"

// peer is a proxy.
type peer struct {
	name, version, address string
	pids                   []int  // of it and what it needs, but for their children
	secures                bool   // verifies tokens under /secured
	status                 string // where profiles are, of ours
}

// stage is where they are compared.
type stage struct {
	dir      string
	ca       []byte
	files    files
	upstream string // host:port
	token    string
	peers    []*peer
	load     *asked
	idle     int
}

// files are PEM files.
type files struct{ certificate, key, both, tokenKey string }

// pin moves this process, and with it those that it starts, away from the
// proxies' core.
func pin(b *testing.B) {
	b.Helper()
	must(b, exec.Command("taskset", "-a", "-c", "-p", otherCore, strconv.Itoa(os.Getpid())).Run())
}

// idle returns how many connections are kept open at once: HAProxy wants two files for
// each that it may have, and a machine may allow fewer than it takes.
func idle(b *testing.B) int {
	b.Helper()
	var files syscall.Rlimit
	must(b, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files))
	return min(10_000, int(files.Max)/2-spare)
}

// spare are connections beside the idle ones.
const spare = 200

// begin starts a proxy of ours, with what asks it and what it asks.
func begin(b *testing.B) *stage {
	b.Helper()
	dir, err := os.MkdirTemp("", "sallyport-peers-") // short: sockets have short paths
	must(b, err)
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &stage{dir: dir, idle: idle(b)}
	s.upstream = listening(b, role(b, roleUpstream).out)
	s.load = role(b, roleLoad)
	s.startUs(b)
	return s
}

// asked is a process that answers what it is told, line by line.
type asked struct {
	pid int
	in  io.Writer
	out *bufio.Reader
}

func (a *asked) ask(b *testing.B, l load) (got answer) {
	b.Helper()
	must(b, json.NewEncoder(a.in).Encode(l))
	line, err := a.out.ReadBytes('\n')
	must(b, err)
	must(b, json.Unmarshal(line, &got))
	if got.Failed != "" && l.Idle {
		b.Fatal(got.Failed)
	}
	return got
}

// role starts this binary in a role.
func role(b *testing.B, name string, before ...string) *asked {
	b.Helper()
	args := slices.Concat(before, []string{os.Args[0]})
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), roleVariable+"="+name)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(b, err)
	out, err := cmd.StdoutPipe()
	must(b, err)
	run(b, cmd)
	return &asked{pid: cmd.Process.Pid, in: in, out: bufio.NewReader(out)}
}

// run runs cmd until the benchmark ends.
func run(b *testing.B, cmd *exec.Cmd) {
	b.Helper()
	must(b, cmd.Start())
	b.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		stop := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
		defer stop.Stop()
		_ = cmd.Wait() // what it made of the signal
	})
}

func listening(b *testing.B, out *bufio.Reader) string {
	b.Helper()
	line, err := out.ReadString('\n')
	must(b, err)
	return strings.TrimSpace(line)
}

// beUpstream answers with so much as its path says.
func beUpstream() {
	mux := http.NewServeMux()
	for path, n := range map[string]int{"/1kib": 1 << 10, "/1mib": 1 << 20} {
		body := []byte(strings.Repeat("x", n))
		answer := func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Length", strconv.Itoa(n))
			_, _ = rw.Write(body) // the proxy is gone
		}
		mux.HandleFunc("GET "+path, answer)
		mux.HandleFunc("GET /secured"+path, answer)
	}
	serve(mux)
}

// beVerifier is what nginx asks: it verifies a token each time.
func beVerifier() {
	pem, err := os.ReadFile(os.Getenv(keyVariable))
	if err != nil {
		panic(err)
	}
	key, err := jwt.ParseECPublicKeyFromPEM(pem)
	if err != nil {
		panic(err)
	}
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"ES256"}), jwt.WithExpirationRequired())
	serve(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if _, err := parser.Parse(token, func(*jwt.Token) (any, error) { return key, nil }); err != nil {
			rw.WriteHeader(http.StatusUnauthorized)
		}
	}))
}

func serve(h http.Handler) {
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		panic(err)
	}
	fmt.Println(ln.Addr())
	server := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // until the parent is gone
		_ = server.Close()
	}()
	_ = server.Serve(ln) // it is closed
}

// cpu is what the peer has used so far.
func (p *peer) cpu(b *testing.B) (sum time.Duration) {
	b.Helper()
	const tick = 10 * time.Millisecond // USER_HZ
	p.each(b, func(pid int) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		must(b, err)
		_, after, _ := strings.Cut(string(stat), ") ") // the name may hold anything
		for _, i := range []int{11, 12} {
			n, err := strconv.Atoi(strings.Fields(after)[i])
			must(b, err)
			sum += time.Duration(n) * tick
		}
	})
	return sum
}

// memory is what the peer holds, in KiB.
func (p *peer) memory(b *testing.B) (sum int) {
	b.Helper()
	p.each(b, func(pid int) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		must(b, err)
		_, after, _ := strings.Cut(string(status), "VmRSS:")
		n, err := strconv.Atoi(strings.Fields(after)[0])
		must(b, err)
		sum += n
	})
	return sum
}

// each calls f for the peer's processes.
func (p *peer) each(b *testing.B, f func(pid int)) {
	b.Helper()
	for _, pid := range p.pids {
		f(pid)
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
		must(b, err)
		for _, file := range tasks {
			children, err := os.ReadFile(file)
			if errors.Is(err, os.ErrNotExist) {
				continue // a thread that has ended
			}
			must(b, err)
			for child := range strings.FieldsSeq(string(children)) {
				n, err := strconv.Atoi(child)
				must(b, err)
				f(n)
			}
		}
	}
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
