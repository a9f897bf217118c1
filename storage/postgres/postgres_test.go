package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/postgres"
	"github.com/sallyport/sallyport/storage/storagetest"
)

func TestMain(m *testing.M) { os.Exit(storagetest.Main(m)) }

// fleet is a store and its database.
type fleet struct {
	*postgres.Store
	dsn string
}

// open returns the store of a new fleet.
func open(t testing.TB) fleet {
	t.Helper()
	dsn := storagetest.Postgres(t, postgres.Migrate)
	return fleet{connect(t, dsn), dsn}
}

// connect returns the store of one more replica.
func connect(t testing.TB, dsn string) *postgres.Store {
	t.Helper()
	s, err := postgres.New(postgres.Config{DSN: dsn, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// listen runs a store until the test ends, and returns what Changed does when
// it has received that the store listens.
func listen(t testing.TB, s *postgres.Store) <-chan struct{} {
	t.Helper()
	changed := s.Changed(t.Context())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	receive(t, changed)
	return changed
}

// alter does what anyone can do who has a connection to the database.
func alter(t testing.TB, dsn, sql string, args ...any) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	_, err = conn.Exec(t.Context(), sql, args...)
	if err := errors.Join(err, conn.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
}

func session(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) }) // its server may be gone
	return conn
}

// key reads Kind/name and Kind/namespace/name.
func key(s string) resource.Key {
	kind, rest, _ := strings.Cut(s, "/")
	namespace, name, ok := strings.Cut(rest, "/")
	if !ok {
		namespace, name = "", rest
	}
	return resource.Key{Kind: resource.Kind(kind), Namespace: namespace, Name: name}
}

// scope reads "all", "aws gcp" and "" for none.
func scope(s string) storage.Scope {
	if s == "all" {
		return storage.Scope{All: true}
	}
	return storage.Scope{Environments: strings.Fields(s)}
}

func put(k, where, document string) storage.Change {
	return storage.Change{Key: key(k), Scope: scope(where), Document: []byte(document), Digest: snapshot.DocumentDigest([]byte(document))}
}

func remove(k string) storage.Change { return storage.Change{Key: key(k), Delete: true} }

func environment(name string) storage.Change {
	return put("Environment/"+name, name, "environment "+name)
}

func ignore([]storage.Version) error { return nil }

