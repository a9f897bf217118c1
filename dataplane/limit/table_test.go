package limit_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/dataplane/limit"
	"github.com/sallyport/sallyport/internal/quota"
)

func rate(t testing.TB, requests uint32, period time.Duration, burst uint32) quota.Rate {
	t.Helper()
	r, err := quota.NewRate(requests, period, burst)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func hash(i int) limit.Hash { return limit.HashOf(fmt.Append(nil, i)) }

// However many keys there are, and however few fit: none gets more than it would if
// all had a place of their own. Here there are three times as many as fit, or the
// Table begins to grow when some have lost their places.
func TestNobodyIsSetFree(t *testing.T) {
	const keys, requests = 3000, 300_000
	rate := rate(t, 10, time.Second, 20)
	for seed, late := range []bool{false, true, false, true} {
		random := rand.New(rand.NewPCG(uint64(seed), 1))
		room := limit.NewRoom(0)
		table, used := limit.NewTable(room), make([]time.Duration, keys)
		var now time.Duration
		refused := 0
		for i := range requests {
			now += time.Duration(random.Int64N(int64(100 * time.Microsecond)))
			if late && i == requests/10 {
				room.Add(64 << 20)
			}
			k, cost := int(float64(keys)*math.Pow(random.Float64(), 2)), random.Int64N(4)
			if !table.Take(hash(k), now, rate, cost).Allowed {
				refused++
				continue
			}
			due, by := rate.Take(used[k], now, cost)
			if !by.Allowed {
				t.Fatalf("seed %d: key %d got more than its rate at %s, request %d", seed, k, now, i)
			}
			used[k] = due
		}
		if refused == 0 || refused == requests {
			t.Errorf("seed %d: %d were refused", seed, refused)
		}
	}
}

// While all keys fit, each has what it would have by itself.
func TestKeysThatFitDoNotTouchEachOther(t *testing.T) {
	table, rate := limit.NewTable(limit.NewRoom(64<<20)), rate(t, 1, time.Hour, 3)
	for round, want := range []bool{true, true, true, false} {
		for k := range 20_000 { // of a million: that nine of them are in a bucket never happens
			if got := table.Take(hash(k), time.Minute, rate, 1); got.Allowed != want {
				t.Fatalf("key %d, request %d: %v", k, round+1, got.Allowed)
			}
		}
	}
}

// Whoever has used up a limit stays so while strangers come in any number.
func TestAFloodSetsNobodyFree(t *testing.T) {
	table, rate := limit.NewTable(limit.NewRoom(0)), rate(t, 1, time.Hour, 5)
	busy := hash(-1)
	for range 5 {
		table.Take(busy, 0, rate, 1)
	}
	for k := range 200_000 {
		table.Take(hash(k), 0, rate, 1)
		if k%1000 == 0 && table.Take(busy, 0, rate, 1).Allowed {
			t.Fatalf("free after %d others", k)
		}
	}
}

// A flood takes no more room than there is, and leaves nothing behind.
func TestRoomIsABound(t *testing.T) {
	room := limit.NewRoom(1 << 20)
	table := limit.NewTable(room)
	for k := range 300_000 {
		table.Take(hash(k), 0, rate(t, 1, time.Hour, 1), 1)
	}
	if size := table.Size(); size > 1<<20+64<<10 || size < 1<<18 {
		t.Errorf("a table takes %d bytes of a MiB", size)
	}
	table.Release()
	if left := room.Left(); left != 1<<20 {
		t.Errorf("%d bytes are left", left)
	}
}

func TestGive(t *testing.T) {
	table, rate := limit.NewTable(limit.NewRoom(0)), rate(t, 1, time.Hour, 5)
	table.Give(hash(1), rate, 5) // which nobody took
	table.Take(hash(1), 0, rate, 5)
	table.Give(hash(1), rate, 5)
	if o := table.Take(hash(1), 0, rate, 5); !o.Allowed {
		t.Errorf("%+v", o)
	}
}

// Many at once get what one would.
func TestAtOnce(t *testing.T) {
	table, rate := limit.NewTable(limit.NewRoom(1<<20)), rate(t, 1000, time.Hour, 1000)
	var mu sync.Mutex
	var wg sync.WaitGroup
	total := 0
	for range 8 {
		wg.Go(func() {
			n := 0
			for range 500 {
				if table.Take(hash(1), 0, rate, 1).Allowed {
					n++
				}
			}
			mu.Lock()
			defer mu.Unlock()
			total += n
		})
	}
	wg.Wait()
	if total != 1000 {
		t.Errorf("%d were let through", total)
	}
}

func TestPoolKeepsWhatWasUsed(t *testing.T) {
	now := time.Now()
	pool, rate := limit.NewPool(now), rate(t, 1, time.Hour, 1)
	taken := func(keys map[string]string) bool {
		return !pool.Sync(keys)["a"].Take(hash(1), pool.Since(now), rate, 1).Allowed
	}
	for _, c := range []struct {
		step string
		keys map[string]string
		want bool
	}{
		{"at first", map[string]string{"a": "x"}, false},
		{"again", map[string]string{"a": "x"}, true},
		{"beside another", map[string]string{"a": "x", "b": "x"}, true},
		{"with another key", map[string]string{"a": "y"}, false},
	} {
		if got := taken(c.keys); got != c.want {
			t.Errorf("%s: used up is %v", c.step, got)
		}
	}
	pool.Sync(nil)
	if taken(map[string]string{"a": "y"}) {
		t.Error("what was gone and came back has kept what was used")
	}
}

func BenchmarkTake(b *testing.B) {
	rate := rate(b, 1000, time.Second, 1000)
	for name, keys := range map[string]int{"one key": 1, "100,000 keys": 100_000} {
		b.Run(name, func(b *testing.B) {
			table := limit.NewTable(limit.NewRoom(64 << 20))
			hashes := make([]limit.Hash, keys)
			for i := range hashes {
				hashes[i] = hash(i)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				table.Take(hashes[i%keys], time.Duration(i)*time.Microsecond, rate, 1)
			}
		})
	}
}
