package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

func TestCommit(t *testing.T) {
	t.Parallel()
	f := open(t)
	for i, c := range []struct {
		changes []storage.Change
		touches string
	}{
		{[]storage.Change{environment("aws"), environment("gcp")}, "aws gcp"},
		{[]storage.Change{put("Policy/shop/a", "all", "a1")}, "aws gcp"},
		{[]storage.Change{put("Policy/shop/b", "aws", "b1")}, "aws"},
		{[]storage.Change{put("Policy/shop/b", "gcp", "b2")}, "aws gcp"}, // it leaves one for the other
		{[]storage.Change{put("Policy/shop/c", "lab", "c1")}, ""},        // which is not there yet
		{[]storage.Change{put("Enrollment/e", "", "e1")}, ""},
		{[]storage.Change{environment("lab")}, "lab"},
		{[]storage.Change{put("Policy/shop/c", "lab gcp", "c2"), remove("Policy/shop/b")}, "gcp lab"},
		{[]storage.Change{remove("Environment/lab")}, "lab"},
		{[]storage.Change{remove("Policy/shop/c")}, "gcp"}, // lab is gone
		{[]storage.Change{remove("Enrollment/e")}, ""},
		{[]storage.Change{put("Policy/shop/b", "aws", "b3")}, "aws"}, // it was deleted
		{[]storage.Change{remove("Policy/shop/a")}, "aws gcp"},
	} {
		got := f.apply(t, c.changes...)
		if got.Revision != snapshot.Revision(i+1) || strings.Join(got.Environments, " ") != c.touches {
			t.Errorf("commit %d made revision %d touching %q, want %q", i+1, got.Revision, got.Environments, c.touches)
		}
	}
	versions, at, err := f.Since(t.Context(), 0)
	if err != nil || at != 13 {
		t.Errorf("Since: at %d, %v", at, err)
	}
	wantAll(t, "the state", versions,
		"Environment/aws@1[aws]environment aws",
		"Environment/gcp@1[gcp]environment gcp",
		"Policy/shop/b@12[aws]b3")
}

func TestCommitRefuses(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.apply(t, environment("aws"), put("Policy/shop/a", "all", "a1"))
	f.apply(t, remove("Policy/shop/a"))
	damaged := put("Policy/shop/b", "all", "b1")
	damaged.Document = []byte("b2")
	ambiguous := put("Policy/shop/b", "all", "b1")
	ambiguous.Scope.Environments = []string{"aws"}
	half := put("Policy/shop/b", "all", "b1")
	half.Delete = true
	at := func(r snapshot.Revision) *snapshot.Revision { return &r }
	refusal := errors.New("not like this")
	for name, c := range map[string]struct {
		commit storage.Commit
		refuse error
		want   error // any when nil
	}{
		"no change":                  {commit: storage.Commit{}},
		"a key twice":                {commit: storage.Commit{Changes: []storage.Change{environment("gcp"), environment("gcp")}}},
		"another document":           {commit: storage.Commit{Changes: []storage.Change{damaged}}},
		"all and some":               {commit: storage.Commit{Changes: []storage.Change{ambiguous}}},
		"deleted and given":          {commit: storage.Commit{Changes: []storage.Change{half}}},
		"never there":                {commit: storage.Commit{Changes: []storage.Change{remove("Policy/shop/z")}}, want: storage.ErrNotFound},
		"not there any more":         {commit: storage.Commit{Changes: []storage.Change{environment("gcp"), remove("Policy/shop/a")}}, want: storage.ErrNotFound},
		"an older revision":          {commit: storage.Commit{Expected: at(1), Changes: []storage.Change{environment("gcp")}}, want: storage.ErrConflict},
		"revision 0":                 {commit: storage.Commit{Expected: at(0), Changes: []storage.Change{environment("gcp")}}, want: storage.ErrConflict},
		"a later revision":           {commit: storage.Commit{Expected: at(3), Changes: []storage.Change{environment("gcp")}}, want: storage.ErrConflict},
		"checked against the future": {commit: storage.Commit{Base: 3, Changes: []storage.Change{environment("gcp")}}, want: storage.ErrConflict},
		"recheck":                    {commit: storage.Commit{Changes: []storage.Change{environment("gcp")}}, refuse: refusal, want: refusal},
		"recheck out of time":        {commit: storage.Commit{Changes: []storage.Change{environment("gcp")}}, refuse: context.DeadlineExceeded, want: context.DeadlineExceeded},
	} {
		_, err := f.Commit(t.Context(), c.commit, func([]storage.Version) error { return c.refuse })
		if err == nil {
			t.Errorf("%s: committed", name)
		} else if c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if c.refuse != nil && err != c.refuse { //nolint:errorlint // as it is
			t.Errorf("%s: %v, want it as recheck returned it", name, err)
		}
	}

	// Nothing was changed, and the revision after is the next.
	versions, to, err := f.Since(t.Context(), 0)
	if err != nil || to != 2 {
		t.Errorf("the fleet is at %d (%v)", to, err)
	}
	wantAll(t, "the state", versions, "Environment/aws@1[aws]environment aws")
	if n, err := f.verifyAudit(t.Context()); err != nil || n != 2 {
		t.Errorf("there are %d audit entries (%v)", n, err)
	}
	if c := f.apply(t, environment("gcp")); c.Revision != 3 {
		t.Errorf("the next revision is %d", c.Revision)
	}
}

