package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/postgres"
)

// replica returns the store of a replica that has a name.
func replica(t testing.TB, dsn, name string) *postgres.Store {
	t.Helper()
	s, err := postgres.New(postgres.Config{DSN: dsn, Replica: name, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// setBack makes a database what it was at a revision of the fleet, as a backup
// of then would be.
func setBack(t testing.TB, dsn string, to snapshot.Revision) {
	t.Helper()
	alter(t, dsn, fmt.Sprintf(`do $$ begin
		delete from environment_head where revision > %[1]d and environment <> '@security';
		delete from environment_revision where revision > %[1]d and environment <> '@security';
		delete from resource_version where revision > %[1]d;
		update resource_version set superseded_by = null where superseded_by > %[1]d;
		delete from revision where revision > %[1]d;
		update fleet set revision = %[1]d;
	end $$`, to))
}

// setSecurityBack does the same to the security lane.
func setSecurityBack(t testing.TB, dsn string, to snapshot.Revision) {
	t.Helper()
	alter(t, dsn, fmt.Sprintf(`do $$ begin
		delete from environment_head where revision > %[1]d and environment = '@security';
		delete from environment_revision where revision > %[1]d and environment = '@security';
		delete from security_version where revision > %[1]d;
		delete from security_revision where revision > %[1]d;
		update security_lane set revision = %[1]d;
	end $$`, to))
}

func commitTo(ctx context.Context, lane storage.Resources, changes ...storage.Change) error {
	_, err := lane.Commit(ctx, storage.Commit{Caller: "ann", Action: "apply", Changes: changes}, ignore)
	return err
}

// wantAhead checks that somebody is told to have seen more.
func wantAhead(t *testing.T, what string, err error, want string) {
	t.Helper()
	var ahead *storage.AheadError
	if !errors.As(err, &ahead) || !errors.Is(err, storage.ErrAhead) {
		t.Errorf("%s: %v, want that %s", what, err, want)
		return
	}
	if got := ahead.Sighting.String(); got != want {
		t.Errorf("%s: %s, want: %s", what, got, want)
	}
}

// What a replica has read from the database, the database has to hold from then
// on: else nothing is changed any more, by any replica and in either lane, and
// nothing is said to be published. Readers go on.
func TestDatabaseIsSetBack(t *testing.T) {
	t.Parallel()
	revoke := put("Revocation/one", "all", "one")
	begun := func(t *testing.T) (fleet, *postgres.Store) {
		f := open(t)
		a := replica(t, f.dsn, "a")
		for _, c := range [][]storage.Change{{environment("aws")}, {put("Policy/shop/p", "aws", "1")}, {put("Policy/shop/p", "aws", "2")}} {
			if err := commitTo(t.Context(), a, c...); err != nil {
				t.Fatal(err)
			}
		}
		if err := commitTo(t.Context(), a.Security(), revoke); err != nil {
			t.Fatal(err)
		}
		return f, a
	}
	const fleetAhead, laneAhead = "replica a has seen the fleet at epoch 1 revision 3", "replica a has seen the security lane at epoch 1 revision 2"
	for name, c := range map[string]struct {
		back func(t *testing.T, f fleet)
		// notice is what replica a does next, and want what it finds.
		notice func(ctx context.Context, a *postgres.Store) error
		want   string
	}{
		"by a revision": {
			func(t *testing.T, f fleet) { setBack(t, f.dsn, 2) },
			func(ctx context.Context, a *postgres.Store) error { return commitTo(ctx, a, environment("gcp")) },
			fleetAhead,
		},
		"by a revision, whose number another has used": {
			func(t *testing.T, f fleet) { setBack(t, f.dsn, 2); f.apply(t, put("Policy/shop/p", "aws", "another")) },
			func(ctx context.Context, a *postgres.Store) error { return commitTo(ctx, a, environment("gcp")) },
			fleetAhead,
		},
		"by a revision, and went on": {
			func(t *testing.T, f fleet) {
				setBack(t, f.dsn, 2)
				f.apply(t, environment("gcp"))
				f.apply(t, environment("onprem"))
			},
			func(ctx context.Context, a *postgres.Store) error { _, err := a.Position(ctx); return err },
			fleetAhead,
		},
		"by a sequence": {
			func(t *testing.T, f fleet) { setSecurityBack(t, f.dsn, 1) },
			func(ctx context.Context, a *postgres.Store) error {
				_, _, err := a.Security().Since(ctx, 0)
				return err
			},
			laneAhead,
		},
		"to an earlier epoch": {
			func(t *testing.T, f fleet) { alter(t, f.dsn, `update fleet set epoch = 1, revision = 3`) },
			func(ctx context.Context, a *postgres.Store) error { _, err := a.Position(ctx); return err },
			"replica a has seen the fleet at epoch 2 revision 3",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, a := begun(t)
			if name == "to an earlier epoch" {
				alter(t, f.dsn, `update fleet set epoch = 2`)
				if _, err := a.Position(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			c.back(t, f)
			if err := c.notice(t.Context(), a); err != nil {
				wantAhead(t, "a", err, c.want)
			}
			b := replica(t, f.dsn, "b")
			wantAhead(t, "a revision", commitTo(t.Context(), b, environment("gcp")), c.want)
			wantAhead(t, "a sequence", commitTo(t.Context(), b.Security(), put("Revocation/two", "all", "two")), c.want)
			term := begin(t, fleet{b, f.dsn}, "b")
			wantAhead(t, "SaveHeads", b.SaveHeads(t.Context(), term, []snapshot.Head{head(t, "aws", 2, 1)}), c.want)
			wantAhead(t, "AdvanceCursor", b.AdvanceCursor(t.Context(), term, "etcd", "aws", 1), c.want)
			wantAhead(t, "Settled", b.Settled(t.Context()), c.want)
			if _, _, err := b.Since(t.Context(), 0); err != nil {
				t.Errorf("a reader: %v", err)
			}
			alter(t, f.dsn, `update fleet set epoch = 3`)
			for _, s := range []*postgres.Store{a, b} {
				if err := commitTo(t.Context(), s, environment("gcp")); err != nil {
					t.Errorf("in another epoch: %v", err)
				}
			}
		})
	}
}

// However many replicas commit and read at once, none takes another for a
// database that was set back.
func TestReplicasDoNotDoubtEachOther(t *testing.T) {
	t.Parallel()
	f := open(t)
	var g errgroup.Group
	for i := range 4 {
		s := replica(t, f.dsn, fmt.Sprint(i))
		g.Go(func() error {
			for n := range 10 {
				if err := commitTo(t.Context(), s, put(fmt.Sprintf("Policy/shop/p-%d", i), "aws", fmt.Sprint(n))); err != nil {
					return err
				}
			}
			return nil
		})
		g.Go(func() error {
			for range 40 {
				if _, err := s.Position(t.Context()); err != nil {
					return err
				}
				if _, _, err := s.Since(t.Context(), 1); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if seen, err := f.Sightings(t.Context()); err != nil || len(seen) > 0 {
		t.Errorf("sightings: %v, %v", seen, err)
	}
}

// A head that somebody has is part of what the database holds, or it is
// recorded that it is not.
func TestWitness(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.apply(t, environment("aws"))
	f.apply(t, environment("gcp"))
	f.apply(t, put("Policy/shop/p", "aws", "1"))
	alter(t, f.dsn, `update fleet set epoch = 2`)
	sign := func(environment string, epoch snapshot.Epoch, at snapshot.Revision, documents int) snapshot.Head {
		h, err := signer.SignHead(snapshot.Statement{Epoch: epoch, Environment: environment, Revision: at, Documents: documents})
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	signed := sign("aws", 2, 1, 1)
	if err := f.SaveHeads(t.Context(), begin(t, f, "a"), []snapshot.Head{signed}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what string
		head snapshot.Head
		want error
	}{
		{"the one that is recorded", signed, nil},
		{"one of an earlier epoch", sign("aws", 1, 9, 1), nil},
		{"one of a revision that has no head yet", sign("aws", 2, 3, 1), storage.ErrNotFound},
	} {
		if err := f.Witness(t.Context(), "etcd", c.head); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
	}
	if err := f.Settled(t.Context()); err != nil {
		t.Errorf("nobody has seen more: %v", err)
	}
	newest := sign("aws", 2, 4, 1)
	for _, c := range []struct {
		what string
		head snapshot.Head
		want string
	}{
		{"another one at a revision", sign("aws", 2, 1, 2), "environment aws at epoch 2 revision 1"},
		{"one of a revision that is of another environment", sign("aws", 2, 2, 1), "environment aws at epoch 2 revision 2"},
		{"a later one", newest, "environment aws at epoch 2 revision 4"},
		{"one of an environment that is not known", sign("onprem", 2, 1, 1), "environment onprem at epoch 2 revision 1"},
		{"one of the security lane", sign(snapshot.SecurityLane, 2, 2, 0), "the security lane at epoch 2 revision 2"},
	} {
		for _, witness := range []string{"etcd", "proxy spiffe://prod.example/p#1"} { // who comes second adds nothing
			wantAhead(t, c.what, f.Witness(t.Context(), witness, c.head),
				fmt.Sprintf("%s has seen %s, head %s", witness, c.want, c.head.Digest().Short()))
		}
	}
	seen, err := f.Sightings(t.Context())
	if err != nil || len(seen) != 5 || seen[0].Witness != "etcd" || seen[0].Head != newest.Digest() {
		t.Errorf("sightings: %v, %v", seen, err)
	}
	for epoch, want := range map[snapshot.Epoch]snapshot.Digest{2: {}, 3: newest.Digest()} {
		if _, got, err := f.Predecessor(t.Context(), "aws", epoch); err != nil || got != want {
			t.Errorf("before epoch %d there was %s (%v), want %s", epoch, got.Short(), err, want.Short())
		}
	}
}
