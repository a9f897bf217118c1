package postgres_test

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/postgres"
	"github.com/sallyport/sallyport/storage/storagetest"
)

// records is a store of decisions and its database.
type records struct {
	*postgres.Decisions
	dsn string
}

func openRecords(t testing.TB) records {
	t.Helper()
	dsn := storagetest.Postgres(t, postgres.Migrate)
	return records{connectRecords(t, dsn), dsn}
}

func connectRecords(t testing.TB, dsn string) *postgres.Decisions {
	t.Helper()
	d, err := postgres.NewDecisions(postgres.Config{DSN: dsn, MaxConns: 4, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// today is a moment that Recorded takes for a recent one.
var today = time.Now().UTC().Truncate(24 * time.Hour).Add(time.Hour)

// decided is a decision at a time, which tells it from others.
func decided(after time.Duration, change func(*storage.Decision)) storage.Decision {
	d := storage.Decision{
		ID: storage.DecisionsFrom(today.Add(after)), Environment: "aws", Principal: "alice", Route: "shop/orders",
		Allow: true, Reason: "allowed_by_policy", Record: fmt.Appendf(nil, "%v", after),
	}
	d.ID[6] |= 0x70
	if change != nil {
		change(&d)
	}
	return d
}

func denied(d *storage.Decision) { d.Allow, d.Reason = false, "no_matching_policy" }

var one = storage.Journal{Proxy: "spiffe://prod.example/proxy/aws#1", Boot: []byte("first boot of it")}

// save saves decisions at the places from first on.
func (r records) save(t testing.TB, j storage.Journal, first int64, all ...storage.Decision) {
	t.Helper()
	for i := range all {
		all[i].Sequence = first + int64(i)
	}
	if err := r.SaveDecisions(t.Context(), storage.Records{Journal: j, Last: first + int64(len(all)) - 1, Decisions: all}); err != nil {
		t.Fatal(err)
	}
}

// found are the records of a page, newest first.
func (r records) found(t testing.TB, p storage.DecisionPage) string {
	t.Helper()
	if p.Limit == 0 {
		p.Limit = 100
	}
	all, err := r.Decisions.Decisions(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return recordsOf(all)
}

func recordsOf(all []storage.Decision) string {
	var texts []string
	for _, d := range all {
		texts = append(texts, string(d.Record))
	}
	return strings.Join(texts, " ")
}

// What a proxy pushes again, after it heard no answer, is kept once; and so is what
// it pushes to two replicas at a time.
func TestDecisionsAreKeptOnce(t *testing.T) {
	t.Parallel()
	r := openRecords(t)
	r.save(t, one, 1, decided(1, nil), decided(2, nil))
	r.save(t, one, 1, decided(1, nil), decided(2, nil))
	r.save(t, one, 2, decided(2, nil), decided(3*time.Millisecond, nil))
	two := one
	two.Boot = []byte("another boot too")
	r.save(t, two, 1, decided(4*time.Millisecond, nil))
	if got := r.found(t, storage.DecisionPage{}); got != "4ms 3ms 2ns 1ns" {
		t.Errorf("kept were %s", got)
	}
	other := connectRecords(t, r.dsn)
	var g errgroup.Group
	for i := range 8 {
		at := []*postgres.Decisions{r.Decisions, other}[i%2]
		g.Go(func() error {
			var all []storage.Decision
			for n := range int64(100) {
				d := decided(time.Second+time.Duration(n)*time.Millisecond, nil)
				d.Sequence = 3 + n
				all = append(all, d)
			}
			return at.SaveDecisions(t.Context(), storage.Records{Journal: two, Last: 102, Decisions: all})
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	all, err := r.Decisions.Decisions(t.Context(), storage.DecisionPage{From: storage.DecisionsFrom(today.Add(time.Second)), Limit: 1000})
	if err != nil || len(all) != 100 {
		t.Errorf("kept were %d (%v)", len(all), err)
	}
	if d := all[0]; d.Proxy != two.Proxy || string(d.Boot) != string(two.Boot) || d.Sequence != 102 || d.ID.Time() != today.Add(1099*time.Millisecond) {
		t.Errorf("the newest is %+v", d)
	}
}

func TestDecisionsAreFound(t *testing.T) {
	t.Parallel()
	r := openRecords(t)
	two := storage.Journal{Proxy: "spiffe://prod.example/proxy/gcp#2", Boot: []byte("b")}
	r.save(t, one, 1, decided(time.Millisecond, nil), decided(2*time.Millisecond, denied),
		decided(-2*time.Hour, func(d *storage.Decision) { denied(d); d.Principal, d.Route = "bob", "shop/carts" })) // yesterday
	trace := storage.TraceID{0: 1, 15: 0xff}
	r.save(t, two, 1, decided(3*time.Millisecond, func(d *storage.Decision) {
		d.Environment, d.Principal, d.Route, d.Trace = "gcp", "", "", trace
	}))
	yes, no := true, false
	filter := func(f storage.DecisionFilter) storage.DecisionPage { return storage.DecisionPage{DecisionFilter: f} }
	for _, c := range []struct {
		what string
		page storage.DecisionPage
		want string
	}{
		{"all", filter(storage.DecisionFilter{}), "3ms 2ms 1ms -2h0m0s"},
		{"one ID", filter(storage.DecisionFilter{ID: decided(2*time.Millisecond, nil).ID}), "2ms"},
		{"one principal", filter(storage.DecisionFilter{Principals: []string{"alice"}}), "2ms 1ms"},
		{"either principal", filter(storage.DecisionFilter{Principals: []string{"bob", "alice"}}), "2ms 1ms -2h0m0s"},
		{"a principal's denials", filter(storage.DecisionFilter{Principals: []string{"alice"}, Allow: &no}), "2ms"},
		{"one route", filter(storage.DecisionFilter{Route: "shop/carts"}), "-2h0m0s"},
		{"allows", filter(storage.DecisionFilter{Allow: &yes}), "3ms 1ms"},
		{"denials", filter(storage.DecisionFilter{Allow: &no}), "2ms -2h0m0s"},
		{"one reason", filter(storage.DecisionFilter{Reason: "no_matching_policy"}), "2ms -2h0m0s"},
		{"one proxy", filter(storage.DecisionFilter{Proxy: two.Proxy}), "3ms"},
		{"another proxy", filter(storage.DecisionFilter{Proxy: "spiffe://prod.example/proxy/gcp#3"}), ""},
		{"one environment", filter(storage.DecisionFilter{Environment: "gcp"}), "3ms"},
		{"one trace", filter(storage.DecisionFilter{Trace: trace}), "3ms"},
		{"another trace", filter(storage.DecisionFilter{Trace: storage.TraceID{0: 1}}), ""},
		{"a time", storage.DecisionPage{From: storage.DecisionsFrom(today), Before: storage.DecisionsFrom(today.Add(2 * time.Millisecond))}, "1ms"},
		{"a page", storage.DecisionPage{Limit: 2}, "3ms 2ms"},
	} {
		if got := r.found(t, c.page); got != c.want {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
	}
}

// How a request ended is found with its decision, whether it came in with it or
// later, once, and only where it was the same proxy's.
func TestOutcomesAreFound(t *testing.T) {
	t.Parallel()
	r := openRecords(t)
	const day = 24 * time.Hour
	with, later, yesterday := decided(1*time.Millisecond, nil), decided(2*time.Millisecond, nil), decided(-day, nil)
	with.Sequence, later.Sequence, yesterday.Sequence = 1, 2, 3
	ends := func(d storage.Decision, sequence int64, text string) storage.Outcome {
		return storage.Outcome{ID: d.ID, Sequence: sequence, Record: []byte("+" + text)}
	}
	mark, err := r.Mark(t.Context())
	save := func(j storage.Journal, last int64, decisions []storage.Decision, outcomes ...storage.Outcome) {
		t.Helper()
		if err := r.SaveDecisions(t.Context(), storage.Records{Journal: j, Last: last, Decisions: decisions, Outcomes: outcomes}); err != nil {
			t.Fatal(err)
		}
	}
	all := []storage.Decision{with, later, yesterday}
	save(one, 4, all, ends(with, 4, "a"))
	save(one, 4, all, ends(with, 4, "a"))
	stranger := storage.Journal{Proxy: "spiffe://prod.example/proxy/gcp#1", Boot: []byte("s")}
	save(stranger, 2, nil, ends(with, 1, "forged"), ends(later, 2, "forged"))
	if got := r.found(t, storage.DecisionPage{}); got != "2ms 1ms+a -24h0m0s" {
		t.Errorf("found were %s", got)
	}
	other := storage.Journal{Proxy: one.Proxy, Boot: []byte("of its memory")}
	save(other, 3, nil, ends(later, 1, "b"), ends(yesterday, 2, "c"), ends(decided(-2*day, nil), 3, "of what is not there"))
	save(other, 4, nil, ends(later, 1, "b"), ends(yesterday, 2, "c"), ends(later, 4, "twice"))
	if got := r.found(t, storage.DecisionPage{}); got != "2ms+b 1ms+a -24h0m0s+c" && got != "2ms+twice 1ms+a -24h0m0s+c" {
		t.Errorf("found were %s", got)
	}
	if got := r.found(t, storage.DecisionPage{Limit: 1}); !strings.HasPrefix(got, "2ms+") {
		t.Errorf("the newest is %s", got)
	}
	told, _, errTold := r.Recorded(t.Context(), mark, storage.DecisionFilter{}, 10)
	if got := recordsOf(told); err != nil || errTold != nil || !strings.HasPrefix(got, "1ms+a 2ms+") {
		t.Errorf("told was %s (%v, %v)", got, err, errTold)
	}
	// They go with the day of their decision.
	if err := r.KeepDecisions(t.Context(), today.Add(-time.Minute), today.Add(day)); err != nil {
		t.Fatal(err)
	}
	var left int
	if err := session(t, r.dsn).QueryRow(t.Context(), `select count(*) from outcome`).Scan(&left); err != nil || left != 4 {
		t.Errorf("%d outcomes are left of today, want 4 (%v)", left, err)
	}
}

// Pages hold everything once, whatever has the same ID.
func TestDecisionsPageByPage(t *testing.T) {
	t.Parallel()
	r := openRecords(t)
	var all []storage.Decision
	want := map[string]bool{}
	for i := range 20 {
		d := decided(time.Duration(i/4)*time.Millisecond, nil)
		d.Record = fmt.Append(nil, i)
		all = append(all, d)
		want[string(d.Record)] = true
	}
	r.save(t, one, 1, all...)
	p := storage.DecisionPage{Limit: 3}
	for {
		some, err := r.Decisions.Decisions(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range some {
			if !want[string(d.Record)] {
				t.Errorf("%s is there twice", d.Record)
			}
			delete(want, string(d.Record))
		}
		if len(some) < p.Limit {
			break
		}
		p.After = &some[len(some)-1]
	}
	if len(want) > 0 {
		t.Errorf("missing are %v", want)
	}
}

func TestDecisionsAreTold(t *testing.T) {
	t.Parallel()
	r := openRecords(t)
	r.save(t, one, 1, decided(1, nil))
	mark, err := r.Mark(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	no := false
	told := func(f storage.DecisionFilter, limit int, want string, passed int64) {
		t.Helper()
		all, skipped, err := r.Recorded(t.Context(), mark, f, limit)
		if got := recordsOf(all); err != nil || got != want || skipped != passed {
			t.Errorf("told was %q, %d skipped (%v); want %q and %d", got, skipped, err, want, passed)
		}
	}
	told(storage.DecisionFilter{}, 10, "", 0)
	r.save(t, one, 2, decided(2, denied), decided(3, nil))
	told(storage.DecisionFilter{}, 10, "2ns 3ns", 0)
	told(storage.DecisionFilter{}, 10, "", 0)
	two := storage.Journal{Proxy: "other", Boot: []byte("b")}
	r.save(t, two, 1, decided(4, denied), decided(5, nil))
	told(storage.DecisionFilter{Allow: &no}, 10, "4ns", 0)
	told(storage.DecisionFilter{}, 10, "", 0)
	r.save(t, one, 4, decided(6, nil), decided(7, nil), decided(8, nil))
	told(storage.DecisionFilter{}, 2, "7ns 8ns", 1)
	r.save(t, one, 7, decided(-100*time.Hour, nil)) // it lay in a spool
	told(storage.DecisionFilter{}, 2, "", 0)
}

// Days that are over are dropped as a whole, and their journals with them.
func TestOldDecisionsAreDropped(t *testing.T) {
	t.Parallel()
	r := openRecords(t)
	const day = 24 * time.Hour
	r.save(t, one, 1, decided(0, nil), decided(-day, nil), decided(-2*day, nil))
	if err := r.KeepDecisions(t.Context(), today.Add(-day-time.Minute), today.Add(day)); err != nil {
		t.Fatal(err)
	}
	if got := r.found(t, storage.DecisionPage{}); got != "0s -24h0m0s" {
		t.Errorf("kept were %s", got)
	}
	// Another replica, which does not know of the end of a day, makes room for it again.
	late := connectRecords(t, r.dsn)
	d := decided(-2*day+time.Millisecond, nil)
	d.Sequence = 4
	if err := late.SaveDecisions(t.Context(), storage.Records{Journal: one, Last: 4, Decisions: []storage.Decision{d}}); err != nil {
		t.Fatal(err)
	}
	if err := r.KeepDecisions(t.Context(), today.Add(-day), today.Add(day)); err != nil {
		t.Fatal(err)
	}
	d.ID, d.Sequence = decided(-2*day+2*time.Millisecond, nil).ID, 5
	for try := range 2 {
		err := late.SaveDecisions(t.Context(), storage.Records{Journal: one, Last: 5, Decisions: []storage.Decision{d}})
		if (err == nil) != (try == 1) {
			t.Errorf("the attempt number %d ended with %v", try, err)
		}
	}
	if err := r.KeepDecisions(t.Context(), time.Now().Add(day), today.Add(2*day)); err != nil {
		t.Fatal(err)
	}
	if mark, err := r.Mark(t.Context()); err != nil || len(mark) != 0 {
		t.Errorf("journals that are left: %v (%v)", mark, err)
	}
}

func TestDecisionIDs(t *testing.T) {
	for text, good := range map[string]bool{
		"0193589a-1c00-7abc-8def-0123456789ab":  true,
		"0193589a-1c00-4abc-8def-0123456789ab":  false,
		"0193589A-1C00-7ABC-8DEF-0123456789AB":  false,
		"0193589a-1c00-7abc-8def-0123456789a":   false,
		"0193589a01c00-7abc-8def-0123456789ab":  false,
		"0193589a-1c00-7abc-8def-0123456789abc": false,
		"":                                      false,
	} {
		id, err := storage.ParseDecisionID(text)
		if (err == nil) != good || good && id.String() != text {
			t.Errorf("%q: %s, %v", text, id, err)
		}
	}
	id := storage.DecisionsFrom(noon)
	if !id.Time().Equal(noon.Truncate(time.Millisecond)) || binary.BigEndian.Uint64(id[8:]) != 0 {
		t.Errorf("%s is of %v", id, id.Time())
	}
}

func TestTraceIDs(t *testing.T) {
	for text, good := range map[string]bool{
		"4bf92f3577b34da6a3ce929d0e0e4736":   true,
		"4BF92F3577B34DA6A3CE929D0E0E4736":   false,
		"4bf92f3577b34da6a3ce929d0e0e473":    false,
		"4bf92f3577b34da6a3ce929d0e0e473600": false,
		"4bf92f3577b34da6a3ce929d0e0e473g":   false,
		"00000000000000000000000000000000":   false,
		"":                                   false,
	} {
		id, err := storage.ParseTraceID(text)
		if (err == nil) != good || good != (id != storage.TraceID{}) {
			t.Errorf("%q: %x, %v", text, id, err)
		}
	}
}
