package handover_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/dataplane/handover"
)

// listens is the variable that has this program listen on addresses, and say so on
// each connection, until its input ends.
const listens = "SALLYPORT_TEST_LISTENS"

func TestMain(m *testing.M) {
	if addresses := os.Getenv(listens); addresses != "" {
		listenOn(strings.Fields(addresses))
		return
	}
	os.Exit(m.Run())
}

func listenOn(addresses []string) {
	s, err := handover.Inherit()
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, address := range addresses {
		ln, err := s.Share(context.Background(), address)
		if err != nil {
			fmt.Println(err)
			return
		}
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(conn, "%d", s.Len())
				_ = conn.Close()
			}
		}()
	}
	fmt.Println("listening", os.Getenv("LISTEN_FDS"))
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// managed starts this program as systemd would, with sockets.
func managed(t *testing.T, addresses string, sockets ...*os.File) (said string) {
	t.Helper()
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0"`, os.Args[0])
	cmd.Env = append(os.Environ(), listens+"="+addresses, fmt.Sprint("LISTEN_FDS=", len(sockets)))
	cmd.ExtraFiles = sockets
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	said, _ = bufio.NewReader(out).ReadString('\n')
	return strings.TrimSpace(said)
}

// socket listens, and returns what can be handed over.
func socket(t *testing.T, network, address string) (*os.File, string) {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f, ln.Addr().String()
}

func hears(t *testing.T, address string) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What was inherited is found by its address, also by one without a host; what was not
// is opened.
func TestInheritedSockets(t *testing.T) {
	one, first := socket(t, "tcp", "127.0.0.1:0")
	two, second := socket(t, "tcp", ":0")
	_, port, err := net.SplitHostPort(second)
	if err != nil {
		t.Fatal(err)
	}
	other, third := socket(t, "tcp", "127.0.0.1:0")
	_ = other.Close() // nobody has it any more
	if said := managed(t, first+" :"+port+" "+third, one, two); said != "listening" {
		t.Fatalf("it says %q", said)
	}
	for _, address := range []string{first, net.JoinHostPort("127.0.0.1", port), third} {
		if got := hears(t, address); got != "2" {
			t.Errorf("%s says that %q were inherited", address, got)
		}
	}
}

// A process does not start with what it cannot use.
func TestSocketsThatAreNone(t *testing.T) {
	local, _ := socket(t, "unix", filepath.Join(t.TempDir(), "s"))
	tcp, _ := socket(t, "tcp", "127.0.0.1:0")
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for name, c := range map[string]struct {
		sockets []*os.File
		want    string
	}{
		"of this machine": {[]*os.File{local}, "is not one of TCP"},
		"a file":          {[]*os.File{file}, "inherited socket"},
		"twice":           {[]*os.File{tcp, tcp}, "as another one does"},
	} {
		if said := managed(t, "127.0.0.1:0", c.sockets...); !strings.Contains(said, c.want) {
			t.Errorf("%s: %q, want %q", name, said, c.want)
		}
	}
}

// Two may share an address; nobody else may have it, nor an address that is for one
// alone.
func TestSharedAddresses(t *testing.T) {
	s, err := handover.Inherit()
	if err != nil {
		t.Fatal(err)
	}
	first, err := s.Share(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	second, err := s.Share(t.Context(), first.Addr().String())
	if err != nil {
		t.Fatalf("it is not shared: %v", err)
	}
	defer second.Close()
	if ln, err := s.Alone(t.Context(), first.Addr().String()); err == nil {
		_ = ln.Close()
		t.Error("somebody else listens beside them")
	}
	alone, err := s.Alone(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer alone.Close()
	if ln, err := s.Share(t.Context(), alone.Addr().String()); err == nil {
		_ = ln.Close()
		t.Error("an address for one is shared")
	}
}

// The service manager is told once that the process serves, each change of what it
// waits for, and every time that it lives.
func TestManagerIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	ln, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	log := slog.New(slog.DiscardHandler)
	if m, err := handover.FindManager(log); err != nil || m.Every() != 0 {
		t.Errorf("without a manager: %v, it is told every %s", err, m.Every())
	}
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "900000")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	m, err := handover.FindManager(log)
	if err != nil || m.Every() != 300*time.Millisecond {
		t.Fatalf("%v, it is told every %s", err, m.Every())
	}
	for _, c := range []struct {
		say  func()
		want string
	}{
		{func() { m.Tell("no snapshot\nyet") }, "STATUS=no snapshot yet\nWATCHDOG=1\n"},
		{func() { m.Tell("no snapshot\nyet") }, "WATCHDOG=1\n"},
		{func() { m.Tell("") }, "READY=1\nSTATUS=serving\nWATCHDOG=1\n"},
		{func() { m.Tell("a certificate\x00is missing") }, "STATUS=a certificate is missing\nWATCHDOG=1\n"},
		{func() { m.Tell("") }, "STATUS=serving\nWATCHDOG=1\n"},
		{m.Stopping, "STOPPING=1\n"},
	} {
		c.say()
		b := make([]byte, 1024)
		n, err := ln.Read(b)
		if err != nil || string(b[:n]) != c.want {
			t.Errorf("%v, told was %q, want %q", err, b[:n], c.want)
		}
	}
}

// Who has connected, and was not let in before a socket is closed, still is.
func TestLeave(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var clients []net.Conn
	for range 3 {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		clients = append(clients, conn)
	}
	waiting := handover.Leave(ln)
	if len(waiting) != len(clients) {
		t.Fatalf("%d of %d were taken", len(waiting), len(clients))
	}
	for _, conn := range waiting {
		fmt.Fprint(conn, "welcome")
		_ = conn.Close()
	}
	for _, conn := range clients {
		if b, err := io.ReadAll(conn); err != nil || string(b) != "welcome" {
			t.Errorf("%v, told was %q", err, b)
		}
	}
	if conn, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		_ = conn.Close()
		t.Error("it still listens")
	}
	if again := handover.Leave(ln); len(again) > 0 {
		t.Error("it is left twice")
	}
}
