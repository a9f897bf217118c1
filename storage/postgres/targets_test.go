package postgres_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

// Each target has cursors of its own, and lags by itself.
func TestLags(t *testing.T) {
	t.Parallel()
	f, term, now := past(t)
	lags := func() []storage.Lag {
		t.Helper()
		all, err := f.Lags(t.Context(), []string{"other", "etcd"})
		if err != nil || len(all) != 2 || all[0].Target != "other" || all[1].Target != "etcd" {
			t.Fatalf("lags: %+v, %v", all, err)
		}
		return all
	}
	// Both begin with the first revision, the odd ones after it touch aws, and the
	// security lane is at its first sequence.
	all := lags()
	if all[0].Revisions != 12 || !all[0].Since.Equal(now.Add(-9*time.Hour)) {
		t.Errorf("a target that has nothing lacks %d since %s", all[0].Revisions, all[0].Since)
	}
	if all[1].Revisions != 1 || !all[1].Since.IsZero() && all[1].Since.Before(now) {
		t.Errorf("etcd lacks %d since %s, want the security lane alone", all[1].Revisions, all[1].Since)
	}
	for environment, at := range map[string]snapshot.Revision{"aws": 7, "gcp": 10, snapshot.SecurityLane: 1} {
		if err := f.AdvanceCursor(t.Context(), term, "other", environment, at); err != nil {
			t.Fatal(err)
		}
	}
	if l := lags()[0]; l.Revisions != 1 || !l.Since.Equal(now.Add(-time.Hour)) {
		t.Errorf("without revision 9 it lacks %d since %s", l.Revisions, l.Since)
	}
	if err := f.AdvanceCursor(t.Context(), term, "other", "aws", 9); err != nil {
		t.Fatal(err)
	}
	if l := lags()[0]; l.Revisions != 0 || !l.Since.IsZero() {
		t.Errorf("with everything it lacks %d since %s", l.Revisions, l.Since)
	}
	if none, err := f.Lags(t.Context(), nil); err != nil || len(none) != 0 {
		t.Errorf("of no target: %v, %v", none, err)
	}
}

// What a target lacks is kept for it, until nobody publishes to it any more.
func TestCursorsOfTargetsThatAreGone(t *testing.T) {
	t.Parallel()
	f, term, now := past(t)
	if err := f.AdvanceCursor(t.Context(), term, "gone", "aws", 3); err != nil {
		t.Fatal(err)
	}
	if begins, _ := f.trim(t, term, now.Add(time.Hour)); begins != 3 {
		t.Errorf("history begins at %d, want where the target is", begins)
	}
	next, err := f.BeginTerm(t.Context(), "two")
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.KeepCursors(t.Context(), term, nil)
	wantErr(t, "a term that is over", err, storage.ErrFenced)
	for _, want := range [][]string{{"gone"}, nil} {
		forgotten, err := f.KeepCursors(t.Context(), next, []string{"etcd", "new"})
		if err != nil || !slices.Equal(forgotten, want) {
			t.Errorf("forgotten: %q, %v, want %q", forgotten, err, want)
		}
	}
	if at, err := f.Cursor(t.Context(), "etcd", "aws"); err != nil || at != 9 {
		t.Errorf("etcd is at %d, %v", at, err)
	}
	if begins, _ := f.trim(t, next, now.Add(time.Hour)); begins != 10 {
		t.Errorf("history begins at %d, want at the newest", begins)
	}
}

// What is wrong goes on until it is over, is bounded, and is forgotten with the target.
func TestTroubles(t *testing.T) {
	t.Parallel()
	f, term, _ := past(t)
	report := func(target, lane, text string) {
		t.Helper()
		if err := f.Report(t.Context(), term, storage.Trouble{Target: target, Lane: lane, Error: text}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(want ...string) []storage.Trouble {
		t.Helper()
		all, err := f.Troubles(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, one := range all {
			got = append(got, one.Target+"/"+one.Lane+": "+one.Error)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
		return all
	}
	want()
	report("gcp", "policy", "")
	report("gcp", "policy", "away")
	began := want("gcp/policy: away")[0].Since
	report("gcp", "policy", "full")
	if now := want("gcp/policy: full")[0].Since; !now.Equal(began) || time.Since(now).Abs() > time.Minute {
		t.Errorf("it fails since %s, want %s", now, began)
	}
	report("gcp", "security", "a\x00b\xff")
	report("", "policy", strings.Repeat("x", storage.MaxTrouble-1)+"é")
	want("/policy: "+strings.Repeat("x", storage.MaxTrouble-1), "gcp/policy: full", "gcp/security: ab\uFFFD")
	report("gcp", "policy", "")
	want("/policy: "+strings.Repeat("x", storage.MaxTrouble-1), "gcp/security: ab\uFFFD")

	next, err := f.BeginTerm(t.Context(), "two")
	if err != nil {
		t.Fatal(err)
	}
	wantErr(t, "a term that is over", f.Report(t.Context(), term, storage.Trouble{Target: "gcp", Lane: "security"}), storage.ErrFenced)
	if _, err := f.KeepCursors(t.Context(), next, []string{"etcd", "gcp"}); err != nil {
		t.Fatal(err)
	}
	want("gcp/security: ab\uFFFD")
	if _, err := f.KeepCursors(t.Context(), next, []string{"etcd"}); err != nil {
		t.Fatal(err)
	}
	want()
}

func TestCursors(t *testing.T) {
	t.Parallel()
	f, term, _ := past(t)
	if err := f.AdvanceCursor(t.Context(), term, "gcp", "aws", 3); err != nil {
		t.Fatal(err)
	}
	got, err := f.Cursors(t.Context())
	want := map[string]map[string]snapshot.Revision{"etcd": {"aws": 9, "gcp": 10}, "gcp": {"aws": 3}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("cursors: %v, %v, want %v", got, err, want)
	}
}
