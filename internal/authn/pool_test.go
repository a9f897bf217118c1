package authn_test

import (
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/internal/authn"
)

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func TestNewRefuses(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	taken := prometheus.NewRegistry()
	if _, err := authn.New(authn.Config{Log: log, Registerer: taken}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]authn.Config{
		"no logger":           {},
		"negative interval":   {Log: log, Refresh: -1},
		"negative cool-down":  {Log: log, CoolDown: -1},
		"negative age":        {Log: log, MaxAge: -1},
		"negative time limit": {Log: log, Timeout: -1},
		"negative wait":       {Log: log, Wait: -1},
		"negative entries":    {Log: log, CacheEntries: -1},
		"metrics twice":       {Log: log, Registerer: taken},
	} {
		if _, err := authn.New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A new snapshot that leaves a provider alone costs nothing; one that changes
// its rules keeps its keys; one that changes its URL starts afresh.
func TestSync(t *testing.T) {
	var c clock
	i, moved := overTLS(t, "https://idp.example"), overTLS(t, "https://idp.example")
	g := newGate(t, i, authn.Config{Now: c.now, Wait: time.Minute})
	raw := i.token("one", c.now(), jwt.MapClaims{"aud": []string{"orders", "billing"}})
	misses := func() string { return g.metric(`sallyport_token_cache_lookups_total{result="miss"}`) }
	expect(t, "at first", g.ask(raw), "alice")
	expect(t, "misses", misses(), "1")

	same := i.provider("shop", "idp")
	g.Authenticator = g.pool.Sync([]authn.Provider{same, i.provider("billing", "idp")})
	expect(t, "provider untouched", g.ask(raw), "alice")
	expect(t, "misses", misses(), "1")

	old := g.Authenticator
	narrowed := same
	narrowed.Audiences = []string{"returns"}
	g.Authenticator = g.pool.Sync([]authn.Provider{narrowed})
	narrowed.Audiences[0] = "orders" // the caller's own slice
	expect(t, "rules changed, token remembered", g.ask(raw), "token_wrong_audience")
	expect(t, "a request of the snapshot before", outcome(t, old, bearerOf(raw), shop, c.now()), "alice")
	if got := i.fetches.Load(); got > 2 { // shop/idp and, unless it was too short-lived, billing/idp
		t.Errorf("%d fetches", got)
	}

	patient := same
	patient.Leeway = 2 * time.Minute
	g.Authenticator = g.pool.Sync([]authn.Provider{patient})
	expect(t, "leeway changed", g.ask(i.token("one", c.now(), jwt.MapClaims{"exp": c.now().Add(-time.Minute).Unix()})), "alice")

	elsewhere := same
	elsewhere.JWKSURL = moved.jwksURL
	g.Authenticator = g.pool.Sync([]authn.Provider{elsewhere})
	expect(t, "signed by the keys before", g.ask(raw), "token_bad_signature")
	expect(t, "signed by the keys now", g.ask(moved.token("one", c.now(), nil)), "alice")

	g.Authenticator = g.pool.Sync(nil)
	expect(t, "provider removed", g.ask(raw), "token_wrong_issuer")
	expect(t, "metrics of the removed", g.metric(`sallyport_jwks_fetches_total{provider="shop/idp",result="ok"}`), "")
}

// The proof of what is enforced reads the digests of what is really in use.
func TestProvidersInUse(t *testing.T) {
	pool, err := authn.New(authn.Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	good := authn.Provider{Namespace: "a", Name: "good", Digest: [32]byte{1}, JWKSURL: "https://idp.example/jwks", Audiences: []string{"x"}}
	bad := authn.Provider{Namespace: "a", Name: "bad", Digest: [32]byte{2}, JWKSURL: "http://idp.example/jwks"}
	digests := func(a *authn.Authenticator) (all []byte) {
		for p := range a.Providers() {
			all = append(all, p.Digest[0])
		}
		return all
	}
	if got := digests(pool.Sync([]authn.Provider{good, bad})); !slices.Equal(got, []byte{1}) {
		t.Errorf("in use: %v", got)
	}
	good.Digest = [32]byte{3}
	if got := digests(pool.Sync([]authn.Provider{good})); !slices.Equal(got, []byte{3}) {
		t.Errorf("in use after a change: %v", got)
	}
}

// A removed provider is not asked any more; one that comes before Run is asked
// when Run starts. The bubble does not end before all goroutines have.
func TestFetchersComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := inBubble(t, "https://idp.example")
		g := newGate(t, i, authn.Config{Now: time.Now})
		pass(time.Minute)
		expectFetches(t, i, "in service", 1, 1)
		var many []authn.Provider
		for n := range 20 {
			many = append(many, i.provider("shop", fmt.Sprint("idp-", n)))
		}
		g.pool.Sync(many)
		pass(time.Minute)
		expectFetches(t, i, "twenty others", 21, 21)
		pass(210 * time.Second)
		expectFetches(t, i, "some again, not all in step", 22, 40)
		g.pool.Sync(nil)
		synctest.Wait()
		before := i.fetches.Load()
		pass(time.Hour)
		expectFetches(t, i, "none", before, before)

		i.answerWith(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		g.pool.Sync([]authn.Provider{i.provider("shop", "idp")})
		expectFetches(t, i, "one that hangs", before+1, before+1)
		g.pool.Sync(nil)
		synctest.Wait()
		expect(t, "fetch given up, not failed", g.metric(`sallyport_jwks_fetches_total{provider="shop/idp",result="unreachable"}`), "")
	})
}
