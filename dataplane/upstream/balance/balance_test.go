package balance_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sallyport/sallyport/dataplane/upstream/balance"
)

// clock stands still unless it is put forward.
type clock struct{ t time.Time }

func newClock() *clock { return &clock{time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time           { return c.t }
func (c *clock) advance(by time.Duration) { c.t = c.t.Add(by) }

// usual is what upstreams have unless they say otherwise.
func usual(m balance.Method, c *clock) balance.Config {
	return balance.Config{
		Method: m, Panic: 50, Now: c.now, Rand: rand.New(rand.NewPCG(1, 2)).Uint64,
		Ejection: balance.Ejection{After: 5, Time: 30 * time.Second, Most: 5 * time.Minute, Percent: 50, Avoid: 5 * time.Second},
	}
}

func newBalancer(c balance.Config, count int) (*balance.Balancer, []*balance.Endpoint) {
	b := balance.New(c)
	all := make([]*balance.Endpoint, count)
	for i := range all {
		all[i] = balance.NewEndpoint(fmt.Sprintf("192.0.2.%d:80", i), "", 1)
	}
	b.Replace(all)
	return b, all
}

// first is the choice for a request that succeeds at once.
func first(b *balance.Balancer, key balance.Key) *balance.Endpoint {
	c := b.Choose(key)
	return c.Next()
}

// counts chooses n times, for as many keys.
func counts(b *balance.Balancer, n int) map[*balance.Endpoint]int {
	got := map[*balance.Endpoint]int{}
	for i := range n {
		got[first(b, balance.KeyOf(fmt.Sprint(i)))]++
	}
	return got
}

func fail(b *balance.Balancer, e *balance.Endpoint, times int) (ejected bool) {
	for range times {
		ejected = b.Failed(e) || ejected
	}
	return ejected
}

func TestEachGetsItsTurn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, balance.MostEndpoints).Draw(t, "endpoints")
		rounds := rapid.IntRange(1, 5).Draw(t, "rounds")
		b, all := newBalancer(usual(balance.RoundRobin, newClock()), n)
		got := counts(b, rounds*n)
		for _, e := range all {
			if got[e] != rounds {
				t.Fatalf("%s got %d of %d turns", e.Address(), got[e], rounds)
			}
		}
	})
}

// Who is tried because another has failed has had no turn.
func TestSecondChoicesAreNoTurns(t *testing.T) {
	b, all := newBalancer(usual(balance.RoundRobin, newClock()), 3)
	got := map[*balance.Endpoint]int{}
	for range 9 {
		c := b.Choose(0)
		one, other := c.Next(), c.Next()
		if one == other {
			t.Fatal("the same once more")
		}
		got[one]++
	}
	for _, e := range all {
		if got[e] != 3 {
			t.Errorf("%s came first %d times of 9", e.Address(), got[e])
		}
	}
}

// Whatever happens to endpoints, requests go to none that is passed over while others
// live, unless in a panic; each is tried once.
func TestWhoIsPassedOver(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newClock()
		cfg := usual(rapid.SampledFrom([]balance.Method{balance.RoundRobin, balance.LeastRequest, balance.Hash}).Draw(t, "method"), c)
		cfg.SlowStart = time.Duration(rapid.IntRange(0, 20).Draw(t, "slow start")) * time.Second
		b, all := newBalancer(cfg, rapid.IntRange(1, 12).Draw(t, "endpoints"))
		one := rapid.SampledFrom(all)
		t.Repeat(map[string]func(*rapid.T){
			"fail":      func(t *rapid.T) { fail(b, one.Draw(t, "who"), 5) },
			"away":      func(t *rapid.T) { b.Unconnected(one.Draw(t, "who")) },
			"succeed":   func(t *rapid.T) { b.Succeeded(one.Draw(t, "who")) },
			"unhealthy": func(t *rapid.T) { b.SetHealthy(one.Draw(t, "who"), false) },
			"healthy":   func(t *rapid.T) { b.SetHealthy(one.Draw(t, "who"), true) },
			"later":     func(t *rapid.T) { c.advance(time.Duration(rapid.IntRange(1, 40).Draw(t, "s")) * time.Second) },
			"": func(t *rapid.T) {
				live, usable := states(all, c.now())
				choice := b.Choose(balance.KeyOf(rapid.String().Draw(t, "key")))
				seen := map[*balance.Endpoint]bool{}
				for i := range all {
					e := choice.Next()
					if e == nil || seen[e] {
						t.Fatalf("choice %d of %d was %v", i, len(all), e)
					}
					seen[e] = true
					if panics := usable*2 < len(all); !panics && i < live && e.State(c.now()) != balance.Live {
						t.Fatalf("%d live, and choice %d is in state %d", live, i, e.State(c.now()))
					}
				}
				if choice.More() || choice.Next() != nil {
					t.Fatal("one was left")
				}
			},
		})
	})
}

