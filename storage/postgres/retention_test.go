package postgres_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

// label says something of a revision.
func (f fleet) label(t testing.TB, at snapshot.Revision, labels map[string]string) {
	t.Helper()
	if _, err := f.Annotate(t.Context(), at, storage.AuditEntry{Caller: "ann"}, func(storage.Annotation) (storage.Annotation, error) {
		return storage.Annotation{Labels: labels}, nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestAnnotate(t *testing.T) {
	t.Parallel()
	f := history(t)
	f.label(t, 2, map[string]string{"release": "v4", "good": ""})
	f.label(t, 3, map[string]string{"release": "v4"})
	var before storage.Annotation
	info, err := f.Annotate(t.Context(), 2, storage.AuditEntry{Caller: "eve", Action: "annotate", Detail: "more"}, func(a storage.Annotation) (storage.Annotation, error) {
		before.Labels = map[string]string{"release": a.Labels["release"]}
		a.Note = "slow\x00"
		a.Labels["release"] = "v5"
		return a, nil
	})
	if err != nil || info.Revision != 2 || info.Note != "slow\uFFFD" || fmt.Sprint(info.Labels) != "map[good: release:v5]" || before.Labels["release"] != "v4" || info.Message != "why" {
		t.Errorf("annotated %+v, %v", info, err)
	}
	refused := errors.New("no")
	if _, err := f.Annotate(t.Context(), 2, storage.AuditEntry{}, func(storage.Annotation) (storage.Annotation, error) { return storage.Annotation{}, refused }); !errors.Is(err, refused) {
		t.Errorf("refused: %v", err)
	}
	if info, err := f.Annotate(t.Context(), 4, storage.AuditEntry{}, func(a storage.Annotation) (storage.Annotation, error) { return a, nil }); err != nil || info.Labels != nil {
		t.Errorf("nothing to say: %+v, %v", info, err)
	}
	for _, at := range []snapshot.Revision{0, 5} {
		_, err := f.Annotate(t.Context(), at, storage.AuditEntry{}, func(a storage.Annotation) (storage.Annotation, error) { return a, nil })
		wantErr(t, fmt.Sprint("revision ", at), err, storage.ErrNotFound)
	}
	for labels, want := range map[string]string{"release=v4": "3", "good=": "2", "release=v5 good=": "2", "release=v6": "", "": "4 3 2 1"} {
		asked := map[string]string{}
		for l := range strings.FieldsSeq(labels) {
			k, v, _ := strings.Cut(l, "=")
			asked[k] = v
		}
		found, err := f.Labelled(t.Context(), asked, 0, 10)
		var got []string
		for _, r := range found {
			got = append(got, fmt.Sprint(r.Revision))
		}
		if labels == "" { // no revision is left out for saying nothing
			got, want = got[:0], ""
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q: %s, %v", labels, got, err)
		}
	}
	// Four commits, and three things that were said.
	if n, err := f.verifyAudit(t.Context()); err != nil || n != 7 {
		t.Errorf("verifyAudit: %d, %v", n, err)
	}
}

// past makes a fleet of ten revisions, an hour between them, all of which are signed
// and published but the last one that touches the environment late.
func past(t testing.TB) (fleet, storage.Term, time.Time) {
	t.Helper()
	f := open(t)
	f.apply(t, environment("aws"), environment("gcp"), put("Policy/shop/a", "aws", "a1"), put("Policy/shop/b", "gcp", "b1"), put("Enrollment/x", "", "x1"))
	for i := 2; i <= 10; i++ {
		where := []string{"gcp", "aws"}[i%2] // odd ones touch aws
		f.apply(t, put("Policy/shop/"+where, where, fmt.Sprint(where, i)), put("Enrollment/x", "", fmt.Sprint("x", i)))
	}
	now := time.Date(2026, time.November, 26, 12, 0, 0, 0, time.UTC)
	alter(t, f.dsn, `update revision set committed_at = $1::timestamptz - interval '1 hour' * (10 - revision)`, now)
	term, err := f.BeginTerm(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	f.publish(t, term, "aws", 9)
	f.publish(t, term, "gcp", 10)
	return f, term, now
}

// publish signs a revision of an environment and says that it is published.
func (f fleet) publish(t testing.TB, term storage.Term, environment string, at snapshot.Revision) {
	t.Helper()
	if err := errors.Join(f.SaveHeads(t.Context(), term, []snapshot.Head{head(t, environment, at, 1)}),
		f.AdvanceCursor(t.Context(), term, "etcd", environment, at)); err != nil {
		t.Fatal(err)
	}
}

// trim trims and collects all that may go, a few at a time.
func (f fleet) trim(t testing.TB, term storage.Term, before time.Time, keep ...storage.EnvironmentPoint) (begins snapshot.Revision, collected int) {
	t.Helper()
	begins, err := f.TrimHistory(t.Context(), term, before, keep)
	if err != nil {
		t.Fatal(err)
	}
	for {
		n, err := f.CollectVersions(t.Context(), term, 3)
		if err != nil || n > 3 {
			t.Fatal(n, err)
		}
		if collected += n; n < 3 {
			return begins, collected
		}
	}
}

// readable lists the revisions whose states can be read, and checks that what can be
// is as it was.
func (f fleet) readable(t testing.TB, want map[snapshot.Revision]string, read func(at snapshot.Revision) ([]storage.Version, error)) string {
	t.Helper()
	var all []string
	for at := range snapshot.Revision(10) {
		at++
		versions, err := read(at)
		var gone *storage.ForgottenError
		switch {
		case errors.As(err, &gone):
			if begins, err := f.Begins(t.Context()); err != nil || gone.Begins != begins || gone.Revision != at || at >= begins {
				t.Errorf("revision %d: %v, history begins at %d (%v)", at, gone, begins, err)
			}
		case err != nil:
			t.Error(err)
		case showAll(versions) != want[at]:
			t.Errorf("revision %d holds\n%s\nheld\n%s", at, showAll(versions), want[at])
		default:
			all = append(all, fmt.Sprint(at))
		}
	}
	return strings.Join(all, " ")
}

func (f fleet) states(t testing.TB, read func(at snapshot.Revision) ([]storage.Version, error)) map[snapshot.Revision]string {
	t.Helper()
	states := map[snapshot.Revision]string{}
	for at := snapshot.Revision(1); at <= 10; at++ {
		versions, err := read(at)
		if err != nil {
			t.Fatal(err)
		}
		states[at] = showAll(versions)
	}
	return states
}

// Whatever is collected, the states of what has to be readable are whole, and those of
// the others are told apart.
func TestRetention(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		hours  int // that are kept
		labels []snapshot.Revision
		keep   []storage.EnvironmentPoint
		behind bool // a target is

		fleet, aws string // what can be read
	}{
		"all":               {hours: 24, fleet: "1 2 3 4 5 6 7 8 9 10", aws: "1 2 3 4 5 6 7 8 9 10"},
		"some hours":        {hours: 3, fleet: "6 7 8 9 10", aws: "6 7 8 9 10"},
		"nothing":           {hours: 0, fleet: "9 10", aws: "9 10"},
		"not even the last": {hours: -1, fleet: "10", aws: "9 10"}, // aws' last revision is 9
		"what has a label":  {hours: 0, labels: []snapshot.Revision{2, 5}, fleet: "2 5 9 10", aws: "2 5 9 10"},
		"what a proxy has":  {hours: 0, keep: []storage.EnvironmentPoint{{Environment: "aws", Revision: 3}, {Environment: "gcp", Revision: 6}}, fleet: "9 10", aws: "3 4 9 10"},
		"what it has, named otherwise": {hours: 0, keep: []storage.EnvironmentPoint{{Environment: "aws", Revision: 4}, {Environment: "eu", Revision: 4}, {Environment: "aws"}},
			fleet: "9 10", aws: "3 4 9 10"},
		"what a target lacks": {hours: 0, behind: true, fleet: "5 6 7 8 9 10", aws: "5 6 7 8 9 10"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, term, now := past(t)
			fleetAt := func(at snapshot.Revision) ([]storage.Version, error) {
				versions, _, err := f.List(t.Context(), storage.Filter{At: at, Limit: 100})
				return versions, err
			}
			awsAt := func(at snapshot.Revision) ([]storage.Version, error) {
				return f.EnvironmentState(t.Context(), "aws", at)
			}
			states, aws := f.states(t, fleetAt), f.states(t, awsAt)
			for _, at := range c.labels {
				f.label(t, at, map[string]string{"keep": "yes"})
			}
			if c.behind {
				if err := f.AdvanceCursor(t.Context(), term, "far", "aws", 5); err != nil {
					t.Fatal(err)
				}
			}
			before := now.Add(-time.Duration(c.hours) * time.Hour)
			f.trim(t, term, before, c.keep...)
			if got := f.readable(t, states, fleetAt); got != c.fleet {
				t.Errorf("the fleet can be read at %s, want %s", got, c.fleet)
			}
			if got := f.readable(t, aws, awsAt); got != c.aws {
				t.Errorf("aws can be read at %s, want %s", got, c.aws)
			}
			if _, n := f.trim(t, term, before, c.keep...); n != 0 {
				t.Errorf("%d more were collected", n)
			}
			for _, e := range []string{"aws", "gcp"} {
				at := map[string]snapshot.Revision{"aws": 9, "gcp": 10}[e]
				if h, err := f.Head(t.Context(), e, at); err != nil || h.Revision != at {
					t.Errorf("head of %s: %v, %v", e, h, err)
				}
			}
		})
	}
}

// What is not kept any more is told, also of differences and single resources, and
// does not come back.
func TestForgottenStates(t *testing.T) {
	t.Parallel()
	f, term, now := past(t)
	f.label(t, 4, map[string]string{"keep": "yes"})
	begins, n := f.trim(t, term, now)
	if begins != 9 || n != 11 { // seven of the Enrollment, and two of each policy
		t.Errorf("history begins at %d, %d were collected", begins, n)
	}
	for from, forgotten := range map[snapshot.Revision]bool{0: false, 3: true, 4: false, 8: true, 9: false} {
		for _, s := range []storage.Span{{From: from, To: 10}, {From: 10, To: from}} {
			s.Page.Limit = 10
			_, err := f.Differences(t.Context(), s)
			var gone *storage.ForgottenError
			if errors.As(err, &gone) != forgotten || !forgotten && err != nil {
				t.Errorf("from %d to %d: %v", s.From, s.To, err)
			}
		}
	}
	if d, err := f.Differences(t.Context(), storage.Span{From: 4, To: 9, Kind: resource.KindEnrollment, Page: storage.Page{Limit: 9}}); both(d) != "Enrollment/x: @4[]x4 -> @9[]x9" {
		t.Errorf("%s, %v", both(d), err)
	}
	var gone *storage.ForgottenError
	if _, err := f.Resource(t.Context(), key("Enrollment/x"), 3); !errors.As(err, &gone) {
		t.Error(err)
	}
	if v, err := f.Resource(t.Context(), key("Enrollment/x"), 4); err != nil || show(v) != "Enrollment/x@4[]x4" {
		t.Error(show(v), err)
	}
	h, err := f.History(t.Context(), key("Enrollment/x"), 0, storage.Page{Limit: 10})
	if err != nil || len(h) != 3 || h[0].SupersededBy != 0 || h[1].SupersededBy != 10 || h[2].SupersededBy != 5 {
		t.Errorf("%v, %v", h, err)
	}
	all, err := f.Revisions(t.Context(), 0, 100)
	if err != nil || len(all) != 10 || all[0].Forgotten || all[6].Forgotten || !all[2].Forgotten || !all[9].Forgotten {
		t.Errorf("%+v, %v", all, err)
	}
	// A label does not bring back what has gone, and keeps no more than it is there.
	f.label(t, 3, map[string]string{"keep": "yes"})
	f.label(t, 4, nil)
	if _, n := f.trim(t, term, now); n != 3 {
		t.Errorf("%d were collected without the label", n)
	}
	for _, at := range []snapshot.Revision{3, 4} {
		if _, err := f.Resource(t.Context(), key("Enrollment/x"), at); !errors.As(err, &gone) {
			t.Errorf("revision %d: %v", at, err)
		}
	}
	// History goes on.
	f.apply(t, put("Policy/shop/aws", "aws", "new"))
	if begins, _ := f.trim(t, term, now.Add(-20*time.Hour)); begins != 9 {
		t.Errorf("history begins at %d", begins)
	}
}

// Nobody forgets anything who is not the publisher.
func TestRetentionIsFenced(t *testing.T) {
	t.Parallel()
	f, term, now := past(t)
	if _, err := f.BeginTerm(t.Context(), "two"); err != nil {
		t.Fatal(err)
	}
	_, err := f.TrimHistory(t.Context(), term, now, nil)
	wantErr(t, "trim", err, storage.ErrFenced)
	_, err = f.TrimSecurity(t.Context(), term, now, 0)
	wantErr(t, "trim the security lane", err, storage.ErrFenced)
	_, err = f.CollectVersions(t.Context(), term, 100)
	wantErr(t, "collect", err, storage.ErrFenced)
	if begins, err := f.Begins(t.Context()); err != nil || begins != 1 {
		t.Errorf("history begins at %d, %v", begins, err)
	}
}

// The states of the security lane that have to be readable are whole, and those of
// before are told apart: what is superseded goes, however often a token was revoked.
func TestSecurityRetention(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		hours  int // that are kept
		keep   snapshot.Revision
		begins snapshot.Revision
	}{
		"all":                   {hours: 24, begins: 1},
		"some hours":            {hours: 3, begins: 4},
		"what is published":     {hours: -1, begins: 7},
		"what a proxy has":      {hours: -1, keep: 3, begins: 3},
		"what a proxy is at":    {hours: 3, keep: 7, begins: 4},
		"not what is published": {hours: -1, keep: 8, begins: 7},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := open(t)
			f.cut(t, revocation("token", "t2"), revocation("key", "k2"))
			for i := 3; i <= 8; i++ {
				f.cut(t, revocation("token", fmt.Sprint("t", i)))
			}
			now := time.Date(2026, time.November, 26, 12, 0, 0, 0, time.UTC)
			alter(t, f.dsn, `update security_revision set committed_at = $1::timestamptz - interval '1 hour' * (8 - revision)`, now)
			term, err := f.BeginTerm(t.Context(), "one")
			if err != nil {
				t.Fatal(err)
			}
			f.publish(t, term, snapshot.SecurityLane, 7)
			before := map[snapshot.Revision]string{}
			for at := snapshot.Revision(1); at <= 8; at++ {
				before[at] = f.laneAt(t, at)
			}
			for range 2 {
				begins, err := f.TrimSecurity(t.Context(), term, now.Add(-time.Duration(c.hours)*time.Hour), c.keep)
				if err != nil || begins != c.begins {
					t.Errorf("the lane begins at %d, %v, want %d", begins, err, c.begins)
				}
			}
			n, err := f.CollectVersions(t.Context(), term, 100)
			if want := max(0, int(c.begins)-2); err != nil || n != want {
				t.Errorf("%d versions were collected, %v, want %d", n, err, want)
			}
			for at, was := range before {
				want := was
				if at < c.begins {
					want = fmt.Sprintf("forgotten before %d", c.begins)
				}
				if got := f.laneAt(t, at); got != want {
					t.Errorf("at %d: %s, want %s", at, got, want)
				}
			}
			if begins, err := f.TrimSecurity(t.Context(), term, now.Add(-24*time.Hour), 1); err != nil || begins != c.begins {
				t.Errorf("it has moved back to %d, %v", begins, err)
			}
		})
	}
}

// laneAt shows the state of the security lane at a sequence, in both ways to read it.
func (f fleet) laneAt(t testing.TB, at snapshot.Revision) string {
	t.Helper()
	state, err := f.EnvironmentState(t.Context(), snapshot.SecurityLane, at)
	listed, _, listErr := f.Security().List(t.Context(), storage.Filter{At: at, Limit: 100})
	var gone, goneToo *storage.ForgottenError
	if errors.As(err, &gone) && errors.As(listErr, &goneToo) {
		return fmt.Sprintf("forgotten before %d", gone.Begins)
	}
	if err != nil || listErr != nil || showAll(state) != showAll(listed) {
		t.Fatalf("at %d: %s (%v), %s (%v)", at, showAll(state), err, showAll(listed), listErr)
	}
	return showAll(state)
}
