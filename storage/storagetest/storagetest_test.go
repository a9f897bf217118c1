package storagetest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/sallyport/sallyport/storage/storagetest"
)

func TestMain(m *testing.M) { os.Exit(storagetest.Main(m)) }

var migrations atomic.Int32

// migrate counts its calls beside what it does to the database.
func migrate(ctx context.Context, dsn string) error {
	migrations.Add(1)
	return execute(ctx, dsn, "create table orders (id int)")
}

func migrateOtherwise(ctx context.Context, dsn string) error {
	return execute(ctx, dsn, "create table invoices (id int)")
}

func execute(ctx context.Context, dsn, sql string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql)
	return errors.Join(err, conn.Close(ctx))
}

// tables lists the tables in the database, apart from Postgres' own.
func tables(t *testing.T, dsn string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var names string
	const sql = `select coalesce(string_agg(tablename, ' ' order by tablename), '') from pg_tables where schemaname = 'public'`
	if err := conn.QueryRow(t.Context(), sql).Scan(&names); err != nil {
		t.Fatal(err)
	}
	return names
}

func TestPostgres(t *testing.T) {
	t.Parallel()
	var gone string
	t.Run("tests", func(t *testing.T) {
		for i := range 8 {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				dsn := storagetest.Postgres(t, migrate)
				if got := tables(t, dsn); got != "orders" {
					t.Errorf("the database starts with tables %q", got)
				}
				if err := execute(t.Context(), dsn, "create table mine (id int)"); err != nil {
					t.Error(err)
				}
				if got := tables(t, dsn); got != "mine orders" {
					t.Errorf("the database has tables %q", got)
				}
				if i > 0 {
					return
				}
				gone = dsn
				if _, err := pgx.Connect(t.Context(), dsn); err != nil { // left open
					t.Error(err)
				}
			})
		}
		t.Run("other migration", func(t *testing.T) {
			t.Parallel()
			if got := tables(t, storagetest.Postgres(t, migrateOtherwise)); got != "invoices" {
				t.Errorf("the database starts with tables %q", got)
			}
		})
		t.Run("no migration", func(t *testing.T) {
			t.Parallel()
			if got := tables(t, storagetest.Postgres(t, nil)); got != "" {
				t.Errorf("the database starts with tables %q", got)
			}
		})
	})
	if got := migrations.Load(); got != 1 {
		t.Errorf("migrated %d times", got)
	}
	if _, err := pgx.Connect(t.Context(), gone); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("the database outlived its test: %v", err)
	}
}

// A test sees only its own keys, by the names it gave them, everywhere.
func TestEtcd(t *testing.T) {
	t.Parallel()
	one, other := storagetest.Etcd(t), storagetest.Etcd(t)
	watch := one.Watch(t.Context(), "", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	<-watch
	for _, c := range []*clientv3.Client{other, one} {
		r, err := c.Txn(t.Context()).
			If(clientv3.Compare(clientv3.ModRevision("k"), "=", 0)).
			Then(clientv3.OpPut("k", "v")).Commit()
		if err != nil {
			t.Fatal(err)
		}
		if !r.Succeeded {
			t.Fatal("the key was there already")
		}
	}
	if r := <-watch; r.Err() != nil || len(r.Events) != 1 || string(r.Events[0].Kv.Key) != "k" {
		t.Errorf("the watch saw %+v", r)
	}
	all, err := one.Get(t.Context(), "", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	if all.Count != 1 {
		t.Errorf("a test sees %d keys, of which it wrote one", all.Count)
	}
	lease, err := one.Grant(t.Context(), 60)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := one.Put(t.Context(), "leased", "v", clientv3.WithLease(lease.ID)); err != nil {
		t.Fatal(err)
	}
	life, err := one.TimeToLive(t.Context(), lease.ID, clientv3.WithAttachedKeys())
	if err != nil {
		t.Fatal(err)
	}
	if len(life.Keys) != 1 || string(life.Keys[0]) != "leased" {
		t.Errorf("the lease holds keys %q", life.Keys)
	}
}

// Elections are what the publisher needs of leases.
func TestEtcdElection(t *testing.T) {
	t.Parallel()
	c := storagetest.Etcd(t)
	s, err := concurrency.NewSession(c, concurrency.WithTTL(5))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	e := concurrency.NewElection(s, "leader")
	if err := e.Campaign(t.Context(), "me"); err != nil {
		t.Fatal(err)
	}
	r, err := e.Leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if string(r.Kvs[0].Value) != "me" {
		t.Errorf("%s leads", r.Kvs[0].Value)
	}
}

func TestOwnServers(t *testing.T) {
	t.Parallel()
	p, e := storagetest.NewPostgres(t), storagetest.NewEtcd(t)
	shared, mine := storagetest.Postgres(t, nil), p.DSN("postgres")
	if err := errors.Join(p.Stop(), e.Stop()); err != nil {
		t.Fatal(err)
	}
	if _, err := pgx.Connect(t.Context(), mine); err == nil {
		t.Error("the test's own server goes on")
	}
	if got := tables(t, shared); got != "" {
		t.Errorf("the database starts with tables %q", got)
	}
	if err := errors.Join(p.Start(t.Context()), e.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	if got := tables(t, mine); got != "" {
		t.Errorf("the database starts with tables %q", got)
	}
	if _, err := storagetest.Client(t, e).Put(t.Context(), "k", "v"); err != nil {
		t.Error(err)
	}
}

// Main stops what the tests shared: a second run of this binary, in a
// temporary directory of its own, leaves that empty.
func TestMainLeavesNothing(t *testing.T) {
	t.Parallel()
	tmp, err := os.MkdirTemp("/tmp", "sallyport-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o711); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^(TestEtcd|TestPostgres)$", "-test.v")
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := strings.Count(string(out), "\n--- PASS: "); got != 2 {
		t.Fatalf("%d tests ran, want 2\n%s", got, out)
	}
	left, err := os.ReadDir(tmp)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("the run left %v", left)
	}
}
