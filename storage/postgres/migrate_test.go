package postgres_test

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pressly/goose/v3"
	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/postgres"
	"github.com/sallyport/sallyport/storage/storagetest"
)

var update = flag.Bool("update", false, "write schema.sql anew")

// schema.sql is what the migrations make, for people, and for reviews to show
// what a migration changes.
func TestSchemaIsAsWritten(t *testing.T) {
	t.Parallel()
	got := dump(t, storagetest.Postgres(t, postgres.Migrate))
	if *update {
		if err := os.WriteFile("schema.sql", []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("schema.sql")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the migrations make another schema than schema.sql: run the test with -update and look at the difference\n%s", got)
	}
}

var noise = regexp.MustCompile(`(?m)^(--|SET |SELECT pg_catalog|CREATE SCHEMA|COMMENT ON SCHEMA|\\).*\n`)

// dump returns our schema as pg_dump of the server's own version writes it, less
// what differs between versions.
func dump(t *testing.T, dsn string) string {
	t.Helper()
	var binaries string
	if err := session(t, dsn).QueryRow(t.Context(), `select setting from pg_config where name = 'BINDIR'`).Scan(&binaries); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), filepath.Join(binaries, "pg_dump"), "--schema-only", "--no-owner", "--no-privileges",
		"--schema=public", "--exclude-table=schema_version*", "--dbname="+dsn).Output()
	if err != nil {
		t.Fatal(err)
	}
	text := noise.ReplaceAllString(string(out), "")
	return strings.TrimSpace(regexp.MustCompile(`\n{3,}`).ReplaceAllString(text, "\n\n")) + "\n"
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	dsn := storagetest.Postgres(t, nil)
	s := connect(t, dsn)
	err := s.CheckSchema(t.Context())
	wantErr(t, "an empty database", err, postgres.ErrSchema)
	if err == nil || !strings.Contains(err.Error(), "older") || postgres.Unreachable(err) {
		t.Errorf("an empty database: %v", err)
	}

	// Several replicas migrate at once: while one is held up, the others come.
	hold := session(t, dsn)
	if _, err := hold.Exec(t.Context(), `begin; create table fleet ()`); err != nil {
		t.Fatal(err)
	}
	const replicas = 4
	var g errgroup.Group
	for range replicas {
		g.Go(func() error { return postgres.Migrate(t.Context(), dsn) })
	}
	watching := session(t, dsn)
	bound, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for there := 0; there < replicas; {
		if err := watching.QueryRow(bound, `select count(*) from pg_stat_activity where datname = current_database()
			and pid <> pg_backend_pid() and (wait_event_type = 'Lock' or query like '%advisory_lock%')`).Scan(&there); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := hold.Exec(t.Context(), `rollback`); err != nil {
		t.Fatal(err)
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := s.CheckSchema(t.Context()); err != nil {
		t.Fatal(err)
	}
	f := fleet{s, dsn}
	f.apply(t, environment("aws"))
	before := dump(t, dsn)
	if err := postgres.Migrate(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	if dump(t, dsn) != before {
		t.Error("migrating what is migrated changed the schema")
	}
	if p, err := f.Position(t.Context()); err != nil || p.Revision != 1 {
		t.Errorf("migrating what is migrated left the fleet at %v (%v)", p, err)
	}
}

// migrateTo makes the schema of an earlier version.
func migrateTo(t *testing.T, dsn string, version int64) {
	t.Helper()
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	before, err := goose.NewProvider(goose.DialectPostgres, db, os.DirFS("migrations"),
		goose.WithTableName("schema_version"), goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := before.UpTo(t.Context(), version); err != nil {
		t.Fatal(err)
	}
}

// A fleet from before the security lane keeps what it has, and gets the lane.
func TestMigrateAddsTheSecurityLane(t *testing.T) {
	t.Parallel()
	dsn := storagetest.Postgres(t, nil)
	migrateTo(t, dsn, 1)
	digest := snapshot.DocumentDigest([]byte("a"))
	alter(t, dsn, `update fleet set revision = 1`)
	alter(t, dsn, `insert into revision values (1, now(), 'ann', 'first', 1)`)
	alter(t, dsn, `insert into resource_version values ('Environment', '', 'aws', 1, null, false, false, '{aws}', 'a', $1)`, digest[:])
	alter(t, dsn, `insert into environment values ('aws')`)
	alter(t, dsn, `insert into environment_revision values ('aws', 1)`)

	if err := postgres.Migrate(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	f := fleet{connect(t, dsn), dsn}
	versions, at, err := f.Since(t.Context(), 0)
	if err != nil || at != 1 {
		t.Errorf("the fleet is at %d (%v)", at, err)
	}
	wantAll(t, "the fleet", versions, "Environment/aws@1[aws]a")
	if heads, err := f.Heads(t.Context()); err != nil || showHeads(heads...) != "@security@1 unsigned\naws@1 unsigned\n" {
		t.Errorf("the heads are %s(%v)", showHeads(heads...), err)
	}
	if c := f.cut(t, revocation("a", "a")); c.Revision != 2 {
		t.Errorf("the next sequence is %d", c.Revision)
	}
	if c := f.apply(t, environment("gcp")); c.Revision != 2 {
		t.Errorf("the next revision is %d", c.Revision)
	}
}

// Records from before they had traces are there still, and replicas of before go on
// writing. Days that come are indexed by trace; those that were there are not.
func TestMigrateAddsTraces(t *testing.T) {
	t.Parallel()
	dsn := storagetest.Postgres(t, nil)
	migrateTo(t, dsn, 5)
	day := func(d storage.Decision) string { return "decision_" + d.ID.Time().Format("20060102") }
	old, late, next := decided(0, nil), decided(time.Minute, nil), decided(24*time.Hour, nil)
	alter(t, dsn, `create table `+day(old)+` (like decision including all)`)
	alter(t, dsn, fmt.Sprintf(`alter table decision attach partition %s for values from ('%s') to ('%s')`, day(old),
		storage.DecisionsFrom(today.Truncate(24*time.Hour)), storage.DecisionsFrom(today.Truncate(24*time.Hour).Add(24*time.Hour))))
	alter(t, dsn, `insert into decision_journal (proxy, boot, sequence, updated_at) values ('p', 'b', 2, now())`)
	const write = `insert into decision (id, journal, sequence, environment, principal, route, allow, reason, record)
		values ($1, 1, $2, 'aws', 'alice', 'shop/orders', false, 'r', $3)`
	alter(t, dsn, write, old.ID.String(), 1, []byte("old"))
	if err := postgres.Migrate(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	alter(t, dsn, write, late.ID.String(), 2, []byte("late"))
	r := records{connectRecords(t, dsn), dsn}
	next.Trace, next.Record = storage.TraceID{15: 1}, []byte("next")
	r.save(t, one, 1, next)
	if got := r.found(t, storage.DecisionPage{}); got != "next late old" {
		t.Errorf("found were %s", got)
	}
	if got := r.found(t, storage.DecisionPage{DecisionFilter: storage.DecisionFilter{Trace: next.Trace}}); got != "next" {
		t.Errorf("found by the trace were %s", got)
	}
	for table, want := range map[string]int{day(old): 0, day(next): 1} {
		var got int
		err := session(t, dsn).QueryRow(t.Context(), `select count(*) from pg_indexes where tablename = $1 and indexdef like '%(trace, id)%'`, table).Scan(&got)
		if err != nil || got != want {
			t.Errorf("%s has %d indexes by trace, want %d (%v)", table, got, want, err)
		}
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	t.Parallel()
	f := open(t)
	alter(t, f.dsn, `insert into schema_version (version_id, is_applied) values (9999, true)`)
	alter(t, f.dsn, `update schema_floor set version = 9999`)
	for name, err := range map[string]error{
		"CheckSchema": f.CheckSchema(t.Context()),
		"Migrate":     postgres.Migrate(t.Context(), f.dsn),
	} {
		wantErr(t, name, err, postgres.ErrSchema)
		if err == nil || !strings.Contains(err.Error(), "newer") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A database that is only half of what a build needs is refused, too.
func TestOlderSchemaIsRefused(t *testing.T) {
	t.Parallel()
	f := open(t)
	alter(t, f.dsn, `delete from schema_version where version_id > 0`)
	wantErr(t, "CheckSchema", f.CheckSchema(t.Context()), postgres.ErrSchema)
}

func TestMigrateHidesPasswords(t *testing.T) {
	err := postgres.Migrate(t.Context(), "postgres://ann:hunter2@db:port/x")
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("Migrate: %v", err)
	}
}
