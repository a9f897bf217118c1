// Package storagetest gives tests a real Postgres and a real etcd.
//
// One server of each kind is shared by all tests of a binary and started by
// the first that asks. Tests still do not see each other: each has a database,
// or a key space, of its own. A test that stops or breaks its server asks for
// one of its own instead.
//
// A package that uses it lets its binary end in order:
//
//	func TestMain(m *testing.M) { os.Exit(storagetest.Main(m)) }
//
// Without it nothing keeps running either; temporary files stay until the next
// run.
package storagetest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.uber.org/zap"

	"github.com/sallyport/sallyport/storage/local"
)

// cleanupBound is how long taking down after a test may take, whose own
// context has ended by then.
const cleanupBound = 30 * time.Second

// shared is what the tests of this binary have in common, and global because
// a binary is the scope in which servers are worth sharing.
var shared struct {
	postgres server[*local.Postgres]
	etcd     server[*local.Etcd]

	mu        sync.Mutex
	templates map[uintptr]func() (string, error) // by migration; each makes its template once
}

type startCloser interface {
	Start(context.Context) error
	Close() error
}

// server is started once, by the first who asks, unless it was closed before.
type server[T startCloser] struct {
	once    sync.Once
	running T
	err     error
}

func (s *server[T]) get(build func() (T, error)) (T, error) {
	s.once.Do(func() {
		if s.running, s.err = build(); s.err == nil {
			s.err = s.running.Start(context.Background())
		}
	})
	return s.running, s.err
}

var errClosed = errors.New("the tests are over")

func (s *server[T]) close() error {
	s.once.Do(func() { s.err = errClosed })
	if s.err != nil {
		return nil // it never started, and whoever asked was told
	}
	return s.running.Close()
}

// Main runs the tests, stops the servers they shared, and returns the exit
// code of the process.
func Main(m *testing.M) int {
	code := m.Run()
	if err := errors.Join(shared.postgres.close(), shared.etcd.close()); err != nil {
		fmt.Fprintln(os.Stderr, "stop shared servers:", err)
		return max(code, 1)
	}
	return code
}

// logger tells what a test's output should show: a server's trouble.
func logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
}

// Postgres returns the DSN of a database that migrate has been applied to, and
// that is removed when the test ends, whoever is still connected. It is a copy
// of one that was migrated once, so migrate must close its connections, and be
// a declared function rather than a closure: migrations are told apart by
// their code. Nil: an empty database.
func Postgres(t testing.TB, migrate func(ctx context.Context, dsn string) error) string {
	t.Helper()
	p, err := sharedPostgres()
	if err != nil {
		t.Fatal(err)
	}
	template := ""
	if migrate != nil {
		if template, err = templateOf(p, migrate); err != nil {
			t.Fatal(err)
		}
	}
	name := unique()
	if err := p.CreateDatabase(t.Context(), name, template); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), cleanupBound)
		defer cancel()
		if err := p.DropDatabase(ctx, name); err != nil {
			t.Error(err)
		}
	})
	return p.DSN(name)
}

func sharedPostgres() (*local.Postgres, error) {
	return shared.postgres.get(newPostgres)
}

func newPostgres() (*local.Postgres, error) {
	return local.NewPostgres(local.PostgresConfig{TempDir: tempDir(), Log: logger()})
}

// tempDir is in memory where there is plenty and the environment does not name
// another.
func tempDir() string {
	const memory, plenty = "/dev/shm", 2 << 30
	var fs syscall.Statfs_t
	if os.Getenv("TMPDIR") != "" || syscall.Statfs(memory, &fs) != nil {
		return ""
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < plenty { //nolint:gosec // no block has a negative size
		return ""
	}
	return memory
}

// templateOf is the name of a database that migrate has been applied to.
func templateOf(p *local.Postgres, migrate func(context.Context, string) error) (string, error) {
	key := reflect.ValueOf(migrate).Pointer()
	shared.mu.Lock()
	template, ok := shared.templates[key]
	if !ok {
		template = sync.OnceValues(func() (string, error) { return makeTemplate(p, migrate) })
		if shared.templates == nil {
			shared.templates = make(map[uintptr]func() (string, error))
		}
		shared.templates[key] = template
	}
	shared.mu.Unlock()
	return template()
}

func makeTemplate(p *local.Postgres, migrate func(context.Context, string) error) (string, error) {
	ctx := context.Background() // the template outlives the test that asked first
	name := "template_" + unique()
	if err := p.CreateDatabase(ctx, name, ""); err != nil {
		return "", err
	}
	if err := migrate(ctx, p.DSN(name)); err != nil {
		return "", fmt.Errorf("migrate the template database: %w", err)
	}
	return name, nil
}

func unique() string { return "t" + strings.ToLower(rand.Text()) }

// Etcd returns a client whose keys and watches are apart from those of other
// tests: every key gets a prefix that the client hides. Revisions are shared
// and move when others write. Keys and client are gone when the test ends.
func Etcd(t testing.TB) *clientv3.Client {
	t.Helper()
	e, err := shared.etcd.get(func() (*local.Etcd, error) {
		return local.NewEtcd(local.EtcdConfig{Log: logger()})
	})
	if err != nil {
		t.Fatal(err)
	}
	c := Client(t, e)
	prefix, everything := unique()+"/", c.KV
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), cleanupBound)
		defer cancel()
		if _, err := everything.Delete(ctx, prefix, clientv3.WithPrefix()); err != nil {
			t.Errorf("remove keys of the test: %v", err)
		}
	})
	c.KV = namespace.NewKV(c.KV, prefix)
	c.Watcher = namespace.NewWatcher(c.Watcher, prefix)
	c.Lease = namespace.NewLease(c.Lease, prefix)
	return c
}

// Client returns a client of e, for tests that need several. It is closed when
// the test ends.
func Client(t testing.TB, e *local.Etcd) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: e.Endpoints(), Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	// The test may have closed it, to see what happens then.
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// NewPostgres starts a server for this test alone, which may stop it, start it
// again, or break it.
func NewPostgres(t testing.TB) *local.Postgres {
	t.Helper()
	p, err := newPostgres()
	if err != nil {
		t.Fatal(err)
	}
	return started(t, p)
}

// NewEtcd starts a server for this test alone, which may stop it, start it
// again, or empty its directory in between.
func NewEtcd(t testing.TB) *local.Etcd {
	t.Helper()
	e, err := local.NewEtcd(local.EtcdConfig{Log: logger()})
	if err != nil {
		t.Fatal(err)
	}
	return started(t, e)
}

// started starts s and closes it when the test ends.
func started[T startCloser](t testing.TB, s T) T {
	t.Helper()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}