func states(all []*balance.Endpoint, now time.Time) (live, usable int) {
	for _, e := range all {
		switch e.State(now) {
		case balance.Live:
			live++
			usable++
		case balance.Avoided:
			usable++
		}
	}
	return live, usable
}

func TestEjection(t *testing.T) {
	c := newClock()
	b, all := newBalancer(usual(balance.RoundRobin, c), 4)
	bad := all[1]
	if fail(b, bad, 4) {
		t.Error("ejected after four failures")
	}
	b.Succeeded(bad)
	if fail(b, bad, 4) {
		t.Error("ejected though an answer came between")
	}
	if !b.Failed(bad) {
		t.Error("not ejected after five failures in a row")
	}
	if fail(b, bad, 50) {
		t.Error("ejected once more by requests that had begun before")
	}
	// It comes back, and each time that follows takes longer, until it has been well.
	for i, took := range []time.Duration{30 * time.Second, time.Minute, 90 * time.Second} {
		c.advance(took - 1)
		if got := counts(b, 30)[bad]; got != 0 {
			t.Errorf("ejection %d: %d requests before its end", i, got)
		}
		c.advance(1)
		if got := counts(b, 40)[bad]; got != 10 {
			t.Errorf("ejection %d: %d of 40 requests after its end", i, got)
		}
		if !fail(b, bad, 5) {
			t.Errorf("not ejected after ejection %d", i)
		}
	}
	c.advance(10 * time.Minute)
	fail(b, bad, 5)
	c.advance(30 * time.Second)
	if got := counts(b, 40)[bad]; got != 10 {
		t.Errorf("ejected for long, after ten minutes without a failure: %d of 40 requests", got)
	}
}

func TestAtMostHalfAreEjected(t *testing.T) {
	for count, most := range map[int]int{1: 0, 2: 1, 3: 1, 4: 2, 7: 3} {
		b, all := newBalancer(usual(balance.RoundRobin, newClock()), count)
		ejected := 0
		for _, e := range all {
			if fail(b, e, 20) {
				ejected++
			}
		}
		if ejected != most || len(counts(b, 100)) != count-most {
			t.Errorf("of %d endpoints %d were ejected, want %d", count, ejected, most)
		}
	}
}

// Who cannot be connected to comes last, however many there are, until somebody gets
// through or the time is over.
func TestAvoidance(t *testing.T) {
	c := newClock()
	b, all := newBalancer(usual(balance.RoundRobin, c), 3)
	b.Unconnected(all[0])
	b.Unconnected(all[1])
	if got := counts(b, 9); got[all[2]] != 9 {
		t.Errorf("got %v", got)
	}
	b.Succeeded(all[0])
	if got := counts(b, 8); got[all[0]] != 4 || got[all[2]] != 4 {
		t.Errorf("after an answer: %v", got)
	}
	c.advance(5 * time.Second)
	if got := counts(b, 9); len(got) != 3 {
		t.Errorf("after a while: %v", got)
	}
	for _, e := range all {
		b.Unconnected(e)
	}
	if got := counts(b, 9); len(got) != 3 {
		t.Errorf("with nobody else: %v", got)
	}
}

