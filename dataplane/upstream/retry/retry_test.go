package retry_test

import (
	"testing"
	"time"

	"github.com/sallyport/sallyport/dataplane/upstream/retry"
)

func TestBudget(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	b := retry.New(20, 3, func() time.Time { return now })
	count := func(n int) {
		for range n {
			b.Count()
		}
	}
	taken := func(most int) (n int) {
		for n < most && b.Take() {
			n++
		}
		return n
	}
	expect := func(what string, got, want int) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %d may be sent again, want %d", what, got, want)
		}
	}
	expect("without requests", taken(1000), 30)
	count(100)
	expect("after 100 requests", taken(1000), 20)
	now = now.Add(9 * time.Second)
	expect("while those count", taken(1000), 0)
	count(50)
	expect("with 50 more", taken(1000), 10)
	now = now.Add(time.Second) // the first 100 do not count any more
	expect("ten seconds later", taken(1000), 30)
	now = now.Add(time.Hour)
	expect("long after", taken(1000), 30)
	now = now.Add(-time.Minute) // a clock that is set back gives no more than there is
	expect("before", taken(1000), 30)
}

func TestNoBudget(t *testing.T) {
	b := retry.New(0, 0, nil)
	b.Count()
	if b.Take() {
		t.Error("something may be sent again")
	}
}

func TestCountingDoesNotAllocate(t *testing.T) {
	b := retry.New(20, 3, nil)
	if n := testing.AllocsPerRun(100, func() {
		b.Count()
		b.Take()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