// apply commits the changes after whatever there is.
func (f fleet) apply(t testing.TB, changes ...storage.Change) storage.Committed {
	t.Helper()
	c, err := f.Commit(t.Context(), storage.Commit{Caller: "ann", Action: "apply", Message: "why", Changes: changes}, ignore)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// show writes a version as Kind/namespace/name@revision[scope]document.
func show(v storage.Version) string {
	where := strings.Join(v.Scope.Environments, " ")
	if v.Scope.All {
		where = "all"
	}
	content := string(v.Document)
	switch {
	case v.Deleted && len(v.Document) == 0 && v.Digest.IsZero():
		content = "deleted"
	case v.Deleted || v.Digest != snapshot.DocumentDigest(v.Document):
		content = "damaged"
	}
	return fmt.Sprintf("%s@%d[%s]%s", v.Key, v.Revision, where, content)
}

func showAll(versions []storage.Version) string {
	lines := make([]string, len(versions))
	for i, v := range versions {
		lines[i] = show(v)
	}
	return strings.Join(lines, "\n")
}

func lines(s ...string) string { return strings.Join(s, "\n") }

func wantAll(t testing.TB, what string, got []storage.Version, want ...string) {
	t.Helper()
	if showAll(got) != lines(want...) {
		t.Errorf("%s:\n%s\nwant:\n%s", what, showAll(got), lines(want...))
	}
}

func wantErr(t testing.TB, what string, err error, want ...error) {
	t.Helper()
	for _, w := range want {
		if !errors.Is(err, w) {
			t.Errorf("%s: %v, want %v", what, err, w)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for name, c := range map[string]postgres.Config{
		"no logger":            {DSN: "postgres:///x"},
		"negative connections": {DSN: "postgres:///x", MaxConns: -1, Log: log},
		"no port":              {DSN: "postgres://ann:hunter2@db:port/x", Log: log},
	} {
		s, err := postgres.New(c)
		if err == nil {
			s.Close()
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error shows the password: %v", name, err)
		}
	}
}

// calls is every method that asks the database.
func calls(s *postgres.Store) map[string]func(context.Context) error {
	one := storage.Commit{Changes: []storage.Change{environment("aws")}}
	return map[string]func(context.Context) error{
		"Commit":         func(ctx context.Context) error { _, err := s.Commit(ctx, one, ignore); return err },
		"Since":          func(ctx context.Context) error { _, _, err := s.Since(ctx, 0); return err },
		"Resource":       func(ctx context.Context) error { _, err := s.Resource(ctx, key("Environment/aws"), 0); return err },
		"List":           func(ctx context.Context) error { _, _, err := s.List(ctx, storage.Filter{Limit: 1}); return err },
		"Revisions":      func(ctx context.Context) error { _, err := s.Revisions(ctx, 0, 1); return err },
		"Position":       func(ctx context.Context) error { _, err := s.Position(ctx); return err },
		"EnvironmentsAt": func(ctx context.Context) error { _, err := s.EnvironmentsAt(ctx, 1); return err },
		"BeginTerm":      func(ctx context.Context) error { _, err := s.BeginTerm(ctx, "a"); return err },
		"Heads":          func(ctx context.Context) error { _, err := s.Heads(ctx); return err },
		"Head":           func(ctx context.Context) error { _, err := s.Head(ctx, "aws", 1); return err },
		"EnvironmentRevisions": func(ctx context.Context) error {
			_, err := s.EnvironmentRevisions(ctx, "aws", 0, 1)
			return err
		},
		"EnvironmentState": func(ctx context.Context) error { _, err := s.EnvironmentState(ctx, "aws", 1); return err },
		"SaveHeads":        func(ctx context.Context) error { return s.SaveHeads(ctx, 1, nil) },
		"Cursor":           func(ctx context.Context) error { _, err := s.Cursor(ctx, "etcd", "aws"); return err },
		"AdvanceCursor":    func(ctx context.Context) error { return s.AdvanceCursor(ctx, 1, "etcd", "aws", 1) },
		"SaveProxies":      func(ctx context.Context) error { return s.SaveProxies(ctx, "", []storage.Proxy{{ID: "a"}}) },
		"Proxy":            func(ctx context.Context) error { _, err := s.Proxy(ctx, "a"); return err },
		"Proxies":          func(ctx context.Context) error { _, err := s.Proxies(ctx, "", storage.Proxy{}, 1); return err },
		"Record":           func(ctx context.Context) error { return s.Record(ctx, storage.AuditEntry{}) },
		"Entries":          func(ctx context.Context) error { _, err := s.Entries(ctx, 0, 1); return err },
		"Witness":          func(ctx context.Context) error { return s.Witness(ctx, "etcd", snapshot.Head{}) },
		"Settled":          s.Settled,
		"Sightings":        func(ctx context.Context) error { _, err := s.Sightings(ctx); return err },
		"Predecessor":      func(ctx context.Context) error { _, _, err := s.Predecessor(ctx, "aws", 2); return err },
		"CheckSchema":      s.CheckSchema,
	}
}

func TestPostgresAway(t *testing.T) {
	t.Parallel()
	server := storagetest.NewPostgres(t)
	dsn := server.DSN("postgres")
	if err := postgres.Migrate(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	f := fleet{connect(t, dsn), dsn}
	changed := listen(t, f.Store)
	f.apply(t, environment("aws"))
	receive(t, changed)

	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	for name, call := range calls(f.Store) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second) // it does not take that long
		wantErr(t, name+" without Postgres", call(ctx), storage.ErrUnavailable)
		cancel()
	}
	wantErr(t, "Migrate without Postgres", postgres.Migrate(t.Context(), dsn), storage.ErrUnavailable)
	late := connect(t, dsn) // a replica starts while Postgres is down
	wantErr(t, "a late replica", late.CheckSchema(t.Context()), storage.ErrUnavailable)

	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	receive(t, changed) // it listens again
	if c := f.apply(t, environment("gcp")); c.Revision != 2 {
		t.Errorf("the next revision is %d, want 2: what failed made none", c.Revision)
	}
	if err := late.CheckSchema(t.Context()); err != nil {
		t.Errorf("a late replica: %v", err)
	}
}

// Postgres is stopped in the middle of a commit.
func TestPostgresGoesDuringCommit(t *testing.T) {
	t.Parallel()
	server := storagetest.NewPostgres(t)
	dsn := server.DSN("postgres")
	if err := postgres.Migrate(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	f := fleet{connect(t, dsn), dsn}
	_, err := f.Commit(t.Context(), storage.Commit{Changes: []storage.Change{environment("aws")}}, func([]storage.Version) error {
		return server.Stop()
	})
	wantErr(t, "Commit", err, storage.ErrUnavailable)
	if errors.Is(err, storage.ErrUnknownOutcome) {
		t.Errorf("Commit: %v, but it was not committing yet", err)
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c := f.apply(t, environment("aws")); c.Revision != 1 {
		t.Errorf("the next revision is %d, want 1", c.Revision)
	}
}

// A server that takes no changes any more is away for those who make them, and
// its connections are not kept.
func TestServerIsNoPrimaryNow(t *testing.T) {
	t.Parallel()
	f := open(t)
	readOnly := func(yes bool) {
		alter(t, f.dsn, fmt.Sprintf(`set transaction read write; do $$ begin
			execute format('alter database %%I set default_transaction_read_only = %t', current_database()); end $$`, yes))
	}
	readOnly(true)
	_, err := f.Commit(t.Context(), storage.Commit{Changes: []storage.Change{environment("aws")}}, ignore)
	wantErr(t, "Commit", err, storage.ErrUnavailable)
	readOnly(false)
	if c := f.apply(t, environment("aws")); c.Revision != 1 {
		t.Errorf("the revision is %d", c.Revision)
	}
}

// When the server cuts off all connections, one call notices, and not one for
// each connection.
func TestConnectionsAreCutOff(t *testing.T) {
	t.Parallel()
	f := open(t)
	const connections = 8
	var g errgroup.Group
	for range connections {
		g.Go(func() error { _, _, err := f.Since(t.Context(), 0); return err })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	cutOff(t, f.dsn)
	failed := 0
	for range connections {
		if _, err := f.Position(t.Context()); err != nil {
			wantErr(t, "Position", err, storage.ErrUnavailable)
			failed++
		}
	}
	if failed > 1 {
		t.Errorf("%d calls failed", failed)
	}
}

// cutOff ends the sessions of all stores of a database.
func cutOff(t testing.TB, dsn string) {
	t.Helper()
	alter(t, dsn, `select pg_terminate_backend(pid, 10000) from pg_stat_activity
		where datname = current_database() and application_name = 'sallyport'`)
}

func TestCallsEndWithTheirContext(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, call := range calls(f.Store) {
		err := call(ctx)
		wantErr(t, name, err, context.Canceled)
		if errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("%s: %v, but the caller gave up", name, err)
		}
	}
	if p, err := f.Position(t.Context()); err != nil || p != (snapshot.Position{Epoch: 1}) {
		t.Errorf("the fleet is at %v (%v), want nothing changed", p, err)
	}
}
