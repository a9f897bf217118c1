package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// superuser is the only role of a private cluster.
const superuser = "postgres"

// PostgresConfig is what a Postgres needs. Only Log is required.
type PostgresConfig struct {
	// Dir keeps data and log from one process to the next; it is made where it
	// is missing. The data is temporary, gone with Close, when Dir is empty or
	// when it is out of reach for the user that the server runs as: started by
	// root, Postgres runs as postgres or nobody, who cannot enter /root.
	Dir string

	// TempDir is where temporary directories are made. Empty: os.TempDir(). In
	// a memory file system a cluster starts twice as fast and copies databases
	// ten times as fast. A directory out of reach gives way to /tmp.
	TempDir string

	// BinDir holds initdb and postgres, version 15 or newer. Empty: they are
	// looked for on the PATH and where packages put them.
	BinDir string

	// Follow is a cluster that was started, of which this one is a standby until
	// Promote: the first Start copies it (with pg_basebackup), and then what is
	// committed there comes here, a moment later. Nil for a cluster of its own.
	Follow *Postgres

	Log *slog.Logger
}

// Postgres is a private cluster with trust authentication, that only this
// user's processes (and root) can reach. Start, Stop and Close are for one
// goroutine at a time; after Start the other methods are safe for concurrent
// use.
type Postgres struct {
	cfg      PostgresConfig
	account  *account
	patience time.Duration // what stopping may take before more force is used

	// Set by Start for a new scratch directory, and never changed before Close.
	run  string // holds the socket
	home string // holds data and log

	// Owned by the caller of Start, Stop and Close.
	tmp    *scratch // nil before Start and after Close
	held   *os.File // lock of Dir; nil when there is none
	server *child   // nil before Start and after Stop
}

// NewPostgres finds the programs and the user to run them as, and starts
// nothing. Its error names the command to install Postgres where it is missing.
func NewPostgres(cfg PostgresConfig) (*Postgres, error) {
	if cfg.Log == nil {
		return nil, errors.New("local postgres: no logger")
	}
	if cfg.BinDir == "" {
		dir, err := findPostgres()
		if err != nil {
			return nil, err
		}
		cfg.BinDir = dir
	} else if version, err := postgresVersion(cfg.BinDir); err != nil {
		return nil, err
	} else if version < oldestPostgres {
		return nil, fmt.Errorf("postgres in %s has version %d, at least %d is needed", cfg.BinDir, version, oldestPostgres)
	}
	a, err := serverAccount()
	if err != nil {
		return nil, err
	}
	return &Postgres{cfg: cfg, account: a, patience: 10 * time.Second}, nil
}

// Start makes the cluster where there is none yet and returns when it accepts
// connections. ctx bounds the start, not the life of the server. After Stop,
// Start serves the same data under the same DSN. A first Start that fails
// leaves nothing behind.
func (p *Postgres) Start(ctx context.Context) error {
	if p.server != nil {
		return fmt.Errorf("start postgres: %w", errStarted)
	}
	ctx, cancel := context.WithTimeout(ctx, startBound)
	defer cancel()
	first := p.tmp == nil
	err := p.start(ctx)
	if err == nil {
		p.cfg.Log.Info("postgres started", "dir", p.home)
		return nil
	}
	err = fmt.Errorf("start postgres: %w", err)
	if first {
		return errors.Join(err, p.Close())
	}
	return errors.Join(err, p.Stop())
}

func (p *Postgres) start(ctx context.Context) error {
	if p.tmp == nil {
		if err := p.settle(ctx); err != nil {
			return err
		}
	}
	if err := p.initialise(ctx); err != nil {
		return err
	}
	if err := p.launch(); err != nil {
		return err
	}
	return p.await(ctx)
}

// settle decides where socket, data and log are.
func (p *Postgres) settle(ctx context.Context) (err error) {
	if p.tmp, err = newScratch(p.cfg.TempDir, p.account); err != nil {
		return err
	}
	p.home, p.run = p.tmp.path, filepath.Join(p.tmp.path, "run")
	if err := p.account.own(p.run); err != nil {
		return err
	}
	if p.cfg.Dir == "" {
		return nil
	}
	dir, err := filepath.Abs(p.cfg.Dir)
	if err != nil {
		return err
	}
	if p.held, err = claim(ctx, dir); err != nil {
		return err
	}
	if !p.account.reaches(dir) {
		p.cfg.Log.Warn("postgres keeps its data elsewhere, its user cannot reach the directory",
			"user", p.account.name, "dir", dir, "instead", p.home)
		return nil
	}
	p.home = dir
	return nil
}

func (p *Postgres) dataDir() string { return filepath.Join(p.home, "data") }

// initialise makes the cluster aside and renames it, so that a data directory
// is never half a cluster.
func (p *Postgres) initialise(ctx context.Context) error {
	_, err := os.Stat(filepath.Join(p.dataDir(), "PG_VERSION"))
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	fresh := p.dataDir() + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := p.account.own(fresh); err != nil {
		return err
	}
	var out bytes.Buffer
	cmd := p.maker(fresh)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	c, err := startChild(cmd, nil)
	if err != nil {
		return err
	}
	if err := c.wait(ctx, p.patience); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, lastWords(out.Bytes()))
	}
	return os.Rename(fresh, p.dataDir())
}

