package local_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/sallyport/sallyport/storage/local"
)

func client(t *testing.T, e *local.Etcd) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: e.Endpoints(), Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func put(t *testing.T, c *clientv3.Client, key, value string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := c.Put(ctx, key, value); err != nil {
		t.Fatal(err)
	}
}

// get returns "" for a key that is not there.
func get(t *testing.T, c *clientv3.Client, key string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := c.Get(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Kvs) == 0 {
		return ""
	}
	return string(r.Kvs[0].Value)
}

func TestEtcdDownAndBack(t *testing.T) {
	t.Parallel()
	e := startEtcd(t, local.EtcdConfig{})
	c := client(t, e)
	put(t, c, "k", "kept")
	watch := c.Watch(t.Context(), "k", clientv3.WithCreatedNotify())
	<-watch
	if err := e.Start(t.Context()); err == nil {
		t.Error("started twice")
	}

	for range 2 { // stopping twice is harmless
		if err := e.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	hurry, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Get(hurry, "k"); err == nil {
		t.Error("a stopped server answered")
	}

	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := get(t, c, "k"); got != "kept" {
		t.Errorf("after the restart the key holds %q", got)
	}
	put(t, c, "k", "new")
	for r := range watch { // it may repeat what was there before
		if r.Err() != nil {
			t.Fatal(r.Err())
		}
		for _, event := range r.Events {
			if string(event.Kv.Value) == "new" {
				return
			}
		}
	}
	t.Error("the watch ended")
}

func TestEtcdStopWaitsForNobody(t *testing.T) {
	t.Parallel()
	e := newEtcd(t, local.EtcdConfig{})
	for range 10 { // left to itself, etcd waits now and then
		if err := e.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		client, _ := startHelper(t, "watch", e.Endpoints()[0])
		var status syscall.WaitStatus
		if _, err := syscall.Wait4(client.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
			t.Fatalf("the client did not freeze: %v, %v", status, err)
		}
		began := time.Now()
		if err := e.Stop(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 4*time.Second {
			t.Fatalf("Stop waited %v for a client that does not answer", took)
		}
	}
}

// A process forked before Stop holds etcd's locks for a moment, and an etcd that
// finds them taken would end this process.
func TestEtcdWaitsForItsLocks(t *testing.T) {
	t.Parallel()
	e := startEtcd(t, local.EtcdConfig{})
	if err := e.Stop(); err != nil {
		t.Fatal(err)
	}
	logs, err := filepath.Glob(filepath.Join(e.DataDir(), "member", "wal", "*.wal"))
	if err != nil || len(logs) == 0 {
		t.Fatalf("no write-ahead log: %v", err)
	}
	held, err := fileutil.TryLockFile(logs[0], os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	hurry, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := e.Start(hurry); !errors.Is(err, fileutil.ErrLocked) {
		t.Errorf("got %v", err)
	}
	done := make(chan error)
	go func() { done <- e.Start(t.Context()) }()
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestEtcdWiped(t *testing.T) {
	t.Parallel()
	e := startEtcd(t, local.EtcdConfig{})
	c := client(t, e)
	put(t, c, "k", "lost")
	if err := e.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(e.DataDir()); err != nil {
		t.Fatal(err)
	}
	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := get(t, c, "k"); got != "" {
		t.Errorf("a wiped server holds %q", got)
	}
}

func TestEtcdKeepsDir(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), strings.Repeat("longer than any socket path may be ", 5))
	first := startEtcd(t, local.EtcdConfig{Dir: dir})
	put(t, client(t, first), "k", "kept")

	other := newEtcd(t, local.EtcdConfig{Dir: dir})
	hurry, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := other.Start(hurry); err == nil || !strings.Contains(err.Error(), "in use by another") {
		t.Errorf("a second server on the same directory: %v", err)
	}

	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := other.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := get(t, client(t, other), "k"); got != "kept" {
		t.Errorf("the next server on the directory finds %q", got)
	}
}

func TestEtcdLeavesNothing(t *testing.T) {
	// Counts goroutines: not parallel.
	before := goleak.IgnoreCurrent()
	e := startEtcd(t, local.EtcdConfig{})
	dir := filepath.Dir(strings.TrimPrefix(e.Endpoints()[0], "unix://"))
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o700 {
		t.Errorf("directory of the socket has mode %v", info.Mode())
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	missing(t, dir)
	goleak.VerifyNone(t, before)
}

func TestEtcdCannotStart(t *testing.T) {
	t.Parallel()
	over, cancel := context.WithCancel(t.Context())
	cancel()
	occupied := t.TempDir()
	if err := os.WriteFile(filepath.Join(occupied, "data"), []byte("a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		ctx context.Context
		dir string
	}{
		"no time":             {over, ""},
		"a file for its data": {t.Context(), occupied},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEtcd(t, local.EtcdConfig{Dir: c.dir})
			if err := e.Start(c.ctx); err == nil || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want an error of one line", err)
			}
			missing(t, filepath.Dir(strings.TrimPrefix(e.Endpoints()[0], "unix://")))
		})
	}
	if _, err := local.NewEtcd(local.EtcdConfig{}); err == nil {
		t.Error("no logger, no complaint")
	}
}

// What etcd complains of at every start and stop is not for operators.
func TestEtcdLog(t *testing.T) {
	t.Parallel()
	for level, reports := range map[slog.Level]bool{slog.LevelDebug: true, slog.LevelInfo: false} {
		var log logBuffer
		e, err := local.NewEtcd(local.EtcdConfig{
			Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: level})),
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(e.Start(t.Context()), e.Close()); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(log.String(), "etcd reported"); got != reports {
			t.Errorf("at level %v etcd's own log shows: %v, want %v\n%s", level, got, reports, log.String())
		}
		if !strings.Contains(log.String(), "etcd started") {
			t.Errorf("at level %v nothing is said of the start", level)
		}
	}
}
