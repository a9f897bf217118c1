package authn_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/internal/authn"
)

// carried is a request that was let through, and is decided on again every second.
type carried struct {
	t        *testing.T
	g        *gate
	standing authn.Standing
	brought  authn.Credentials
	accept   authn.Accept
}

func (g *gate) carries(t *testing.T, raw string, accept authn.Accept) *carried {
	t.Helper()
	c := &carried{t: t, g: g, brought: bearerOf(raw), accept: accept}
	p, denial := g.Authenticate(t.Context(), c.brought, accept, g.now())
	if denial != nil {
		t.Fatalf("not let in: %s", denial.Reason)
	}
	c.standing = g.Stand(p, &accept)
	return c
}

// again is who sent it, or why that is not known any more.
func (c *carried) again() string {
	p, denial := c.g.Again(&c.standing, c.brought, c.accept, c.g.now())
	if denial != nil {
		return string(denial.Reason)
	}
	return strings.Join(append([]string{p.ID}, p.Groups...), " ")
}

// until decides again every second until something else comes of it, for so long.
func (c *carried) until(atMost time.Duration) (after time.Duration, what string) {
	before := c.again()
	for after < atMost {
		pass(time.Second)
		synctest.Wait()
		after += time.Second
		if what = c.again(); what != before {
			return after, what
		}
	}
	return after, before
}

// A token stands while the key is published that has signed it, whatever becomes of
// others.
func TestKeysOfWhatIsCarried(t *testing.T) {
	i := newIssuer("https://idp.example")
	i.client = &http.Client{Transport: refusing{}}
	of := func(set string) authn.Provider {
		p := i.provider("shop", "idp")
		p.JWKSURL, p.JWKS = "", set
		return p
	}
	var c clock
	signed := i.keySet("one", "two")
	raw := i.token("one", c.now(), nil)
	others := newIssuer("https://idp.example").keySet("one", "two") // by the same names
	for _, tc := range []struct{ name, set, want string }{
		{"the same", signed, "alice shop"},
		{"in another order", i.keySet("two", "one"), "alice shop"},
		{"one more", i.keySet("one", "two", "three"), "alice shop"},
		{"one less", i.keySet("one"), "alice shop"},
		{"all but its own", i.keySet("two", "three"), "token_unknown_key"},
		{"another by its name", others, "token_bad_signature"},
	} {
		g := newGateOf(t, i, of(signed), authn.Config{Now: c.now})
		s := g.carries(t, raw, shop)
		for range 2 {
			expect(t, tc.name+", before", s.again(), "alice shop")
		}
		g.Authenticator = g.pool.Sync([]authn.Provider{of(tc.set)})
		for range 2 {
			expect(t, tc.name, s.again(), tc.want)
		}
		expect(t, tc.name+", who comes now", g.ask(raw), strings.TrimSuffix(tc.want, " shop"))
		g.Authenticator = g.pool.Sync([]authn.Provider{of(signed)})
		expect(t, tc.name+", and back", s.again(), "alice shop")
	}
}

// Keys that are fetched are withdrawn when the issuer does not publish them any more,
// and those that nobody could fetch for too long are of no use.
func TestKeysAreWithdrawnWhileCarried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := inBubble(t, "https://idp.example")
		i.publish("one", "two")
		g := newGate(t, i, authn.Config{Now: time.Now, Refresh: time.Minute, MaxAge: time.Hour})
		end := jwt.MapClaims{"exp": time.Now().Add(24 * time.Hour).Unix()}
		first, second := g.carries(t, i.token("one", time.Now(), end), shop), g.carries(t, i.token("two", time.Now(), end), shop)
		expect(t, "both are published", first.again(), "alice shop")
		i.publish("two", "three")
		if after, what := first.until(2 * time.Minute); what != "token_unknown_key" || after > 61*time.Second {
			t.Errorf("%s after %v", what, after)
		}
		expect(t, "the other one", second.again(), "alice shop")
		i.answerWith(status(http.StatusInternalServerError, ""))
		if after, what := second.until(2 * time.Hour); what != "keys_unavailable" || after < 58*time.Minute || after > 62*time.Minute {
			t.Errorf("%s after %v without keys", what, after)
		}
		i.publish("two", "three")
		pass(time.Minute)
		expect(t, "fetched again", second.again(), "alice shop")
	})
}