// maker is the program that makes the data directory.
func (p *Postgres) maker(dir string) *exec.Cmd {
	if p.cfg.Follow != nil {
		return p.command("pg_basebackup", "-D", dir, "-d", p.cfg.Follow.DSN(superuser), "--write-recovery-conf",
			"--wal-method=stream", "--checkpoint=fast", "--no-sync")
	}
	return p.command("initdb", "-D", dir, "-U", superuser, "-E", "UTF8", "--locale=C",
		"--auth-local=trust", "--auth-host=reject", "--no-sync", "--no-instructions")
}

// Promote makes a standby a primary, with all that has come there until then.
func (p *Postgres) Promote(ctx context.Context) error {
	if err := p.exec(ctx, "select pg_promote()"); err != nil { // waits for it
		return fmt.Errorf("promote postgres: %w", err)
	}
	return nil
}

// launch starts the server, which inherits our locks and so keeps its
// directories from others for as long as it lives.
func (p *Postgres) launch() error {
	log, err := os.OpenFile(p.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := p.command("postgres", "-D", p.dataDir(),
		"-c", "listen_addresses=",
		"-c", fmt.Sprintf("unix_socket_directories=%q", p.run),
		"-c", "unix_socket_permissions=0700",
		"-c", "max_connections=200",
		"-c", "max_wal_size=128MB", // of disk, or of memory
		// Nobody pulls the plug on a demo or a test, and what was written to
		// the kernel outlives kill -9 of the server and of its clients.
		"-c", "fsync=off",
		"-c", "full_page_writes=off",
	)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = slices.DeleteFunc([]*os.File{p.tmp.lock, p.held}, func(f *os.File) bool { return f == nil })
	p.server, err = startChild(cmd, func(err error) {
		p.cfg.Log.Error("postgres ended by itself", "err", err, "log", p.logFile())
	})
	return err
}

func (p *Postgres) logFile() string { return filepath.Join(p.home, "postgres.log") }

// command runs a Postgres program as the server's user, without the settings
// that the environment holds for clients of other clusters.
func (p *Postgres) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(p.cfg.BinDir, name), args...) //nolint:noctx // a context would kill: child.stop asks first
	cmd.Dir = p.run
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "PG")
	}), "LC_ALL=C", "TZ=UTC")
	cmd.SysProcAttr = p.account.attributes()
	return cmd
}

// await returns when the server accepts connections, or has ended.
func (p *Postgres) await(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := pgx.Connect(ctx, p.DSN(superuser))
		if err == nil {
			p.server.expected.Store(false)
			return conn.Close(ctx)
		}
		select {
		case <-p.server.done:
			log, _ := os.ReadFile(p.logFile()) // best effort: the exit status stands without it
			return fmt.Errorf("it ended at once (%s): %s", p.server.cmd.ProcessState, lastWords(log))
		case <-ctx.Done():
			return fmt.Errorf("it accepts no connections: %w", err)
		case <-tick.C:
		}
	}
}

// lastWords is the end of a program's output, on one line.
func lastWords(out []byte) string {
	const most = 300
	out = bytes.TrimSpace(out)
	if len(out) > most {
		out = out[len(out)-most:]
	}
	return strings.Join(strings.Fields(string(out)), " ")
}

// Stop ends the server, and its clients' connections with it, in an orderly
// way; it uses force when that takes too long, and says so. Stopping what is
// not started does nothing.
func (p *Postgres) Stop() error {
	if p.server == nil {
		return nil
	}
	server := p.server
	p.server = nil
	if err := server.stop(p.patience); err != nil {
		return fmt.Errorf("stop postgres: %w", err)
	}
	p.cfg.Log.Info("postgres stopped", "dir", p.home)
	return nil
}

// Close stops the server and removes everything but what is in Dir.
func (p *Postgres) Close() error {
	err := p.Stop()
	if p.tmp != nil {
		err = errors.Join(err, p.tmp.remove())
		p.tmp = nil
	}
	if p.held != nil {
		err = errors.Join(err, p.held.Close())
		p.held = nil
	}
	return err
}

// DSN is the connection string of a database, for pgx and for psql, in this
// process and in others. It is valid from Start to Close.
func (p *Postgres) DSN(database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.User(superuser),
		Path:     "/" + database,
		RawQuery: url.Values{"host": {p.run}}.Encode(),
	}
	return u.String()
}

// CreateDatabase makes a database: a copy of template, which nobody may be
// connected to, or an empty one when template is empty.
func (p *Postgres) CreateDatabase(ctx context.Context, name, template string) error {
	sql := "create database " + pgx.Identifier{name}.Sanitize()
	if template != "" {
		// The other strategy writes the whole copy to the log as well.
		sql += " template " + pgx.Identifier{template}.Sanitize() + " strategy file_copy"
	}
	if err := p.exec(ctx, sql); err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	return nil
}

// DropDatabase removes a database and cuts off whoever is connected to it. A
// missing database is no error.
func (p *Postgres) DropDatabase(ctx context.Context, name string) error {
	if err := p.exec(ctx, "drop database if exists "+pgx.Identifier{name}.Sanitize()+" with (force)"); err != nil {
		return fmt.Errorf("drop database %s: %w", name, err)
	}
	return nil
}

func (p *Postgres) exec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, p.DSN(superuser))
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql)
	return errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
}
