package postgres_test

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/local"
	"github.com/sallyport/sallyport/storage/postgres"
)

// When all connections are busy a call is told soon, and not when its caller has
// given up. Commits wait for each other without one.
func TestConnectionsAreExhausted(t *testing.T) {
	t.Parallel()
	f := open(t)
	s, err := postgres.New(postgres.Config{DSN: f.dsn, MaxConns: 1, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	s.SetQueue(50 * time.Millisecond)
	committing, finish := make(chan struct{}), make(chan struct{})
	done := make(chan error, 2)
	go func() {
		_, err := s.Commit(t.Context(), storage.Commit{Changes: []storage.Change{environment("aws")}}, func([]storage.Version) error {
			close(committing)
			<-finish
			return nil
		})
		done <- err
	}()
	<-committing
	go func() { done <- commitTo(t.Context(), s, environment("gcp")) }()
	for name, call := range calls(s) {
		if name == "Commit" {
			continue // it waits for the one before it
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		err := call(ctx)
		wantErr(t, name, err, storage.ErrUnavailable)
		cancel()
	}
	close(finish)
	for range 2 {
		if err := <-done; err != nil {
			t.Errorf("a commit: %v", err)
		}
	}
}

// pair is a primary and its standby.
type pair struct {
	primary, standby *local.Postgres
	dsn              string // of whichever is the primary
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{}
	start := func(follow *local.Postgres) *local.Postgres {
		server, err := local.NewPostgres(local.PostgresConfig{Follow: follow, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := server.Close(); err != nil {
				t.Error(err)
			}
		})
		if err := server.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		return server
	}
	p.primary = start(nil)
	p.standby = start(p.primary)
	p.dsn = "postgres://postgres@/postgres?target_session_attrs=read-write&host=" + host(t, p.primary) + "," + host(t, p.standby)
	if err := postgres.Migrate(t.Context(), p.dsn); err != nil {
		t.Fatal(err)
	}
	return p
}

func host(t *testing.T, p *local.Postgres) string {
	t.Helper()
	u, err := url.Parse(p.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	return u.Query().Get("host")
}

// caughtUp waits until the standby has a revision.
func (p *pair) caughtUp(t *testing.T, at snapshot.Revision) {
	t.Helper()
	conn := session(t, p.standby.DSN("postgres"))
	for began := time.Now(); ; <-time.After(10 * time.Millisecond) {
		var revision snapshot.Revision
		err := conn.QueryRow(t.Context(), `select revision from fleet`).Scan(&revision)
		if err == nil && revision == at {
			return
		}
		if time.Since(began) > 30*time.Second {
			t.Fatalf("the standby is at revision %d (%v), want %d", revision, err, at)
		}
	}
}

// part ends the replication.
func (p *pair) part(t *testing.T) {
	t.Helper()
	conn := session(t, p.standby.DSN("postgres"))
	for _, sql := range []string{`alter system set primary_conninfo = ''`, `select pg_reload_conf()`} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	for began := time.Now(); ; <-time.After(10 * time.Millisecond) {
		var receivers int
		if err := conn.QueryRow(t.Context(), `select count(*) from pg_stat_wal_receiver`).Scan(&receivers); err != nil {
			t.Fatal(err)
		}
		if receivers == 0 {
			return
		}
		if time.Since(began) > 30*time.Second {
			t.Fatal("the standby follows on")
		}
	}
}

// failOver makes the standby the primary, and the primary gone.
func (p *pair) failOver(t *testing.T) {
	t.Helper()
	if err := p.primary.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := p.standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A store goes on with the server that has become the primary, and hears of
// commits there. One that lacks what was committed is found out, whatever it was
// told before.
func TestFailover(t *testing.T) {
	t.Parallel()
	for name, loses := range map[string]bool{"of a standby that has everything": false, "of a standby that was behind": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			f := fleet{replica(t, p.dsn, "a"), p.dsn}
			changed := listen(t, f.Store)
			f.apply(t, environment("aws"))
			receive(t, changed)
			p.caughtUp(t, 1)
			if loses {
				p.part(t)
			}
			f.apply(t, environment("gcp"))
			receive(t, changed)
			if !loses {
				p.caughtUp(t, 2)
			}
			p.failOver(t)
			receive(t, changed) // it listens to the other
			err := commitTo(t.Context(), f.Store, environment("onprem"))
			if errors.Is(err, storage.ErrUnavailable) { // by a connection of before: one call notices
				err = commitTo(t.Context(), f.Store, environment("onprem"))
			}
			if loses {
				wantAhead(t, "a commit", err, "replica a has seen the fleet at epoch 1 revision 2")
				return
			}
			at, readErr := f.Position(t.Context())
			if err != nil || readErr != nil || at.Revision != 3 {
				t.Errorf("a commit: %v; the fleet is at %v (%v)", err, at, readErr)
			}
		})
	}
}
