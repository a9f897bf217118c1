package postgres_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/storage"
)

const aws = "spiffe://prod.example/proxy/aws"

// said is an entry that a ruling is recorded with.
func said(detail string) storage.AuditEntry {
	return storage.AuditEntry{At: noon, Caller: "alice", Action: "/Rule", Allowed: true, Detail: detail}
}

// rule rules, or ends the test.
func rule(t *testing.T, f fleet, subject string, revise func(*storage.Ruling)) {
	t.Helper()
	if err := f.Rule(t.Context(), subject, said("rule "+subject), func(r storage.Ruling, _ int) (storage.Ruling, error) {
		revise(&r)
		return r, nil
	}); err != nil {
		t.Fatal(err)
	}
}

// subjects are those that something is ruled of after a sequence.
func subjects(t *testing.T, f fleet, after int64) (names []string, last int64) {
	t.Helper()
	rulings, err := f.Rulings(t.Context(), after)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rulings {
		if last = r.Sequence; !r.IsZero() {
			names = append(names, r.Subject)
		}
	}
	return names, last
}

func details(t *testing.T, f fleet) (all []string) {
	t.Helper()
	entries, err := f.Entries(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Detail)
	}
	return all
}

func TestRule(t *testing.T) {
	t.Parallel()
	f := open(t)
	rule(t, f, aws, func(r *storage.Ruling) {
		r.Quarantined, r.Approval, r.Reason, r.Caller, r.At = true, storage.Approved, "odd\x00 traffic", "alice", noon
	})
	rule(t, f, aws+"#one", func(r *storage.Ruling) { r.Draining, r.Labels, r.At = true, map[string]string{"tier": "gold"}, noon })
	names, last := subjects(t, f, 0)
	if want := []string{aws, aws + "#one"}; !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}

	rule(t, f, aws, func(r *storage.Ruling) {
		if !r.Quarantined || r.Approval != storage.Approved || r.Reason != "odd\uFFFD traffic" || r.Caller != "alice" || !r.At.Equal(noon) || r.Subject != aws {
			t.Errorf("it was ruled %+v", r)
		}
		r.Quarantined = false
	})
	// Later ones are read alone, the earliest first.
	if names, _ = subjects(t, f, last); !slices.Equal(names, []string{aws}) {
		t.Errorf("after %d there are %q", last, names)
	}
	if names, _ = subjects(t, f, 0); !slices.Equal(names, []string{aws + "#one", aws}) {
		t.Errorf("there are %q", names)
	}

	// An error changes nothing, and is in no audit.
	no := errors.New("no")
	if err := f.Rule(t.Context(), aws, said("not to be"), func(r storage.Ruling, _ int) (storage.Ruling, error) {
		r.Approval = storage.Refused
		return r, no
	}); !errors.Is(err, no) {
		t.Errorf("got %v", err)
	}
	if got := details(t, f); slices.Contains(got, "not to be") || len(got) != 3 {
		t.Errorf("the audit has %q", got)
	}
	rule(t, f, aws, func(r *storage.Ruling) {
		if r.Approval != storage.Approved {
			t.Errorf("it was ruled %+v", r)
		}
	})
}