func TestRecheckSeesWhatWasCommitted(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.apply(t, environment("aws"), put("Policy/shop/a", "all", "a1"), put("Policy/shop/b", "all", "b1"))
	f.apply(t, put("Policy/shop/a", "all", "a2"))
	f.apply(t, put("Policy/shop/a", "all", "a3"), put("Policy/shop/c", "aws", "c3"))
	f.apply(t, remove("Policy/shop/b"))
	for base, want := range map[snapshot.Revision][]string{
		0: {"Environment/aws@1[aws]environment aws", "Policy/shop/a@3[all]a3", "Policy/shop/c@3[aws]c3"},
		1: {"Policy/shop/a@3[all]a3", "Policy/shop/b@4[]deleted", "Policy/shop/c@3[aws]c3"},
		3: {"Policy/shop/b@4[]deleted"},
		4: nil,
	} {
		stop := errors.New("seen")
		_, err := f.Commit(t.Context(), storage.Commit{Base: base, Changes: []storage.Change{environment("gcp")}}, func(since []storage.Version) error {
			wantAll(t, fmt.Sprintf("since %d", base), since, want...)
			return stop
		})
		wantErr(t, "Commit", err, stop)
	}
}

// Twenty writers on two replicas commit 25 times each.
func TestConcurrentCommits(t *testing.T) {
	t.Parallel()
	const writers, each = 20, 25
	f := open(t)
	f.apply(t, environment("even"), environment("odd"))
	replicas := []fleet{f, {connect(t, f.dsn), f.dsn}}
	var mu sync.Mutex
	made := map[snapshot.Revision]string{}
	var g errgroup.Group
	for w := range writers {
		g.Go(func() error {
			for i := range each {
				name := fmt.Sprintf("Policy/shop/w%d-%d", w, i)
				where := []string{"even", "odd"}[i%2]
				c, err := replicas[w%2].Commit(t.Context(), storage.Commit{Caller: name, Changes: []storage.Change{put(name, where, name)}}, ignore)
				if err != nil {
					return err
				}
				mu.Lock()
				made[c.Revision] = name + " " + where
				mu.Unlock()
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	revisions, err := f.Revisions(t.Context(), 0, 1000)
	if err != nil || len(revisions) != writers*each+1 {
		t.Fatalf("there are %d revisions (%v)", len(revisions), err)
	}
	slices.Reverse(revisions)
	for i, r := range revisions {
		if r.Revision != snapshot.Revision(i+1) {
			t.Fatalf("revision %d follows %d", r.Revision, i)
		}
		if i > 0 && r.CommittedAt.Before(revisions[i-1].CommittedAt) {
			t.Errorf("revision %d was committed at %v, %d at %v", i, revisions[i-1].CommittedAt, i+1, r.CommittedAt)
		}
		if got := r.Caller + " " + strings.Join(r.Environments, " "); i > 0 && got != made[r.Revision] {
			t.Errorf("revision %d is %q, its writer was told %q", r.Revision, got, made[r.Revision])
		}
	}
	for _, name := range []string{"even", "odd"} {
		history, err := f.EnvironmentRevisions(t.Context(), name, 1, 1000)
		if err != nil {
			t.Fatal(err)
		}
		var got, want []snapshot.Revision
		for _, r := range history {
			got = append(got, r.Revision)
		}
		for r := range snapshot.Revision(writers*each + 2) {
			if strings.HasSuffix(made[r], " "+name) {
				want = append(want, r)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s has revisions %v, want %v", name, got, want)
		}
	}
	if n, err := f.verifyAudit(t.Context()); err != nil || n != writers*each+1 {
		t.Errorf("there are %d audit entries (%v)", n, err)
	}
}

// Of writers that expect the same revision one wins.
func TestConcurrentExpectations(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.apply(t, environment("aws"))
	replicas := []fleet{f, {connect(t, f.dsn), f.dsn}}
	expected := snapshot.Revision(1)
	outcomes := make([]error, 10)
	var g sync.WaitGroup
	for i := range outcomes {
		g.Go(func() {
			_, outcomes[i] = replicas[i%2].Commit(t.Context(), storage.Commit{
				Base: 1, Expected: &expected, Changes: []storage.Change{put("Policy/shop/a", "all", fmt.Sprint(i))},
			}, ignore)
		})
	}
	g.Wait()
	won := 0
	for _, err := range outcomes {
		if err == nil {
			won++
		} else {
			wantErr(t, "a loser", err, storage.ErrConflict)
		}
	}
	if p, err := f.Position(t.Context()); won != 1 || err != nil || p.Revision != 2 {
		t.Errorf("%d writers won, and the fleet is at %d (%v)", won, p.Revision, err)
	}
}

func TestLargeCommit(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.apply(t, environment("aws"))
	const n = 20_000
	for round := range 2 {
		changes := make([]storage.Change, n)
		for i := range changes {
			changes[i] = put(fmt.Sprintf("Policy/shop/p%05d", i), "aws", fmt.Sprint("round ", round, " policy ", i))
		}
		f.apply(t, changes...)
	}
	versions, err := f.EnvironmentState(t.Context(), "aws", 3)
	if err != nil || len(versions) != n+1 || string(versions[n].Document) != "round 1 policy 19999" {
		t.Fatalf("the environment has %d documents (%v)", len(versions), err)
	}
	history, err := f.EnvironmentRevisions(t.Context(), "aws", 0, 100)
	if err != nil || len(history) != 2 || len(history[1].Versions) != n {
		t.Errorf("%d revisions were read at once (%v), want the small one and the first large one", len(history), err)
	}
	if history, err = f.EnvironmentRevisions(t.Context(), "aws", 2, 100); err != nil || len(history) != 1 || len(history[0].Versions) != n {
		t.Errorf("%d revisions were read after 2 (%v)", len(history), err)
	}
}

// atCommit has Postgres run a statement while it works on COMMIT.
func atCommit(t *testing.T, f fleet, statement string) {
	t.Helper()
	alter(t, f.dsn, `create function at_commit() returns trigger language plpgsql as $$ begin `+statement+`; return null; end $$`)
	alter(t, f.dsn, `create constraint trigger at_commit after insert on revision
		deferrable initially deferred for each row execute function at_commit()`)
}

func TestCommitIsRefusedAtTheEnd(t *testing.T) {
	t.Parallel()
	f := open(t)
	atCommit(t, f, `raise exception 'no'`)
	_, err := f.Commit(t.Context(), storage.Commit{Changes: []storage.Change{environment("aws")}}, ignore)
	if err == nil || errors.Is(err, storage.ErrUnknownOutcome) || errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("Commit: %v, want a plain error: Postgres said that nothing was committed", err)
	}
	if p, err := f.Position(t.Context()); err != nil || p.Revision != 0 {
		t.Errorf("the fleet is at %d (%v)", p.Revision, err)
	}
}

// The caller hangs up while COMMIT runs, and still there is one truth.
func TestCallerLeavesDuringCommit(t *testing.T) {
	t.Parallel()
	f := open(t)
	alter(t, f.dsn, `create table gate ()`)
	atCommit(t, f, `lock table gate in share mode`)
	gate := session(t, f.dsn)
	if _, err := gate.Exec(t.Context(), `begin; lock table gate in exclusive mode`); err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := f.Commit(ctx, storage.Commit{Changes: []storage.Change{environment("aws")}}, ignore)
		done <- err
	}()
	awaitCommit(t, f, done)
	leave()
	if _, err := gate.Exec(t.Context(), `rollback`); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("Commit: %v", err)
	}
	if p, err := f.Position(t.Context()); err != nil || p.Revision != 1 {
		t.Errorf("the fleet is at %d (%v)", p.Revision, err)
	}
}

// awaitCommit returns the process in which Postgres works on a COMMIT of the
// store, which is not to be done before.
func awaitCommit(t *testing.T, f fleet, done <-chan error) (pid int) {
	t.Helper()
	conn := session(t, f.dsn)
	for pid == 0 {
		select {
		case err := <-done:
			t.Fatalf("the commit is over already: %v", err)
		default:
		}
		if err := conn.QueryRow(t.Context(), `select coalesce(max(pid), 0) from pg_stat_activity
			where datname = current_database() and query = 'commit' and state = 'active'`).Scan(&pid); err != nil {
			t.Fatal(err)
		}
	}
	return pid
}

func TestServerEndsDuringCommit(t *testing.T) {
	t.Parallel()
	f := open(t)
	atCommit(t, f, `perform pg_sleep(60)`)
	done := make(chan error, 1)
	go func() {
		_, err := f.Commit(t.Context(), storage.Commit{Changes: []storage.Change{environment("aws")}}, ignore)
		done <- err
	}()
	alter(t, f.dsn, `select pg_terminate_backend($1)`, awaitCommit(t, f, done))
	wantErr(t, "Commit", <-done, storage.ErrUnavailable, storage.ErrUnknownOutcome)
	if p, err := f.Position(t.Context()); err != nil || p.Revision != 0 {
		t.Errorf("the fleet is at %d (%v)", p.Revision, err)
	}
}

// The outcome is unknown, and it was committed.
func TestAnswerToCommitIsLost(t *testing.T) {
	t.Parallel()
	dsn := open(t).dsn
	w := newWire(t, dsn)
	f := fleet{connect(t, w.dsn()), w.dsn()}
	w.losesOutcome.Store(true)
	_, err := f.Commit(t.Context(), storage.Commit{Changes: []storage.Change{environment("aws")}}, ignore)
	wantErr(t, "Commit", err, storage.ErrUnavailable, storage.ErrUnknownOutcome)
	w.losesOutcome.Store(false)
	versions, to, err := f.Since(t.Context(), 0)
	if err != nil || to != 1 {
		t.Errorf("the fleet is at %d (%v)", to, err)
	}
	wantAll(t, "the state", versions, "Environment/aws@1[aws]environment aws")
}

// A replica that freezes while it holds the lock does not stop the fleet.
func TestFrozenReplica(t *testing.T) {
	t.Parallel()
	f := open(t)
	frozen := connect(t, f.dsn)
	locked, thaw, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := frozen.Commit(t.Context(), storage.Commit{Changes: []storage.Change{environment("frozen")}}, func([]storage.Version) error {
			close(locked)
			<-thaw
			return nil
		})
		done <- err
	}()
	<-locked
	start := time.Now()
	if c := f.apply(t, environment("aws")); c.Revision != 1 {
		t.Errorf("the revision is %d", c.Revision)
	}
	t.Logf("the lock was taken from the frozen replica after %v", time.Since(start).Round(time.Millisecond))
	close(thaw)
	wantErr(t, "the frozen replica", <-done, storage.ErrUnavailable)
}

// A commit that waits for its turn ends with its context.
func TestCommitWaitsNoLongerThanItsCaller(t *testing.T) {
	t.Parallel()
	f := open(t)
	for name, other := range map[string]fleet{"on this replica": f, "on another": {connect(t, f.dsn), f.dsn}} {
		ctx, leave := context.WithCancel(t.Context())
		_, err := other.Commit(t.Context(), storage.Commit{Changes: []storage.Change{environment("aws")}}, func([]storage.Version) error {
			waiting := make(chan error, 1)
			go func() {
				_, err := f.Commit(ctx, storage.Commit{Changes: []storage.Change{environment("gcp")}}, ignore)
				waiting <- err
			}()
			leave()
			wantErr(t, name, <-waiting, context.Canceled)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}
