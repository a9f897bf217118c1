package authn_test

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/token"
)

// Whatever came before, a token is worth what it would be worth to a proxy that
// has never seen one: through changes of keys and rules, time that goes forth
// and back, tokens that resemble each other, and a cache that is far too small.
func FuzzTokenCache(f *testing.F) {
	i := newIssuer("https://idp.example")
	start := new(clock).now()
	tokens := fuzzTokens(i, start)
	providers := fuzzProviders(i)
	f.Add([]byte{0, 0, 0, 1, 80, 0, 2, 0, 0, 81, 0, 0})
	f.Add([]byte{0, 1, 0, 1, 64, 0, 1, 65, 0, 1, 66, 0, 1, 67, 0, 1})
	f.Add([]byte{0, 5, 128, 5, 129, 5, 200, 5, 0, 6, 0, 7, 68, 0, 5})
	f.Fuzz(func(t *testing.T, steps []byte) {
		pool, err := authn.New(authn.Config{Log: slog.New(slog.DiscardHandler), CacheEntries: 1})
		if err != nil {
			t.Fatal(err)
		}
		spec, now := providers[0], start
		gate := pool.Sync(providers[:1])
		for n, step := range steps {
			switch argument := int(step & 63); step >> 6 {
			case 0:
				raw := tokens[argument%len(tokens)]
				if got, want := outcome(t, gate, bearerOf(raw), shop, now), afresh(t, spec, raw, now); got != want {
					t.Fatalf("step %d of %v: %s, want %s", n, steps, got, want)
				}
			case 1:
				spec = providers[argument%len(providers)]
				gate = pool.Sync([]authn.Provider{spec})
			case 2:
				now = now.Add(time.Duration(argument) * 7 * time.Second)
			case 3:
				now = now.Add(-time.Duration(argument) * 5 * time.Second)
			}
		}
	})
}

func fuzzTokens(i *issuer, now time.Time) []string {
	good := i.token("one", now, nil)
	end := good[strings.LastIndexByte(good, '.'):]
	other := i.token("two", now, jwt.MapClaims{"sub": "bob", "iat": now.Unix(), "nbf": now.Unix()})
	return []string{
		good, good + "A", good[:len(good)-4], "x" + good, end[1:],
		other, other[:strings.LastIndexByte(other, '.')] + end,
		i.token("one", now, jwt.MapClaims{"exp": now.Add(20 * time.Second).Unix()}),
		i.token("one", now, jwt.MapClaims{"aud": []string{"billing", "orders"}, "groups": []string{"a"}}),
		i.token("three", now, nil),
	}
}

// fuzzProviders differ in one thing each.
func fuzzProviders(i *issuer) []authn.Provider {
	with := func(change func(*authn.Provider), kids ...string) authn.Provider {
		p := i.provider("shop", "idp")
		p.JWKSURL, p.JWKS = "", i.keySet(kids...)
		change(&p)
		return p
	}
	same := func(*authn.Provider) {}
	return []authn.Provider{
		with(same, "one", "two"), with(same, "one"), with(same, "two"), with(same, "two", "one"),
		with(func(p *authn.Provider) { p.Audiences = []string{"billing"} }, "one", "two"),
		with(func(p *authn.Provider) { p.Leeway = token.NoLeeway }, "one", "two"),
		with(func(p *authn.Provider) { p.GroupsClaim = "sub" }, "one", "two"),
		with(func(p *authn.Provider) { p.MaxLifetime = time.Minute }, "one", "two"),
	}
}

// afresh is what a token is worth without any memory.
func afresh(t *testing.T, p authn.Provider, raw string, now time.Time) string {
	keys, err := token.ParseKeySet([]byte(p.JWKS))
	if err != nil {
		t.Fatal(err)
	}
	c, err := token.Verify(raw, token.Rules{
		Issuer: p.Issuer, Audiences: p.Audiences, GroupsClaim: p.GroupsClaim, Leeway: p.Leeway, MaxLifetime: p.MaxLifetime,
	}, keys, now)
	if refused := new(token.Error); errors.As(err, &refused) {
		return "token_" + string(refused.Reason)
	}
	return c.Subject
}