func TestRuleCountsProxies(t *testing.T) {
	t.Parallel()
	f := open(t)
	one, two, other := proxy("p#1", "aws", 0), proxy("p#2", "aws", 0), proxy("q#1", "aws", 0)
	if err := f.SaveProxies(t.Context(), "", []storage.Proxy{one, two, other}); err != nil {
		t.Fatal(err)
	}
	for subject, want := range map[string]int{one.SPIFFEID: 2, "p#1": 1, "p": 0, "": 0} {
		if err := f.Rule(t.Context(), subject, said(""), func(r storage.Ruling, proxies int) (storage.Ruling, error) {
			if proxies != want {
				t.Errorf("%q has %d proxies, want %d", subject, proxies, want)
			}
			return r, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// Whoever reads on from the last sequence misses none, however many rule at once.
func TestRulingsAreOrdered(t *testing.T) {
	t.Parallel()
	f := open(t)
	const many = 40
	var g errgroup.Group
	for i := range many {
		g.Go(func() error {
			return f.Rule(t.Context(), fmt.Sprint(aws, i), said(""), func(r storage.Ruling, _ int) (storage.Ruling, error) { return r, nil })
		})
	}
	seen, last := map[string]bool{}, int64(0)
	for len(seen) < many {
		rulings, err := f.Rulings(t.Context(), last)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rulings {
			if r.Sequence <= last {
				t.Fatalf("sequence %d after %d", r.Sequence, last)
			}
			seen[r.Subject], last = true, r.Sequence
		}
		if t.Context().Err() != nil {
			t.Fatalf("%d were seen of %d", len(seen), many)
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestRulingsWakeOthers(t *testing.T) {
	t.Parallel()
	f := open(t)
	other := listen(t, connect(t, f.dsn))
	rule(t, f, aws, func(r *storage.Ruling) { r.Quarantined = true })
	receive(t, other)
}

func TestForget(t *testing.T) {
	t.Parallel()
	f := open(t)
	one, two, barred := proxy("p#1", "aws", 0), proxy("p#2", "aws", 0), proxy("q#1", "aws", 0)
	if err := f.SaveProxies(t.Context(), "", []storage.Proxy{one, two, barred}); err != nil {
		t.Fatal(err)
	}
	rule(t, f, one.SPIFFEID, func(r *storage.Ruling) { r.Approval = storage.Approved })
	rule(t, f, "p#1", func(r *storage.Ruling) { r.Draining = true })
	rule(t, f, barred.SPIFFEID, func(r *storage.Ruling) { r.Approval = storage.Refused })
	later := noon.Add(time.Second)
	forget := func(id storage.ProxyID, since time.Time, want error) {
		t.Helper()
		wantErr(t, string(id), f.Forget(t.Context(), id, since, said("forget "+string(id))), want)
	}
	ruled := func(want ...string) {
		t.Helper()
		if names, _ := subjects(t, f, 0); !slices.Equal(names, want) {
			t.Errorf("there are rulings of %q, want %q", names, want)
		}
	}
	forget("r#1", later, storage.ErrNotFound)
	forget("p#1", noon, storage.ErrHeard)
	forget("q#1", later, storage.ErrBarred)
	forget("p#1", later, nil)
	ruled(one.SPIFFEID, barred.SPIFFEID) // another proxy has the SPIFFE ID
	forget("p#1", later, storage.ErrNotFound)
	forget("p#2", later, nil)
	ruled(barred.SPIFFEID)
	if got := strings.Join(details(t, f)[3:], ", "); got != "forget p#1, forget p#2" {
		t.Errorf("the audit has %q", got)
	}
}

func TestForgetLost(t *testing.T) {
	t.Parallel()
	f := open(t)
	all := []storage.Proxy{
		proxy("old#1", "aws", 0), proxy("old#2", "aws", time.Second), proxy("old#3", "", 2*time.Second),
		proxy("quarantined#1", "aws", 0), proxy("refused#1", "", 0), proxy("approved#1", "aws", 3*time.Second), proxy("new#1", "aws", time.Hour),
	}
	if err := f.SaveProxies(t.Context(), "", all); err != nil {
		t.Fatal(err)
	}
	rule(t, f, all[3].SPIFFEID, func(r *storage.Ruling) { r.Quarantined = true })
	rule(t, f, all[4].SPIFFEID, func(r *storage.Ruling) { r.Approval = storage.Refused })
	rule(t, f, all[5].SPIFFEID, func(r *storage.Ruling) { r.Approval = storage.Approved })
	rule(t, f, "old#2", func(r *storage.Ruling) { r.Draining = true })
	for _, want := range []string{"[old#1 old#2]", "[old#3 approved#1]", "[]"} {
		gone, err := f.ForgetLost(t.Context(), noon.Add(time.Minute), 2, said(""))
		slices.SortFunc(gone, func(a, b storage.ProxyID) int {
			at := func(id storage.ProxyID) int {
				return slices.IndexFunc(all, func(p storage.Proxy) bool { return p.ID == id })
			}
			return at(a) - at(b)
		})
		if err != nil || fmt.Sprint(gone) != want {
			t.Errorf("got %v, %v, want %s", gone, err, want)
		}
	}
	left, err := f.Proxies(t.Context(), "", storage.Proxy{}, 100)
	if err != nil || len(left) != 3 {
		t.Errorf("%d are left, %v", len(left), err)
	}
	// What operators said of SPIFFE IDs stays, of processes that are gone it goes.
	if names, _ := subjects(t, f, 0); len(names) != 3 || slices.Contains(names, "old#2") {
		t.Errorf("there are rulings of %q", names)
	}
	if got := details(t, f); len(got) != 6 || !strings.Contains(got[4], "old#1") {
		t.Errorf("the audit has %q", got)
	}
}
