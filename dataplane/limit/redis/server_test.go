package redis_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// server is a real Redis of this test alone, on a port of the loopback address.
type server struct {
	t       testing.TB
	address string
	dir     string
	listens func(port string) string // lines of its settings
	process *exec.Cmd
}

const password = "only-for-this-test"

func newServer(t testing.TB) *server {
	t.Helper()
	return newServerWith(t, func(port string) string { return "port " + port + "\n" })
}

func newServerWith(t testing.TB, listens func(port string) string) *server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, address: ln.Addr().String(), dir: t.TempDir(), listens: listens}
	_ = ln.Close()
	s.start()
	t.Cleanup(s.kill)
	return s
}

// start starts the server, on the port that it had, and waits until it listens.
func (s *server) start() {
	s.t.Helper()
	_, port, _ := strings.Cut(s.address, ":")
	file := filepath.Join(s.dir, "redis.conf")
	settings := fmt.Sprintf("bind 127.0.0.1\n%srequirepass %s\nsave \"\"\nappendonly no\ndir %s\n", s.listens(port), password, s.dir)
	if err := os.WriteFile(file, []byte(settings), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.process = exec.Command("redis-server", file)
	if err := s.process.Start(); err != nil {
		s.t.Fatalf("%v: make test installs it", err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		conn, err := net.Dial("tcp", s.address)
		if err == nil {
			_ = conn.Close()
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatal(err)
		}
		<-time.After(5 * time.Millisecond) // there is nothing that would tell
	}
}

// kill ends the server without a word.
func (s *server) kill() {
	if s.process == nil {
		return
	}
	_ = s.process.Process.Kill()
	_ = s.process.Wait()
	s.process = nil
}