// What an issuer has said is asked for again when it has ceased to count, and what it
// says then counts at once; an issuer that does not answer is waited for as long again.
func TestIntrospectionOfWhatIsCarried(t *testing.T) {
	strict := shop
	strict.Introspected = true
	const opaque = "ory_at_1"
	for _, tc := range []struct {
		name        string
		raw         string // a JWT when empty
		accept      authn.Accept
		cache       time.Duration
		becomes     func(*issuer, *registry, string)
		want        string
		least, most time.Duration
	}{
		{"nothing happens", "", strict, time.Minute, func(*issuer, *registry, string) {}, "alice shop", time.Hour, time.Hour},
		{"nothing happens to one that nobody reads", opaque, shop, time.Minute, func(*issuer, *registry, string) {}, "alice shop", time.Hour, time.Hour},
		{"withdrawn", "", strict, time.Minute, forgotten, "token_inactive", time.Minute, 62 * time.Second},
		{"withdrawn, that nobody reads", opaque, shop, time.Minute, forgotten, "token_inactive", time.Minute, 62 * time.Second},
		{"withdrawn, at a route that does not ask", "", shop, time.Minute, forgotten, "alice shop", time.Hour, time.Hour},
		{"withdrawn, where nothing is remembered", opaque, shop, -1, forgotten, "token_inactive", time.Second, 8 * time.Second},
		{"of other groups", opaque, shop, time.Minute, func(_ *issuer, r *registry, raw string) {
			r.knows(raw, time.Now().Add(24*time.Hour), jwt.MapClaims{"groups": []string{"visitors"}})
		}, "alice visitors", time.Minute, 62 * time.Second},
		{"somebody else's", opaque, shop, time.Minute, func(_ *issuer, r *registry, raw string) {
			r.knows(raw, time.Now().Add(24*time.Hour), jwt.MapClaims{"sub": "mallory"})
		}, "token_inactive", time.Minute, 62 * time.Second},
		{"the issuer fails", "", strict, time.Minute, func(i *issuer, _ *registry, _ string) {
			set := i.keySet("one")
			i.answerWith(func(w http.ResponseWriter, req *http.Request) {
				if req.URL.Path == "/jwks" {
					say(w, set)
					return
				}
				w.WriteHeader(http.StatusInternalServerError)
			})
		}, "introspection_unavailable", 2 * time.Minute, 123 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := inBubble(t, "https://idp.example")
				r := i.introspects(t)
				p := i.asks(r)
				p.Introspection.Cache = tc.cache
				g := newGateOf(t, i, p, authn.Config{Now: time.Now})
				raw := tc.raw
				if raw == "" {
					raw = i.token("one", time.Now(), jwt.MapClaims{"exp": time.Now().Add(24 * time.Hour).Unix()})
				}
				r.knows(raw, time.Now().Add(24*time.Hour), nil)
				s := g.carries(t, raw, tc.accept)
				expect(t, "at first", s.again(), "alice shop")
				tc.becomes(i, r, raw)
				if after, what := s.until(time.Hour); what != tc.want || after < tc.least || after > tc.most {
					t.Errorf("%s after %v, want %s", what, after, tc.want)
				}
				if tc.least == time.Hour && tc.accept.Introspected && (r.asked.Load() < 55 || r.asked.Load() > 62) {
					t.Errorf("asked %d times in an hour", r.asked.Load())
				}
			})
		})
	}
}

func forgotten(_ *issuer, r *registry, raw string) { r.forgets(raw) }

// An issuer that is back in time has lost nobody, and one that cannot be asked any more
// vouches for nobody.
func TestIssuerIsAwayWhileCarried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := inBubble(t, "https://idp.example")
		r := i.introspects(t)
		p := i.asks(r)
		g := newGateOf(t, i, p, authn.Config{Now: time.Now})
		s := g.carries(t, r.knows("ory_at_1", time.Now().Add(24*time.Hour), nil), shop)
		expect(t, "at first", s.again(), "alice shop")
		well := *i.answer.Load()
		i.answerWith(status(http.StatusInternalServerError, ""))
		if after, what := s.until(110 * time.Second); what != "alice shop" {
			t.Errorf("%s after %v", what, after)
		}
		i.answerWith(well)
		if after, what := s.until(time.Hour); what != "alice shop" {
			t.Errorf("%s after %v, the issuer being back", what, after)
		}
		g.Authenticator = g.pool.Sync([]authn.Provider{i.provider("shop", "idp")})
		expect(t, "nobody to ask", s.again(), "introspection_unavailable")
	})
}
