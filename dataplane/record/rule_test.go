package record_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/dataplane/record"
)

// far is a control plane far away.
type far struct {
	decided, required, ended []string
	full                     bool
}

func (f *far) Decide(d *record.Decision) bool {
	f.decided = append(f.decided, d.ID)
	return d.ID != "unheard"
}

func (f *far) Finish(o *record.Outcome) { f.ended = append(f.ended, o.ID) }

func (f *far) Require(_ context.Context, d *record.Decision) error {
	if f.full {
		return record.ErrUnavailable
	}
	f.required = append(f.required, d.ID)
	return nil
}

func TestRemote(t *testing.T) {
	f := &far{}
	r := recorder(t, record.Config{Remote: f})
	required := &record.Rule{Mode: record.Required}
	must := func(id string, allow bool) *record.Decision {
		return &record.Decision{ID: id, Allow: allow, Rule: required}
	}
	for _, d := range []*record.Decision{allow("one"), deny("two"), must("three", true), must("four", false), allow("unheard")} {
		if err := r.Decide(t.Context(), d); err != nil {
			t.Errorf("%s: %v", d.ID, err)
		}
		r.Finish(&record.Outcome{ID: d.ID, Told: d.Told})
	}
	if got, want := len(f.decided), 4; got != want || len(f.required) != 1 || f.required[0] != "three" {
		t.Errorf("decided were %q, required %q", f.decided, f.required)
	}
	// Of what nobody was told, nobody is told the end.
	if got := strings.Join(f.ended, " "); got != "one two three four" {
		t.Errorf("ended have %s", got)
	}
	f.full = true
	if err := r.Decide(t.Context(), must("five", true)); !errors.Is(err, record.ErrUnavailable) {
		t.Errorf("what must be recorded and cannot be: %v", err)
	}
	// Without anywhere to send them, what must be recorded is denied.
	var d disk
	alone := recorder(t, record.Config{Writer: &d})
	stop := run(t, alone)
	if err := alone.Decide(t.Context(), must("six", true)); !errors.Is(err, record.ErrUnavailable) {
		t.Errorf("what must be recorded without a remote: %v", err)
	}
	stop()
}

func TestRule(t *testing.T) {
	at := time.Unix(1000, 0)
	r := &record.Rule{Rate: 2}
	for i, c := range []struct {
		now   time.Time
		count int64
	}{{at, 1}, {at, 1}, {at, 0}, {at, 0}, {at.Add(time.Second), 3}, {at.Add(time.Second), 1}, {at.Add(time.Second), 0}, {at.Add(9 * time.Second), 2}} {
		if count, takes := r.Takes(func() time.Time { return c.now }); count != c.count || takes != (c.count > 0) {
			t.Errorf("request %d stands for %d, want %d", i, count, c.count)
		}
	}
	var none *record.Rule
	if _, takes := none.Takes(func() time.Time { return at }); takes {
		t.Error("no rule takes something")
	}
	if _, takes := (&record.Rule{}).Takes(func() time.Time { return at }); takes {
		t.Error("the zero rule takes something")
	}
	for range 100 {
		if count, takes := (&record.Rule{Mode: record.All}).Takes(func() time.Time { return at }); count != 1 || !takes {
			t.Error("not all are taken")
		}
	}
}
