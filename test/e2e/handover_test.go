package e2e_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
)

// handovers is how often one process takes over from another.
const handovers = 4

// callers ask one address all the time, each in another way, and count.
type callers struct {
	asked, failed atomic.Int64
	reset         atomic.Int64 // of those, connections that nobody had taken yet
	stop          context.CancelFunc
	asking        sync.WaitGroup
}

// call begins: over connections that are kept, over HTTP/2, and over a new connection
// for each request.
func call(t *testing.T, f *fleet.Fleet, url string) *callers {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	c := &callers{stop: stop}
	for name, change := range map[string]func(*http.Transport){
		"kept":   func(*http.Transport) {},
		"HTTP/2": func(tr *http.Transport) { tr.ForceAttemptHTTP2 = true },
		"new":    func(tr *http.Transport) { tr.DisableKeepAlives = true },
		"resumed": func(tr *http.Transport) {
			tr.DisableKeepAlives, tr.TLSClientConfig.ClientSessionCache = true, tls.NewLRUClientSessionCache(1)
		},
	} {
		client, err := f.Client(true)
		if err != nil {
			t.Fatal(err)
		}
		tr, ok := client.Transport.(*http.Transport)
		if !ok {
			t.Fatalf("the client's transport is a %T", client.Transport)
		}
		change(tr)
		c.asking.Go(func() {
			defer tr.CloseIdleConnections()
			for ctx.Err() == nil {
				if err := callOnce(client, url); errors.Is(err, syscall.ECONNRESET) {
					c.reset.Add(1)
				} else if err != nil {
					c.failed.Add(1)
					t.Errorf("%s: %v", name, err)
				}
				c.asked.Add(1)
			}
		})
	}
	return c
}

func callOnce(client *http.Client, url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v1/orders/7", http.NoBody)
	if err != nil {
		return err
	}
	res, err := client.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("answered with %s", res.Status)
	}
	return nil
}

// more waits until n more requests were made.
func (c *callers) more(t *testing.T, n int64) {
	t.Helper()
	until := c.asked.Load() + n
	eventually(t, time.Minute, func(context.Context) (bool, string) {
		return c.asked.Load() >= until, fmt.Sprint(c.asked.Load(), " requests")
	})
}

func (c *callers) end() {
	c.stop()
	c.asking.Wait()
}

// successor is a proxy for the same listeners as another one, with a name, a state and
// an admin address of its own.
func successor(t *testing.T, f *fleet.Fleet, m *fleet.Member, name string) *fleet.Member {
	t.Helper()
	b, err := os.ReadFile(f.Path(m.Name + ".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	settings := map[string]any{}
	if err := yaml.Unmarshal(b, &settings); err != nil {
		t.Fatal(err)
	}
	admin := freeAddress(t)
	maps.Copy(settings, map[string]any{
		"instance": name, "state_directory": f.Path(name + "-state"), "records": f.Path(name + "-records.jsonl"),
		"admin": map[string]any{"address": admin},
	})
	if b, err = yaml.Marshal(settings); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.Path(name+".yaml"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	next := &fleet.Member{
		Proxy:   fleet.Proxy{Name: name, Environment: m.Environment, URL: m.URL, Status: "http://" + admin},
		Process: &fleet.Process{Label: "proxy " + name, Args: []string{m.Args[0], "--settings", f.Path(name + ".yaml")}, Log: f.Path(name + ".log")},
	}
	t.Cleanup(func() { _ = next.Stop() })
	return next
}

func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// A new process takes over from an old one that is told to stop when the new one is
// ready, several times, and no request fails. The kernel resets a connection that it has
// made for the old one in the instant before its socket is closed, unless it was told to
// move it (net.ipv4.tcp_migrate_req), which is nothing for a test to change.
func TestHandover(t *testing.T) {
	f := start(t)
	m := f.Members[0]
	c := call(t, f, m.URL)
	defer c.end()
	c.more(t, 100)
	for i := range handovers {
		next := successor(t, f, m, fmt.Sprintf("%s-next-%d", f.Members[0].Name, i))
		if err := next.Start(); err != nil {
			t.Fatal(err)
		}
		if err := f.MemberReady(t.Context(), next); err != nil {
			t.Fatal(err)
		}
		c.more(t, 50)
		if err := m.Stop(); err != nil {
			t.Fatal(err)
		}
		c.more(t, 50)
		m = next
	}
	c.end()
	moved, err := os.ReadFile("/proc/sys/net/ipv4/tcp_migrate_req")
	if most := int64(handovers); c.reset.Load() > most || err == nil && string(moved) == "1\n" && c.reset.Load() > 0 {
		t.Errorf("%d connections were reset", c.reset.Load())
	}
	fmt.Printf("figure handover_requests %d requests\nfigure handover_failed %d requests\nfigure handover_reset %d requests\n",
		c.asked.Load(), c.failed.Load(), c.reset.Load())
}

// A proxy whose socket the service manager keeps open ends and is started again: who
// asks meanwhile waits, and no request fails.
func TestRestartBehindTheSocketOfTheManager(t *testing.T) {
	f := start(t)
	m := f.Members[0]
	if err := m.Stop(); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", strings.TrimPrefix(m.URL, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	tcp, ok := ln.(*net.TCPListener)
	if !ok {
		t.Fatalf("the listener is a %T", ln)
	}
	socket, err := tcp.File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	if err := ln.Close(); err != nil { // the file is another one
		t.Fatal(err)
	}
	c := call(t, f, m.URL)
	defer c.end()
	for range 3 {
		told := startBehind(t, m, socket)
		if first := told.next(t); !strings.Contains(first, "STATUS=") || strings.Contains(first, "READY=1") {
			t.Errorf("first told is %q", first)
		}
		told.until(t, "READY=1")
		c.more(t, 50)
		told.signal(t)
		told.until(t, "STOPPING=1")
		<-told.ended
	}
	last := startBehind(t, m, socket)
	c.more(t, 50)
	c.end()
	last.signal(t)
	<-last.ended
	if c.reset.Load() > 0 {
		t.Errorf("%d connections were reset", c.reset.Load())
	}
	fmt.Printf("figure restart_requests %d requests\nfigure restart_failed %d requests\n", c.asked.Load(), c.failed.Load())
}

// managed is a process that was started as systemd would.
type managed struct {
	cmd   *exec.Cmd
	told  *net.UnixConn
	ended chan struct{}
}

func startBehind(t *testing.T, m *fleet.Member, socket *os.File) *managed {
	t.Helper()
	path := folder(t) + "/notify"
	told, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = told.Close() })
	log, err := os.OpenFile(m.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p := &managed{told: told, ended: make(chan struct{})}
	p.cmd = exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"`}, m.Args...)...)
	p.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+path)
	p.cmd.ExtraFiles = []*os.File{socket}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // how it ended is in its log
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
	})
	return p
}

func (p *managed) signal(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
}

// next is what the service manager is told next.
func (p *managed) next(t *testing.T) string {
	t.Helper()
	if err := p.told.SetReadDeadline(time.Now().Add(15 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, err := p.told.Read(b)
	if err != nil {
		t.Fatalf("the service manager is told nothing: %v", err)
	}
	return string(b[:n])
}

func (p *managed) until(t *testing.T, state string) {
	t.Helper()
	for !strings.Contains(p.next(t), state) {
	}
}
