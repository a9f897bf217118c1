package local_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sallyport/sallyport/storage/local"
)

// helperVar turns the test binary into a process of its own that does what the
// variable says, prints one line, and stays until it is killed.
const helperVar = "SALLYPORT_TEST_HELPER"

func TestMain(m *testing.M) {
	if job, subject, ok := strings.Cut(os.Getenv(helperVar), " "); ok {
		if err := helpers[job](subject); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

var helpers = map[string]func(string) error{
	"serve": serve,
	"watch": watch,
}

// serve runs a Postgres in dir and prints its DSN.
func serve(dir string) error {
	p, err := local.NewPostgres(local.PostgresConfig{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	if err := p.Start(context.Background()); err != nil {
		return err
	}
	fmt.Println(p.DSN("postgres"))
	_, err = io.Copy(io.Discard, os.Stdin) // until killed
	return err
}

// watch is a client of etcd that freezes while it watches.
func watch(endpoint string) error {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}})
	if err != nil {
		return err
	}
	<-c.Watch(context.Background(), "k", clientv3.WithCreatedNotify())
	fmt.Println("watching")
	if err := syscall.Kill(os.Getpid(), syscall.SIGSTOP); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin) // until it is frozen, and then killed
	return err
}

// startHelper returns the running helper and the line it printed.
func startHelper(t *testing.T, job, subject string) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), helperVar+"="+job+" "+subject)
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the context has ended, so it was killed
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("helper said %q: %v", line, err)
	}
	return cmd, strings.TrimSpace(line)
}

// newPostgres is not started; it is closed when the test ends.
func newPostgres(t *testing.T, cfg local.PostgresConfig) *local.Postgres {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	p, err := local.NewPostgres(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func startPostgres(t *testing.T, cfg local.PostgresConfig) *local.Postgres {
	t.Helper()
	p := newPostgres(t, cfg)
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

func newEtcd(t *testing.T, cfg local.EtcdConfig) *local.Etcd {
	t.Helper()
	cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	e, err := local.NewEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func startEtcd(t *testing.T, cfg local.EtcdConfig) *local.Etcd {
	t.Helper()
	e := newEtcd(t, cfg)
	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return e
}

// openDir is a directory that any user can reach, which t.TempDir is not.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "sallyport-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

// scratchOf is the temporary directory that holds the socket of dsn.
func scratchOf(t *testing.T, dsn string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(u.Query().Get("host"))
}

// postmaster is the process id of the server with this data directory.
func postmaster(t *testing.T, data string) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(b), &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

// running reports whether the process is there and, where that can be told, no
// zombie.
func running(pid int) bool {
	if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || !bytes.Contains(stat, []byte(") Z "))
}

func missing(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there (%v)", path, err)
	}
}

// eventually waits until ok, and fails the test when that takes too long.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never happened: %s", what)
		}
	}
}

// logBuffer may be written by a server and read by the test at once.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func logTo(b *logBuffer) *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }
