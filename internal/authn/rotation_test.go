package authn_test

import (
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/internal/authn"
)

// An issuer that goes over to another key, again and again, costs no valid
// request anything but a moment: those that come meanwhile wait for one fetch.
func TestRotationUnderLoad(t *testing.T) {
	const perSecond, rotations, every = 2000, 4, 11 * time.Second
	synctest.Test(t, func(t *testing.T) {
		i := inBubble(t, "https://idp.example")
		serve := func(kids ...string) {
			set := i.keySet(kids...)
			i.answerWith(func(w http.ResponseWriter, _ *http.Request) {
				pass(300 * time.Millisecond) // as far away as an issuer is
				say(w, set)
			})
		}
		kid := func(n int) string { return fmt.Sprint("key-", n) }
		serve(kid(0))
		g := newGate(t, i, authn.Config{Now: time.Now})
		pass(time.Second)
		var all sync.WaitGroup
		asked, began := 0, time.Now()
		var refused atomic.Int64
		raw := []string{i.token(kid(0), time.Now().Add(time.Hour), nil)}
		for n := range rotations {
			raw = append(raw, i.token(kid(n+1), time.Now().Add(time.Hour), nil))
			serve(kid(n), kid(n+1))
			for range perSecond * int(every/time.Second) {
				who := raw[len(raw)-1-asked%2] // of the key before, and of the one now
				asked++
				all.Go(func() {
					if g.ask(who) != "alice" {
						refused.Add(1)
					}
				})
				pass(time.Second / perSecond)
			}
		}
		rate := float64(asked) / time.Since(began).Seconds()
		all.Wait()
		if refused.Load() > 0 {
			t.Errorf("%d of %d valid requests were refused", refused.Load(), asked)
		}
		if got := i.fetches.Load(); got < 1+rotations || got > 2+2*rotations {
			t.Errorf("%d fetches", got)
		}
		if rate != perSecond {
			t.Errorf("%.0f requests were sent in a second", rate)
		}
		fmt.Printf("%d rotations, %d requests, %.0f in a second\n", rotations, asked, rate)
		fmt.Printf("figure rotation_at_2000_per_second_refused %d requests\n", refused.Load())
	})
}

// A hundred thousand made-up keys bring one fetch in a cool-down, and nothing
// that stays.
func TestRandomKids(t *testing.T) {
	const kids, every = 100_000, 2000
	var c clock
	i := overTLS(t, "https://idp.example")
	g := newGate(t, i, authn.Config{Now: c.now, Wait: time.Minute, Refresh: 24 * time.Hour})
	good := i.token("one", c.now().Add(time.Hour), nil)
	expect(t, "good token", g.ask(good), "alice")
	before, used := i.fetches.Load(), heap()
	for n := range kids {
		forged := b64(fmt.Sprintf(`{"alg":"ES256","kid":"%d"}`, n)) + good[strings.IndexByte(good, '.'):]
		if got := g.ask(forged); got != "token_unknown_key" {
			t.Fatalf("forged token: %s", got)
		}
		if n%every == every-1 {
			c.advance(time.Second)
			expect(t, "good token meanwhile", g.ask(good), "alice")
		}
	}
	fetches, coolDowns := i.fetches.Load()-before, int64(kids/every/10)
	if fetches > coolDowns+1 {
		t.Errorf("%d fetches in %d cool-downs", fetches, coolDowns)
	}
	if grown := int64(heap()) - int64(used); grown > 1<<20 {
		t.Errorf("%d bytes more are in use", grown)
	}
	fmt.Printf("figure jwks_fetches_for_100k_random_kids %d fetches\n", fetches)
}

// heap returns the bytes that are in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A kid that was not there is not asked for again for a while, and makes nobody
// wait; a background fetch brings it all the same.
func TestAbsentKid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := inBubble(t, "https://idp.example")
		g := newGate(t, i, authn.Config{Now: time.Now, Refresh: 25 * time.Second})
		expect(t, "first fetch", g.ask(i.token("one", time.Now(), nil)), "alice")
		old, next := i.token("old", time.Now().Add(time.Hour), nil), i.token("next", time.Now().Add(time.Hour), nil)
		expect(t, "absent", g.ask(old), "token_unknown_key")
		expectFetches(t, i, "asked for", 2, 2)
		i.publish("one", "next")
		pass(11 * time.Second)
		expect(t, "absent, beyond the cool-down", g.ask(old), "token_unknown_key")
		expectFetches(t, i, "not asked for again", 2, 2)
		expect(t, "another", g.ask(next), "alice")
		expectFetches(t, i, "asked for", 3, 3)
		i.publish("old")
		expect(t, "absent, before the background fetch", g.ask(old), "token_unknown_key")
		pass(26 * time.Second)
		expect(t, "brought by the background fetch", g.ask(old), "alice")
	})
}

// A new key may have the name of the old one: a signature that does not fit
// brings a fetch, too, in the same cool-down.
func TestSameKidAnotherKey(t *testing.T) {
	var c clock
	i := overTLS(t, "https://idp.example")
	g := newGate(t, i, authn.Config{Now: c.now, Wait: time.Minute})
	old := i.token("one", c.now().Add(time.Hour), nil)
	expect(t, "before", g.ask(old), "alice")
	i.replace("one")
	i.publish("one")
	fresh := i.token("one", c.now().Add(time.Hour), jwt.MapClaims{"sub": "bob"})
	asked := i.fetches.Load()
	expect(t, "new key of the same name", g.ask(fresh), "bob")
	expect(t, "old key, token remembered", g.ask(old), "token_bad_signature")
	if got := i.fetches.Load() - asked; got != 1 {
		t.Errorf("%d fetches", got)
	}
	i.replace("one")
	i.publish("one")
	again := i.token("one", c.now().Add(time.Hour), jwt.MapClaims{"sub": "carol"})
	expect(t, "within the cool-down", g.ask(again), "token_bad_signature")
	c.advance(10 * time.Second)
	expect(t, "after it", g.ask(again), "carol")
	for range 100 {
		g.ask(fresh)
	}
	if got := i.fetches.Load() - asked; got != 2 {
		t.Errorf("%d fetches", got)
	}
}