func TestPanic(t *testing.T) {
	b, all := newBalancer(usual(balance.RoundRobin, newClock()), 4)
	for i, want := range []int{3, 2, 4, 4} {
		b.SetHealthy(all[i], false)
		if got := len(counts(b, 100)); got != want {
			t.Errorf("with %d unhealthy, %d of 4 get requests, want %d", i+1, got, want)
		}
	}
	for _, e := range all {
		b.SetHealthy(e, true)
	}
	if got := len(counts(b, 100)); got != 4 {
		t.Errorf("with all of them well again: %d", got)
	}
}

func TestLeastRequest(t *testing.T) {
	b, all := newBalancer(usual(balance.LeastRequest, newClock()), 5)
	for range 10 {
		all[0].Begin()
	}
	if got := counts(b, 1000); got[all[0]] != 0 {
		t.Errorf("the busiest got %d", got[all[0]])
	}
	for range 1000 { // requests that do not end
		first(b, 0).Begin()
	}
	for _, e := range all {
		if n := e.InFlight(); n < 195 || n > 209 {
			t.Errorf("%s has %d of 1,010 requests", e.Address(), n)
		}
	}
	for range 10 {
		all[0].End()
	}
}

func TestWeights(t *testing.T) {
	for _, m := range []balance.Method{balance.RoundRobin, balance.LeastRequest, balance.Hash} {
		b, _ := newBalancer(usual(m, newClock()), 0)
		weights := []int{1, 2, 3, 10}
		all := make([]*balance.Endpoint, len(weights))
		for i, w := range weights {
			all[i] = balance.NewEndpoint(fmt.Sprint(i), "", w)
		}
		b.Replace(all)
		const n = 16000
		got := counts(b, n)
		for i, w := range weights {
			want, most := float64(n*w/16), 0.15
			if m == balance.LeastRequest {
				most = 0.4 // two that differ have to be drawn
			}
			if off := math.Abs(float64(got[all[i]])-want) / want; off > most {
				t.Errorf("method %d: weight %d got %d of %d", m, w, got[all[i]], n)
			}
		}
	}
}

// What comes back gets a tenth at first, and all of its share when the time is over.
func TestSlowStart(t *testing.T) {
	for _, m := range []balance.Method{balance.RoundRobin, balance.LeastRequest, balance.Hash} {
		c := newClock()
		cfg := usual(m, c)
		cfg.SlowStart = 100 * time.Second
		b, all := newBalancer(cfg, 2)
		fail(b, all[0], 5)
		c.advance(30 * time.Second)
		for _, at := range []struct {
			after time.Duration
			share float64
		}{{0, 0.1}, {10 * time.Second, 0.1}, {40 * time.Second, 0.5}, {50 * time.Second, 1}} {
			c.advance(at.after)
			got := counts(b, 4000)[all[0]]
			if want := 4000 * at.share / (1 + at.share); math.Abs(float64(got)-want) > want/4 {
				t.Errorf("method %d: %d of 4,000 after %v more, want about %.0f", m, got, at.after, want)
			}
		}
		// All that are there from the beginning have all of it.
		b, all = newBalancer(cfg, 2)
		if got := counts(b, 4000)[all[0]]; got < 1800 || got > 2200 {
			t.Errorf("method %d: %d of 4,000 at the beginning", m, got)
		}
		// What comes later has not.
		b.Replace(append(all, balance.NewEndpoint("192.0.2.200:80", "", 1)))
		if got := counts(b, 4000)[b.Endpoints()[2]]; got > 400 {
			t.Errorf("method %d: %d of 4,000 for one that comes", m, got)
		}
	}
}

