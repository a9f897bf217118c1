package quota_test

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sallyport/sallyport/internal/quota"
)

func mustRate(t testing.TB, requests uint32, period time.Duration, burst uint32) quota.Rate {
	t.Helper()
	r, err := quota.NewRate(requests, period, burst)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRatesThatCanBe(t *testing.T) {
	for _, c := range []struct {
		requests uint32
		period   time.Duration
		burst    uint32
		want     error
	}{
		{1, time.Second, 0, nil},
		{1, 24 * time.Hour, 30, nil},
		{1, 24 * time.Hour, 31, quota.ErrTooSlow},
		{1_000_000, time.Second, 0, nil},
		{1_000_001, time.Second, 0, nil}, // rounded to a million
		{2_000_000, time.Second, 0, quota.ErrTooFast},
		{0, time.Second, 1, quota.ErrTooSlow},
		{1_000_000_000, 24 * time.Hour, 1_000_000_000, nil},
		{1, time.Second, 4_000_000_000, quota.ErrTooSlow},
	} {
		if _, err := quota.NewRate(c.requests, c.period, c.burst); !errors.Is(err, c.want) {
			t.Errorf("%d in %s, burst %d: %v, want %v", c.requests, c.period, c.burst, err, c.want)
		}
	}
}

// Ten in a second, of which three may come at once.
func TestTake(t *testing.T) {
	const ms = time.Millisecond
	rate := mustRate(t, 10, time.Second, 3)
	var due time.Duration
	for _, c := range []struct {
		at        time.Duration
		cost      int64
		allowed   bool
		remaining int64
		reset     time.Duration
		retry     time.Duration
	}{
		{0, 1, true, 2, 100 * ms, 0},
		{0, 1, true, 1, 200 * ms, 0},
		{0, 1, true, 0, 300 * ms, 0},
		{0, 1, false, 0, 300 * ms, 100 * ms},
		{99 * ms, 1, false, 0, 201 * ms, ms}, // what is refused uses nothing
		{100 * ms, 1, true, 0, 300 * ms, 0},
		{250 * ms, 2, false, 1, 150 * ms, 50 * ms},
		{300 * ms, 2, true, 0, 300 * ms, 0},
		{300 * ms, 0, true, 0, 300 * ms, 0},  // free
		{300 * ms, -5, true, 0, 300 * ms, 0}, // and no present
		{time.Hour, 4, false, 3, 0, 100 * ms},
		{time.Hour, 1 << 62, false, 3, 0, 100 * ms}, // more than there ever is
		{time.Hour, 3, true, 0, 300 * ms, 0},
	} {
		var o quota.Outcome
		due, o = rate.Take(due, c.at, c.cost)
		if want := (quota.Outcome{Allowed: c.allowed, Remaining: c.remaining, Reset: c.reset, Retry: c.retry}); o != want {
			t.Errorf("%s, %d: got %+v, want %+v", c.at, c.cost, o, want)
		}
	}
}

// A client that waits as long as it is told is let through then, and not before.
func TestRetryIsRight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate, err := quota.NewRate(rapid.Uint32Range(1, 1000).Draw(t, "requests"),
			time.Duration(rapid.Int64Range(1, 3600).Draw(t, "seconds"))*time.Second, rapid.Uint32Range(0, 100).Draw(t, "burst"))
		if err != nil {
			t.Skip()
		}
		var due, now time.Duration
		for range rapid.IntRange(1, 60).Draw(t, "count") {
			now += time.Duration(rapid.Int64Range(0, int64(2*rate.Interval)).Draw(t, "pause"))
			cost := rapid.Int64Range(1, rate.Burst()).Draw(t, "cost")
			next, o := rate.Take(due, now, cost)
			if !o.Allowed {
				if _, early := rate.Take(due, now+o.Retry-1, cost); early.Allowed {
					t.Fatalf("let through before %s", o.Retry)
				}
				if _, then := rate.Take(due, now+o.Retry, cost); !then.Allowed {
					t.Fatalf("not let through after %s", o.Retry)
				}
			}
			due = next
		}
	})
}

// In any time no more is let through than a burst and what comes back in it.
func TestNeverMoreThanTheRate(t *testing.T) {
	rate := mustRate(t, 7, time.Second, 5)
	var due time.Duration
	count := 0
	const step, end = time.Millisecond, 20 * time.Second
	for now := time.Duration(0); now < end; now += step {
		next, o := rate.Take(due, now, 1)
		if o.Allowed {
			count++
		}
		due = next
	}
	if most := 5 + 7*20; count > most || count < most-1 {
		t.Errorf("%d in 20 s, want %d", count, most)
	}
}

// A limit that was lowered, or raised, is in force at once.
func TestAnotherRate(t *testing.T) {
	slow, fast := mustRate(t, 1, time.Hour, 10), mustRate(t, 10, time.Second, 10)
	var due time.Duration
	for range 10 {
		due, _ = slow.Take(due, 0, 1)
	}
	if _, o := fast.Take(due, 0, 1); o.Allowed || o.Retry != 100*time.Millisecond {
		t.Errorf("raised: %+v, want one that comes back in 100 ms", o)
	}
	if _, o := slow.Take(time.Second, 0, 1); !o.Allowed {
		t.Errorf("lowered: %+v", o)
	}
}

func TestGiveBack(t *testing.T) {
	rate := mustRate(t, 10, time.Second, 3)
	due, _ := rate.Take(0, time.Second, 3)
	_, o := rate.Take(rate.Give(due, 3), time.Second, 0)
	if o.Remaining != 3 {
		t.Errorf("%d remain", o.Remaining)
	}
}

// The zero Rate lets nothing through that costs something.
func TestZeroRate(t *testing.T) {
	if _, o := (quota.Rate{}).Take(0, time.Hour, 1); o.Allowed {
		t.Error("allowed")
	}
}
