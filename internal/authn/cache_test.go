package authn_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/internal/authn"
)

// A remembered token is held against the clock of each request.
func TestRememberedTokenExpires(t *testing.T) {
	var c clock
	i := overTLS(t, "https://idp.example")
	g := newGate(t, i, authn.Config{Now: c.now, Wait: time.Minute})
	raw := i.token("one", c.now(), jwt.MapClaims{"nbf": c.now().Unix(), "exp": c.now().Add(time.Minute).Unix()})
	expect(t, "first", g.ask(raw), "alice")
	c.advance(89 * time.Second)
	expect(t, "last second of the leeway", g.ask(raw), "alice")
	c.advance(time.Second)
	expect(t, "beyond the leeway", g.ask(raw), "token_expired")
	c.advance(-90*time.Second - 31*time.Second)
	expect(t, "clock set back before nbf", g.ask(raw), "token_not_yet_valid")
	expect(t, "misses", g.metric(`sallyport_token_cache_lookups_total{result="miss"}`), "1")
	expect(t, "hits", g.metric(`sallyport_token_cache_lookups_total{result="hit"}`), "3")
}

// Rubbish takes no room, however much of it there is.
func TestRubbishIsNotRemembered(t *testing.T) {
	var c clock
	i := overTLS(t, "https://idp.example")
	g := newGate(t, i, authn.Config{Now: c.now, Wait: time.Minute, CacheEntries: 64})
	raw := i.token("one", c.now(), nil)
	expect(t, "good", g.ask(raw), "alice")
	for n := range 1000 {
		g.ask("rubbish" + strconv.Itoa(n))
		if n%10 == 0 {
			g.ask(i.token("one", c.now(), jwt.MapClaims{"aud": "billing", "n": n}))
		}
	}
	hits := `sallyport_token_cache_lookups_total{result="hit"}`
	expect(t, "hits of rubbish", g.metric(hits), "0")
	expect(t, "good", g.ask(raw), "alice")
	expect(t, "hits", g.metric(hits), "1")
}

// The cache is bounded, by number and by size, and full is not broken.
func TestCacheIsBounded(t *testing.T) {
	for name, pad := range map[string]int{"many": 0, "large": 11 << 10} {
		t.Run(name, func(t *testing.T) {
			var c clock
			i := overTLS(t, "https://idp.example")
			g := newGate(t, i, authn.Config{Now: c.now, Wait: time.Minute, CacheEntries: 256})
			tokens := make([]string, 600)
			for n := range tokens {
				tokens[n] = i.token("one", c.now(), jwt.MapClaims{"sub": fmt.Sprint("user-", n), "pad": strings.Repeat("x", pad)})
				expect(t, "first", g.ask(tokens[n]), fmt.Sprint("user-", n))
			}
			for n := range tokens {
				expect(t, "again", g.ask(tokens[n]), fmt.Sprint("user-", n))
			}
			held, most := authn.Held(g.pool)
			if held == 0 || held > 256 || most > 16<<10 {
				t.Errorf("%d tokens held, %d bytes in a shard", held, most)
			}
		})
	}
}

// A token that is verified again, because keys came or went, is held once.
func TestVerifiedAgain(t *testing.T) {
	var c clock
	i := overTLS(t, "https://idp.example")
	g := newGate(t, i, authn.Config{Now: c.now, Wait: time.Minute})
	raw := i.token("one", c.now(), nil)
	for n := range 5 {
		expect(t, "token", g.ask(raw), "alice")
		i.publish("one", fmt.Sprint("key-", n))
		c.advance(10 * time.Second)
		expect(t, "unknown key", g.ask(i.token(fmt.Sprint("none-", n), c.now(), nil)), "token_unknown_key")
	}
	expect(t, "token", g.ask(raw), "alice")
	expect(t, "hits", g.metric(`sallyport_token_cache_lookups_total{result="hit"}`), "0")
	if held, most := authn.Held(g.pool); held != 1 || most != len(raw) {
		t.Errorf("%d tokens held, %d bytes; want one of %d", held, most, len(raw))
	}
}

// A token is found by its end, and counts only when all of it is the same.
func TestTokensThatEndAlike(t *testing.T) {
	var c clock
	i := overTLS(t, "https://idp.example")
	g := newGate(t, i, authn.Config{Now: c.now, Wait: time.Minute, CoolDown: time.Hour})
	raw := i.token("one", c.now(), nil)
	signature := raw[strings.LastIndexByte(raw, '.'):]
	inflated := i.token("one", c.now(), jwt.MapClaims{"sub": "bob", "pad": strings.Repeat("x", 1000)})
	expect(t, "as it was signed", g.ask(raw), "alice")
	for name, forged := range map[string]string{
		"claims of another":      inflated[:strings.LastIndexByte(inflated, '.')] + signature,
		"last character of them": raw[:len(raw)-len(signature)-1] + "A" + signature,
		"end alone":              signature[1:],
		"something before":       "x" + raw,
	} {
		if got := g.ask(forged); !strings.HasPrefix(got, "token_") {
			t.Errorf("%s: %s", name, got)
		}
	}
	expect(t, "hits of the forged", g.metric(`sallyport_token_cache_lookups_total{result="hit"}`), "0")
	expect(t, "as it was signed", g.ask(raw), "alice")
	expect(t, "hits", g.metric(`sallyport_token_cache_lookups_total{result="hit"}`), "1")
}

