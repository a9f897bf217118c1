package local_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport/sallyport/storage/local"
)

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

func ask(t *testing.T, dsn, sql string) string {
	t.Helper()
	conn := connect(t, dsn)
	defer conn.Close(t.Context())
	var answer string
	if err := conn.QueryRow(t.Context(), sql).Scan(&answer); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return answer
}

func do(t *testing.T, dsn, sql string) {
	t.Helper()
	conn := connect(t, dsn)
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func TestPostgresIsPrivate(t *testing.T) {
	t.Parallel()
	p := startPostgres(t, local.PostgresConfig{})
	for setting, want := range map[string]string{
		"listen_addresses":        "", // no network at all
		"unix_socket_permissions": "0700",
		"server_encoding":         "UTF8",
		"TimeZone":                "UTC",
		"synchronous_commit":      "on",
	} {
		if got := ask(t, p.DSN("postgres"), "show "+setting); got != want {
			t.Errorf("%s is %q, want %q", setting, got, want)
		}
	}
	info, err := os.Stat(filepath.Join(scratchOf(t, p.DSN("postgres")), "run"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o700 {
		t.Errorf("directory of the socket has mode %v", info.Mode())
	}
}

func TestPostgresDatabases(t *testing.T) {
	t.Parallel()
	p := startPostgres(t, local.PostgresConfig{})
	const odd = `a "template"/?` // names are quoted wherever they go
	if err := p.CreateDatabase(t.Context(), odd, ""); err != nil {
		t.Fatal(err)
	}
	do(t, p.DSN(odd), "create table t as select 'from the template' as c")
	if err := p.CreateDatabase(t.Context(), "copy", odd); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, p.DSN("copy"), "select c from t"); got != "from the template" {
		t.Errorf("the copy holds %q", got)
	}
	if err := p.CreateDatabase(t.Context(), "copy", ""); err == nil {
		t.Error("a database was created twice")
	}

	client := connect(t, p.DSN("copy"))
	if err := p.DropDatabase(t.Context(), "copy"); err != nil {
		t.Fatal(err)
	}
	if err := client.Ping(t.Context()); err == nil {
		t.Error("a client of the dropped database goes on")
	}
	var pgErr *pgconn.PgError
	if _, err := pgx.Connect(t.Context(), p.DSN("copy")); !errors.As(err, &pgErr) || pgErr.Code != "3D000" {
		t.Errorf("connect to a dropped database: %v", err)
	}
	if err := p.DropDatabase(t.Context(), "copy"); err != nil {
		t.Errorf("drop of a missing database: %v", err)
	}
}

func TestPostgresDownAndBack(t *testing.T) {
	t.Parallel()
	p := startPostgres(t, local.PostgresConfig{})
	dsn := p.DSN("postgres")
	do(t, dsn, "create table t as select 'kept' as c")
	client := connect(t, dsn)
	if err := p.Start(t.Context()); err == nil {
		t.Error("started twice")
	}

	for range 2 { // stopping twice is harmless
		if err := p.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.Ping(t.Context()); err == nil {
		t.Error("a connection survived Stop")
	}
	if _, err := pgx.Connect(t.Context(), dsn); err == nil {
		t.Error("connected to a stopped server")
	}

	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, dsn, "select c from t"); got != "kept" {
		t.Errorf("after the restart the table holds %q", got)
	}
}

func TestPostgresKeepsDir(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(openDir(t), "made", "by us")
	first := startPostgres(t, local.PostgresConfig{Dir: dir})
	do(t, first.DSN("postgres"), "create table t as select 'kept' as c")

	other := newPostgres(t, local.PostgresConfig{Dir: dir})
	hurry, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := other.Start(hurry); err == nil || !strings.Contains(err.Error(), "in use by another") {
		t.Errorf("a second server on the same directory: %v", err)
	}

	scratch, pid := scratchOf(t, first.DSN("postgres")), postmaster(t, filepath.Join(dir, "data"))
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	missing(t, scratch)
	if running(pid) {
		t.Error("the server outlived Close")
	}
	if err := other.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, other.DSN("postgres"), "select c from t"); got != "kept" {
		t.Errorf("the next server on the directory finds %q", got)
	}
}

// Go makes temporary directories that only their user may enter. Root's are
// out of reach for the user that Postgres then runs as.
func TestPostgresOutOfReach(t *testing.T) {
	t.Parallel()
	var log logBuffer
	dir := t.TempDir()
	p := startPostgres(t, local.PostgresConfig{Dir: dir, Log: logTo(&log)})
	scratch := scratchOf(t, p.DSN("postgres"))
	used, warned := filepath.Join(dir, "data"), false
	if os.Geteuid() == 0 {
		used, warned = filepath.Join(scratch, "data"), true
	}
	if got := ask(t, p.DSN("postgres"), "show data_directory"); got != used {
		t.Errorf("the data is in %s, want %s", got, used)
	}
	if got := strings.Contains(log.String(), "cannot reach"); got != warned {
		t.Errorf("warned: %v, want %v", got, warned)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	missing(t, scratch)
}

func TestPostgresForced(t *testing.T) {
	t.Parallel()
	p := startPostgres(t, local.PostgresConfig{})
	dsn := p.DSN("postgres")
	pid := postmaster(t, filepath.Join(scratchOf(t, dsn), "data"))
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	p.SetPatience(20 * time.Millisecond)
	if err := p.Stop(); err == nil || !strings.Contains(err.Error(), "was killed") {
		t.Errorf("stop of a server that does not answer: %v", err)
	}
	if running(pid) {
		t.Error("the server outlived Stop")
	}
	p.SetPatience(10 * time.Second)
	if err := p.Start(t.Context()); err != nil {
		t.Errorf("start after a kill: %v", err)
	}
}

func TestPostgresEndsByItself(t *testing.T) {
	t.Parallel()
	var log logBuffer
	p := startPostgres(t, local.PostgresConfig{Log: logTo(&log)})
	pid := postmaster(t, filepath.Join(scratchOf(t, p.DSN("postgres")), "data"))
	if err := syscall.Kill(pid, syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a line in the log", func() bool { return strings.Contains(log.String(), "postgres ended by itself") })
	if err := p.Stop(); err != nil {
		t.Errorf("stop of a server that has ended: %v", err)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestPostgresCannotStart(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(data string) error
		want  string
	}{
		"cluster of another version": {
			func(data string) error {
				return os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte("9\n"), 0o644)
			}, "it ended at once",
		},
		"somebody else's files": {
			func(data string) error {
				return os.WriteFile(filepath.Join(data, "thesis.txt"), []byte("do not lose me"), 0o644)
			}, "file exists",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := openDir(t)
			data := filepath.Join(dir, "data")
			if err := errors.Join(os.Mkdir(data, 0o700), c.spoil(data)); err != nil {
				t.Fatal(err)
			}
			before, err := os.ReadDir(data)
			if err != nil {
				t.Fatal(err)
			}
			p := newPostgres(t, local.PostgresConfig{Dir: dir})
			err = p.Start(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one line with %q", err, c.want)
			}
			missing(t, scratchOf(t, p.DSN("postgres")))
			if after, err := os.ReadDir(data); err != nil || len(after) != len(before) {
				t.Errorf("the data directory was touched: %v, %v", after, err)
			}
		})
	}
}

func TestPostgresTempDir(t *testing.T) {
	t.Parallel()
	open := openDir(t)
	long := filepath.Join(open, strings.Repeat("long", 20))
	if err := os.Mkdir(long, 0o755); err != nil {
		t.Fatal(err)
	}
	for temp, want := range map[string]string{
		open: open,
		long: "/tmp", // no room for the path of a socket
	} {
		p := startPostgres(t, local.PostgresConfig{TempDir: temp})
		scratch := scratchOf(t, p.DSN("postgres"))
		if got := filepath.Dir(scratch); got != want {
			t.Errorf("the temporary directory is below %s, want %s", got, want)
		}
	}
}

func TestPostgresHasNoTime(t *testing.T) {
	t.Parallel()
	hurry, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond) // initdb takes longer
	defer cancel()
	p := newPostgres(t, local.PostgresConfig{})
	if err := p.Start(hurry); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	missing(t, scratchOf(t, p.DSN("postgres")))
}

func TestNewPostgres(t *testing.T) {
	// The places to search are shared: not parallel.
	none := t.TempDir()
	programs := func(version string) string {
		dir := filepath.Join(t.TempDir(), version, "bin")
		script := "#!/bin/sh\necho 'postgres (PostgreSQL) " + version + "'\n"
		err := os.MkdirAll(dir, 0o755)
		for _, name := range []string{"initdb", "postgres"} {
			err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755))
		}
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	v14, v15, v18 := programs("14.1"), programs("15.4 (Debian 15.4-1)"), programs("18rc1")
	for name, c := range map[string]struct {
		binDir, path string
		places       []string
		want         string // in the error; empty: found
	}{
		"nowhere":                {"", none, []string{none}, "apt-get install postgresql"},
		"too old on the path":    {"", v14, nil, "apt-get install postgresql"},
		"too old everywhere":     {"", v14, []string{v14}, "apt-get install postgresql"},
		"on the path":            {"", v15, nil, ""},
		"behind an old one":      {"", v14, []string{none, v15}, ""},
		"with a pattern":         {"", none, []string{filepath.Dir(filepath.Dir(v18)) + "/*/bin"}, ""},
		"named":                  {v15, none, nil, ""},
		"named, too old":         {v14, v15, []string{v15}, "at least 15"},
		"named, without program": {none, v15, []string{v15}, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(local.SearchOnly(c.places...))
			t.Setenv("PATH", c.path+":/bin") // /bin has the shell of the scripts
			_, err := local.NewPostgres(local.PostgresConfig{BinDir: c.binDir, Log: logTo(new(logBuffer))})
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	if _, err := local.NewPostgres(local.PostgresConfig{}); err == nil {
		t.Error("no logger, no complaint")
	}
}

// A standby has what is committed to the cluster that it follows, takes no
// changes until it is promoted, and goes on by itself then.
func TestStandby(t *testing.T) {
	t.Parallel()
	primary := startPostgres(t, local.PostgresConfig{})
	do(t, primary.DSN("postgres"), `create table before ()`)
	standby := startPostgres(t, local.PostgresConfig{Follow: primary})
	dsn := standby.DSN("postgres")
	if got := ask(t, dsn, `select pg_is_in_recovery() || ' ' || count(*) from pg_tables where tablename = 'before'`); got != "true 1" {
		t.Errorf("the standby says %s", got)
	}
	if err := primary.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	do(t, dsn, `create table after ()`)
}
