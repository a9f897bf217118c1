package postgres_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

var signer = snapshot.NewSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))

// head signs a head that holds the given number of documents.
func head(t testing.TB, environment string, at snapshot.Revision, documents int) snapshot.Head {
	t.Helper()
	h, err := signer.SignHead(snapshot.Statement{Epoch: 1, Environment: environment, Revision: at, Documents: documents})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func begin(t testing.TB, f fleet, holder string) storage.Term {
	t.Helper()
	term, err := f.BeginTerm(t.Context(), holder)
	if err != nil {
		t.Fatal(err)
	}
	return term
}

func showHeads(heads ...storage.EnvironmentHead) string {
	s := ""
	for _, h := range heads {
		signed := "unsigned"
		if h.Signed != nil {
			if head, err := signer.Verifier().VerifyHead(h.Signed); err != nil {
				signed = err.Error()
			} else {
				signed = fmt.Sprintf("%s@%d/%d", head.Environment, head.Revision, head.Documents)
			}
		}
		s += fmt.Sprintf("%s@%d %s\n", h.Environment, h.Revision, signed)
	}
	return s
}

func TestHeads(t *testing.T) {
	t.Parallel()
	f := history(t)
	term := begin(t, f, "a")
	want := func(what, want string) {
		t.Helper()
		if heads, err := f.Heads(t.Context()); err != nil || showHeads(heads...) != want {
			t.Errorf("%s: the heads are\n%s(%v), want\n%s", what, showHeads(heads...), err, want)
		}
	}
	want("at first", "@security@1 unsigned\naws@4 unsigned\ngcp@3 unsigned\n")
	save := func(heads ...snapshot.Head) error { return f.SaveHeads(t.Context(), term, heads) }
	if err := save(head(t, "aws", 1, 1), head(t, "aws", 2, 2), head(t, "gcp", 1, 1)); err != nil {
		t.Fatal(err)
	}
	want("after some", "@security@1 unsigned\naws@4 aws@2/2\ngcp@3 gcp@1/1\n")
	if err := save(head(t, "aws", 2, 2), head(t, "aws", 4, 4)); err != nil {
		t.Errorf("saving a head again: %v", err)
	}
	if err := save(); err != nil {
		t.Errorf("saving none: %v", err)
	}
	want("after more", "@security@1 unsigned\naws@4 aws@4/4\ngcp@3 gcp@1/1\n")

	for what, heads := range map[string][]snapshot.Head{
		"another head":                     {head(t, "gcp", 2, 2), head(t, "aws", 4, 3)},
		"another head in one go":           {head(t, "gcp", 2, 2), head(t, "gcp", 2, 3)},
		"a revision that does not touch":   {head(t, "gcp", 2, 2), head(t, "gcp", 4, 4)},
		"an environment that never was":    {head(t, "gcp", 2, 2), head(t, "lab", 1, 1)},
		"a head that nobody signed":        {head(t, "gcp", 2, 2), {}},
		"a revision that is still to come": {head(t, "gcp", 2, 2), head(t, "aws", 5, 5)},
	} {
		if err := save(heads...); err == nil {
			t.Errorf("%s was saved", what)
		}
	}
	want("after refusals", "@security@1 unsigned\naws@4 aws@4/4\ngcp@3 gcp@1/1\n")

	for _, c := range []struct {
		environment string
		at          snapshot.Revision
		want        string // not found when empty
	}{
		{"aws", 1, "aws@1 aws@1/1\n"},
		{"aws", 3, "aws@2 aws@2/2\n"},
		{"aws", 4, "aws@4 aws@4/4\n"},
		{"aws", 99, "aws@4 aws@4/4\n"},
		{"gcp", 1, "gcp@1 gcp@1/1\n"},
		{"gcp", 2, ""}, // not signed, though one before is
		{"aws", 0, ""},
		{"lab", 1, ""},
	} {
		h, err := f.Head(t.Context(), c.environment, c.at)
		what := fmt.Sprintf("the head of %s at %d", c.environment, c.at)
		if c.want == "" {
			wantErr(t, what, err, storage.ErrNotFound)
		} else if err != nil || showHeads(h) != c.want {
			t.Errorf("%s is %s(%v), want %s", what, showHeads(h), err, c.want)
		}
	}
	kept, err := f.Head(t.Context(), "aws", 4)
	if err != nil || !proto.Equal(kept.Signed, head(t, "aws", 4, 4).Signed()) {
		t.Errorf("the head was not kept byte by byte (%v)", err)
	}
}

func TestOnlyTheNewestTermWrites(t *testing.T) {
	t.Parallel()
	f := history(t)
	first := begin(t, f, "a")
	advance := func(term storage.Term, to snapshot.Revision) error {
		return f.AdvanceCursor(t.Context(), term, "etcd", "aws", to)
	}
	if err := advance(first, 1); err != nil {
		t.Fatal(err)
	}
	second := begin(t, fleet{connect(t, f.dsn), f.dsn}, "b")
	if second <= first {
		t.Fatalf("term %d follows %d", second, first)
	}
	for _, term := range []storage.Term{0, first, second + 1} {
		wantErr(t, fmt.Sprintf("a cursor in term %d", term), advance(term, 2), storage.ErrFenced)
		wantErr(t, fmt.Sprintf("heads in term %d", term), f.SaveHeads(t.Context(), term, []snapshot.Head{head(t, "aws", 1, 1)}), storage.ErrFenced)
	}
	if at, err := f.Cursor(t.Context(), "etcd", "aws"); err != nil || at != 1 {
		t.Errorf("the cursor is at %d (%v)", at, err)
	}
	if heads, err := f.Heads(t.Context()); err != nil || heads[0].Signed != nil {
		t.Errorf("a head was saved: %s (%v)", showHeads(heads...), err)
	}
	if err := advance(second, 2); err != nil {
		t.Errorf("the newest term: %v", err)
	}
}

// A term cannot begin while the one before is writing.
func TestTermWaitsForWrites(t *testing.T) {
	t.Parallel()
	f := history(t)
	term := begin(t, f, "a")
	for name, write := range map[string]func() error{
		"publish_cursor":   func() error { return f.AdvanceCursor(t.Context(), term, "etcd", "aws", 1) },
		"environment_head": func() error { return f.SaveHeads(t.Context(), term, []snapshot.Head{head(t, "aws", 1, 1)}) },
	} {
		hold := session(t, f.dsn) // the write gets half way
		if _, err := hold.Exec(t.Context(), `begin; lock table `+name+` in exclusive mode`); err != nil {
			t.Fatal(err)
		}
		written, began := make(chan error, 1), make(chan storage.Term, 1)
		go func() { written <- write() }()
		awaitLocks(t, f, 1)
		go func() {
			next, err := f.BeginTerm(t.Context(), "b")
			if err != nil {
				t.Error(err)
			}
			began <- next
		}()
		awaitLocks(t, f, 2)
		if _, err := hold.Exec(t.Context(), `rollback`); err != nil {
			t.Fatal(err)
		}
		if err := <-written; err != nil {
			t.Errorf("%s: the term that had not ended: %v", name, err)
		}
		term++
		if next := <-began; next != term {
			t.Errorf("%s: term %d began, want %d", name, next, term)
		}
	}
}

// awaitLocks returns when so many sessions wait for a lock.
func awaitLocks(t *testing.T, f fleet, want int) {
	t.Helper()
	conn := session(t, f.dsn)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for waiting := 0; waiting < want; {
		if err := conn.QueryRow(ctx, `select count(*) from pg_stat_activity
			where datname = current_database() and wait_event_type = 'Lock'`).Scan(&waiting); err != nil {
			t.Fatalf("%d sessions do not wait: %v", want, err)
		}
	}
}

// Two that hold the same term do not get in each other's way.
func TestConcurrentPublishing(t *testing.T) {
	t.Parallel()
	f := open(t)
	const revisions = 20
	for range revisions {
		f.apply(t, environment("aws"))
	}
	term := begin(t, f, "a")
	replicas := []fleet{f, {connect(t, f.dsn), f.dsn}}
	var saved atomic.Int32
	var g errgroup.Group
	for i := range 2 * revisions {
		at := snapshot.Revision(i%revisions + 1)
		same := []snapshot.Head{head(t, "aws", at, 1)}
		g.Go(func() error { return replicas[i%2].AdvanceCursor(t.Context(), term, "etcd", "aws", at) })
		g.Go(func() error { return replicas[i%2].SaveHeads(t.Context(), term, same) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if at, err := f.Cursor(t.Context(), "etcd", "aws"); err != nil || at != revisions {
		t.Errorf("the cursor is at %d (%v)", at, err)
	}
	f.apply(t, environment("aws"))
	for i := range 10 {
		other := []snapshot.Head{head(t, "aws", revisions+1, i)}
		g.Go(func() error {
			if replicas[i%2].SaveHeads(t.Context(), term, other) == nil {
				saved.Add(1)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil || saved.Load() != 1 {
		t.Errorf("%d different heads were saved for one revision", saved.Load())
	}
}

func TestCursor(t *testing.T) {
	t.Parallel()
	f := history(t)
	term := begin(t, f, "a")
	for _, c := range []struct {
		target, environment string
		to, then            snapshot.Revision
		refused             bool
	}{
		{"etcd", "aws", 2, 2, false},
		{"etcd", "aws", 1, 2, false}, // never back
		{"etcd", "aws", 2, 2, false},
		{"etcd", "aws", 3, 2, true}, // does not touch aws
		{"etcd", "aws", 4, 4, false},
		{"other", "aws", 1, 1, false},
		{"etcd", "gcp", 3, 3, false},
		{"etcd", "lab", 1, 0, true},
	} {
		err := f.AdvanceCursor(t.Context(), term, c.target, c.environment, c.to)
		if (err != nil) != c.refused {
			t.Errorf("moving %s of %s to %d: %v", c.target, c.environment, c.to, err)
		}
		if at, err := f.Cursor(t.Context(), c.target, c.environment); err != nil || at != c.then {
			t.Errorf("%s of %s is at %d (%v) after %d, want %d", c.target, c.environment, at, err, c.to, c.then)
		}
	}
	if at, err := f.Cursor(t.Context(), "none", "aws"); err != nil || at != 0 {
		t.Errorf("a cursor that never moved is at %d (%v)", at, err)
	}
}

func TestEnvironmentRevisions(t *testing.T) {
	t.Parallel()
	f := history(t)
	f.apply(t, put("Enrollment/e", "", "e5"))
	f.apply(t, put("Enrollment/e", "", "e6"), put("Policy/shop/b", "all", "b6"))
	for _, c := range []struct {
		environment string
		after       snapshot.Revision
		limit       int
		want        string
	}{
		{"gcp", 0, 10, lines(
			"1:", "Environment/gcp@1[gcp]environment gcp", "Policy/shop/a@1[all]a1",
			"2:", "Policy/shop/a@2[gcp]a2", "Route/shop/a@2[gcp]r2",
			"3:", "Policy/shop/a@3[]deleted",
			"6:", "Policy/shop/b@6[all]b6")},
		{"aws", 1, 2, lines(
			"2:", "Policy/shop/a@2[gcp]a2", // it left
			"4:", "Policy/bank/z@4[]deleted", "Policy/shop/a@4[aws]a4")},
		{"aws", 6, 10, ""},
		{"lab", 0, 10, ""},
	} {
		revisions, err := f.EnvironmentRevisions(t.Context(), c.environment, c.after, c.limit)
		got := ""
		for _, r := range revisions {
			got += fmt.Sprintf("%d:\n%s\n", r.Revision, showAll(r.Versions))
		}
		if c.want != "" {
			c.want += "\n"
		}
		if err != nil || got != c.want {
			t.Errorf("revisions of %s after %d:\n%s(%v), want\n%s", c.environment, c.after, got, err, c.want)
		}
	}
}

func TestEnvironmentState(t *testing.T) {
	t.Parallel()
	f := history(t)
	f.apply(t, put("Enrollment/e", "", "e5"), put("Policy/shop/b", "all", "b5"))
	for _, c := range []struct {
		environment string
		at          snapshot.Revision
		want        []string
	}{
		{"aws", 0, nil},
		{"aws", 1, []string{"Environment/aws@1[aws]environment aws", "Policy/bank/z@1[aws]z1", "Policy/shop/a@1[all]a1"}},
		{"aws", 2, []string{"Environment/aws@1[aws]environment aws", "Policy/bank/z@1[aws]z1"}},
		{"aws", 4, []string{"Environment/aws@1[aws]environment aws", "Policy/shop/a@4[aws]a4"}},
		{"gcp", 3, []string{"Environment/gcp@1[gcp]environment gcp", "Route/shop/a@2[gcp]r2"}},
		{"gcp", 5, []string{"Environment/gcp@1[gcp]environment gcp", "Policy/shop/b@5[all]b5", "Route/shop/a@2[gcp]r2"}},
	} {
		got, err := f.EnvironmentState(t.Context(), c.environment, c.at)
		if err != nil {
			t.Error(err)
		}
		wantAll(t, fmt.Sprintf("%s at %d", c.environment, c.at), got, c.want...)
	}
}