// BenchmarkRemembered is what each request but the first of a token costs.
func BenchmarkRemembered(b *testing.B) {
	for name, pad := range map[string]int{"300B": 0, "1KiB": 550, "4KiB": 2900} {
		b.Run(name, func(b *testing.B) {
			var c clock
			i := overTLS(b, "https://idp.example")
			g := newGate(b, i, authn.Config{Now: c.now, Wait: time.Minute})
			cred, now, ctx := bearerOf(i.token("one", c.now(), jwt.MapClaims{"pad": strings.Repeat("x", pad)})), c.now(), b.Context()
			g.Authenticate(ctx, cred, shop, now)
			b.ReportAllocs()
			b.SetBytes(int64(len(cred.Header["Authorization"][0])))
			for b.Loop() {
				if p, _ := g.Authenticate(ctx, cred, shop, now); p == nil {
					b.Fatal("denied")
				}
			}
		})
	}
}

// BenchmarkTokenCacheHit prints the figure of BenchmarkRemembered for a token of
// a usual size: the fastest of many rounds, because what else the machine does
// can only add to it.
func BenchmarkTokenCacheHit(b *testing.B) {
	const rounds, each = 200, 2000
	var c clock
	i := overTLS(b, "https://idp.example")
	g := newGate(b, i, authn.Config{Now: c.now, Wait: time.Minute})
	cred, now, ctx := bearerOf(i.token("one", c.now(), jwt.MapClaims{"pad": strings.Repeat("x", 550)})), c.now(), b.Context()
	hit := func() {
		if p, _ := g.Authenticate(ctx, cred, shop, now); p == nil {
			b.Fatal("denied")
		}
	}
	hit()
	var fastest time.Duration
	for b.Loop() {
		for range rounds {
			start := time.Now()
			for range each {
				hit()
			}
			if took := time.Since(start); fastest == 0 || took < fastest {
				fastest = took
			}
		}
	}
	fmt.Printf("figure token_cache_hit %.0f ns\n", float64(fastest)/each)
	fmt.Printf("figure token_cache_hit_allocations %.0f allocs\n", testing.AllocsPerRun(1000, hit))
}

// A remembered token costs no memory, or the figure would not be one.
func TestHitsDoNotAllocate(t *testing.T) {
	var c clock
	i := overTLS(t, "https://idp.example")
	g := newGate(t, i, authn.Config{Now: c.now, Wait: time.Minute})
	cred, now, ctx := bearerOf(i.token("one", c.now(), nil)), c.now(), t.Context()
	g.Authenticate(ctx, cred, shop, now)
	if got := testing.AllocsPerRun(1000, func() { g.Authenticate(ctx, cred, shop, now) }); got != 0 {
		t.Errorf("%v allocations", got)
	}
}

// BenchmarkFirst is what the first request of a token costs.
func BenchmarkFirst(b *testing.B) {
	var c clock
	i := overTLS(b, "https://idp.example")
	g := newGate(b, i, authn.Config{Now: c.now, Wait: time.Minute, CacheEntries: 1})
	creds := make([]authn.Credentials, 4096)
	for n := range creds {
		creds[n] = bearerOf(i.token("one", c.now(), jwt.MapClaims{"n": n}))
	}
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if p, _ := g.Authenticate(b.Context(), creds[n%len(creds)], shop, c.now()); p == nil {
			b.Fatal("denied")
		}
	}
}

// BenchmarkRubbish is what a forged token costs.
func BenchmarkRubbish(b *testing.B) {
	var c clock
	i := overTLS(b, "https://idp.example")
	g := newGate(b, i, authn.Config{Now: c.now, Wait: time.Minute, CoolDown: time.Hour})
	for name, raw := range map[string]string{
		"Malformed":    "rubbish",
		"UnknownKey":   i.token("two", c.now(), nil),
		"BadSignature": overTLS(b, "https://idp.example").token("one", c.now(), nil),
	} {
		b.Run(name, func(b *testing.B) {
			g.ask(raw)
			b.ReportAllocs()
			for b.Loop() {
				if g.ask(raw) == "alice" {
					b.Fatal("let in")
				}
			}
		})
	}
}