// If one of n endpoints leaves, its keys move, and no others; if one comes, about a
// share of them does, all of them to it.
func TestHashMovesFew(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 40).Draw(t, "endpoints")
		leaves := rapid.IntRange(0, n-1).Draw(t, "who leaves")
		b, all := newBalancer(usual(balance.Hash, newClock()), n)
		const keys = 2000
		before := make([]*balance.Endpoint, keys)
		for i := range before {
			before[i] = first(b, balance.KeyOf(fmt.Sprint("key ", i)))
		}
		rest := append(append([]*balance.Endpoint(nil), all[:leaves]...), all[leaves+1:]...)
		b.Replace(rest)
		moved := 0
		for i, was := range before {
			is := first(b, balance.KeyOf(fmt.Sprint("key ", i)))
			switch {
			case is == all[leaves]:
				t.Fatal("a key is with who has left")
			case was == all[leaves]:
				moved++
			case is != was:
				t.Fatal("a key has moved whose endpoint has not")
			}
		}
		if most := keys/n + 6*int(math.Sqrt(keys/float64(n))) + 1; moved > most {
			t.Fatalf("%d of %d keys moved when one of %d left, want at most %d", moved, keys, n, most)
		}
	})
}

// The same key goes to the same endpoint at every proxy, in whatever order they know
// them, and through ejections of others.
func TestHashIsTheSameEverywhere(t *testing.T) {
	b, _ := newBalancer(usual(balance.Hash, newClock()), 10)
	other, reversed := newBalancer(usual(balance.Hash, newClock()), 10)
	for i, j := 0, len(reversed)-1; i < j; i, j = i+1, j-1 {
		reversed[i], reversed[j] = reversed[j], reversed[i]
	}
	other.Replace(reversed)
	fail(other, reversed[0], 5)
	for i := range 1000 {
		key := balance.KeyOf(fmt.Sprint(i))
		here, there := first(b, key), first(other, key)
		if here.Address() != reversed[0].Address() && here.Address() != there.Address() {
			t.Fatalf("key %d: %s and %s", i, here.Address(), there.Address())
		}
	}
	var at string
	for i := range 20 {
		at += strings.TrimPrefix(strings.TrimSuffix(first(b, balance.KeyOf(fmt.Sprint("cart-", i))).Address(), ":80"), "192.0.2.")
	}
	if at != "04970028141213360903" {
		t.Errorf("keys are at %s: they have moved with this release", at)
	}
	if balance.KeyOf("a", "b") == balance.KeyOf("ab") || balance.KeyOf("") == 0 {
		t.Error("keys that differ are the same")
	}
	got := map[*balance.Endpoint]int{}
	for range 100 {
		got[first(b, 0)]++
	}
	if len(got) != 10 {
		t.Errorf("requests without a key went to %d endpoints", len(got))
	}
}

func TestReplaceKeepsWhatIsKnown(t *testing.T) {
	c := newClock()
	b, all := newBalancer(usual(balance.RoundRobin, c), 3)
	fail(b, all[0], 5)
	choice := b.Choose(0)
	b.Replace(all[:2])
	if got := counts(b, 10); got[all[1]] != 10 {
		t.Errorf("got %v", got)
	}
	for range 3 { // one that has begun goes on
		if choice.Next() == nil {
			t.Error("an endpoint of before is missing")
		}
	}
	b.Replace(nil)
	if first(b, 0) != nil {
		t.Error("chosen of none")
	}
	none := balance.Choice{}
	if none.Next() != nil || none.More() || none.Better() {
		t.Error("the zero choice has some")
	}
	b, _ = newBalancer(usual(balance.RoundRobin, c), balance.MostEndpoints+1)
	if got := len(b.Endpoints()); got != balance.MostEndpoints {
		t.Errorf("%d endpoints", got)
	}
}

func TestConfig(t *testing.T) {
	b, _ := newBalancer(balance.Config{}, 2)
	fail(b, b.Endpoints()[0], 100)
	if got := len(counts(b, 10)); got != 2 {
		t.Errorf("the zero config passes over %d of 2", 2-got)
	}
	b, _ = newBalancer(balance.Config{
		Method: balance.Hash + 1, SlowStart: -1, Panic: -1,
		Ejection: balance.Ejection{After: -1, Time: -1, Most: -1, Percent: 1000, Avoid: -1},
	}, 2)
	fail(b, b.Endpoints()[0], 100)
	b.Unconnected(b.Endpoints()[1])
	if got := len(counts(b, 10)); got != 2 {
		t.Errorf("a config out of range passes over %d of 2", 2-got)
	}
}
