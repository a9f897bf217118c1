package authn_test

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/session"
)

const (
	sessionHits   = `sallyport_session_cache_lookups_total{result="hit"}`
	sessionMisses = `sallyport_session_cache_lookups_total{result="miss"}`
)

// browser is one that has signed in at shop/idp.
type browser struct {
	t     testing.TB
	at    authn.Browser
	value string
}

func newRing(t testing.TB, environment string, keys ...session.Key) *session.Ring {
	t.Helper()
	r, err := session.NewRing(environment, keys...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func signIn(t testing.TB, r *session.Ring, subject string, now time.Time) *browser {
	t.Helper()
	s := session.Session{
		Provider: "shop/idp", Issuer: "https://idp.example", Subject: subject, ID: "sid-" + subject, Groups: []string{"shop", "web"},
		Claims: map[string]any{"email": subject + "@example.com"}, SignedIn: now, Expires: now.Add(time.Hour),
	}
	value, err := s.Seal(r, "a.example", now)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t, authn.Browser{Keys: r, Host: "a.example", Origin: "https://a.example", Method: http.MethodGet}, value}
}

func (b *browser) credentials() authn.Credentials {
	return authn.Credentials{Header: map[string][]string{"Cookie": {session.CookieName + "=" + b.value}}, Browser: b.at}
}

// visits asks a route whose sessions last as long.
func (b *browser) visits(g *gate, lasts time.Duration) string {
	b.t.Helper()
	return outcome(b.t, g.Authenticator, b.credentials(), sessionsOf(lasts), g.now())
}

func sessionsOf(lasts time.Duration) authn.Accept {
	return authn.Accept{Sessions: authn.Sessions{Provider: authn.ProviderName{Namespace: "shop", Name: "idp"}, Lifetime: lasts}}
}

// Of a session that was opened before, nothing is taken for granted but what is in
// it: each of these is refused as if it had never been there.
func TestOpenedSessionIsJudgedEachTime(t *testing.T) {
	var c clock
	now := c.now()
	key, next := session.NewKey(now), session.NewKey(now.Add(time.Minute))
	renamed := next
	renamed.ID = key.ID
	ring := newRing(t, "aws", key)
	for _, tc := range []struct {
		what string
		do   func(*browser, *clock)
		want string
	}{
		{"it", func(*browser, *clock) {}, "alice"},
		{"its last second", func(_ *browser, c *clock) { c.advance(time.Hour - time.Second) }, "alice"},
		{"expired", func(_ *browser, c *clock) { c.advance(time.Hour) }, "session_expired"},
		{"with a key beside its own", func(b *browser, _ *clock) { b.at.Keys = newRing(t, "aws", next, key) }, "alice"},
		{"its key retired", func(b *browser, _ *clock) { b.at.Keys = newRing(t, "aws", next) }, "session_invalid"},
		{"another key of that name", func(b *browser, _ *clock) { b.at.Keys = newRing(t, "aws", renamed) }, "session_invalid"},
		{"another environment", func(b *browser, _ *clock) { b.at.Keys = newRing(t, "gcp", key) }, "session_invalid"},
		{"no keys", func(b *browser, _ *clock) { b.at.Keys = nil }, "session_keys_unavailable"},
		{"another host", func(b *browser, _ *clock) { b.at.Host = "b.example" }, "session_invalid"},
		{"a page of another site", func(b *browser, _ *clock) { b.at.Method = http.MethodPost }, "cross_site"},
		{"a character changed", func(b *browser, _ *clock) { b.value = b.value[:100] + "~" + b.value[101:] }, "session_invalid"},
		{"its end alone", func(b *browser, _ *clock) { b.value = b.value[8:] }, "session_invalid"},
		{"something behind it", func(b *browser, _ *clock) { b.value += "A" }, "session_invalid"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			var c clock
			g := newGate(t, overTLS(t, "https://idp.example"), authn.Config{Now: c.now, Wait: time.Minute})
			b := signIn(t, ring, "alice", now)
			expect(t, "first", b.visits(g, time.Hour), "alice")
			tc.do(b, &c)
			expect(t, tc.what, b.visits(g, time.Hour), tc.want)
		})
	}
}

// A route whose sessions are shorter says so to a session that another remembers,
// and takes nothing from it.
func TestOpenedSessionOnAShorterRoute(t *testing.T) {
	var c clock
	g := newGate(t, overTLS(t, "https://idp.example"), authn.Config{Now: c.now, Wait: time.Minute})
	b := signIn(t, newRing(t, "aws", session.NewKey(c.now())), "alice", c.now())
	start := c.now()
	for _, lasts := range []time.Duration{time.Hour, time.Minute, 2 * time.Hour} {
		p, _ := g.Authenticate(t.Context(), b.credentials(), sessionsOf(lasts), c.now())
		if want := start.Add(min(lasts, time.Hour)); p == nil || !p.Expires.Equal(want) {
			t.Errorf("%s: %+v, want until %s", lasts, p, want)
		}
	}
	expect(t, "opened", g.metric(sessionMisses), "1")
	expect(t, "found", g.metric(sessionHits), "2")
	c.advance(time.Minute)
	expect(t, "the shorter one", b.visits(g, time.Minute), "session_expired")
	expect(t, "the longer one", b.visits(g, time.Hour), "alice")
}

// What nobody has sealed takes no room, nor does what has expired; and who is
// remembered by a cookie is nobody as a token.
func TestForeignCookiesAreNotRemembered(t *testing.T) {
	var c clock
	g := newGate(t, overTLS(t, "https://idp.example"), authn.Config{Now: c.now, Wait: time.Minute, CacheEntries: 64})
	ring := newRing(t, "aws", session.NewKey(c.now()))
	late := signIn(t, ring, "carol", c.now())
	c.advance(2 * time.Hour)
	b := signIn(t, ring, "alice", c.now())
	expect(t, "good", b.visits(g, time.Hour), "alice")
	for n := range 1000 {
		forged := *b
		forged.value = b.value[:len(b.value)-len(strconv.Itoa(n))-1] + "-" + strconv.Itoa(n)
		forged.visits(g, time.Hour)
	}
	expect(t, "expired", late.visits(g, 24*time.Hour), "session_expired")
	expect(t, "good", b.visits(g, time.Hour), "alice")
	expect(t, "found", g.metric(sessionHits), "1")
	if held, _ := authn.Held(g.pool); held != 1 {
		t.Errorf("%d are held", held)
	}
	both := shop
	both.JWTAudiences = []string{"orders"}
	for name, accept := range map[string]authn.Accept{"a token": shop, "a JWT-SVID": both} {
		expect(t, name, outcome(t, g.WithJWTSVIDs(noBundles{}), bearerOf(b.value), accept, c.now()), "token_malformed")
	}
}

// Many sessions do not take more room than there is, and none is mistaken.
func TestOpenedSessionsAreBounded(t *testing.T) {
	var c clock
	g := newGate(t, overTLS(t, "https://idp.example"), authn.Config{Now: c.now, Wait: time.Minute, CacheEntries: 128})
	ring := newRing(t, "aws", session.NewKey(c.now()))
	for n := range 600 {
		who := "user-" + strconv.Itoa(n)
		b := signIn(t, ring, who, c.now())
		expect(t, "first", b.visits(g, time.Hour), who)
		expect(t, "again", b.visits(g, time.Hour), who)
	}
	if held, most := authn.Held(g.pool); held == 0 || held > 128 || most > 16<<10 {
		t.Errorf("%d are held, %d bytes in a shard", held, most)
	}
}

// A session that was opened before costs no memory.
func TestOpenedSessionsDoNotAllocate(t *testing.T) {
	var c clock
	g := newGate(t, overTLS(t, "https://idp.example"), authn.Config{Now: c.now, Wait: time.Minute})
	b := signIn(t, newRing(t, "aws", session.NewKey(c.now())), "alice", c.now())
	cred, now, ctx, accept := b.credentials(), c.now(), t.Context(), sessionsOf(time.Hour)
	g.Authenticate(ctx, cred, accept, now)
	if got := testing.AllocsPerRun(1000, func() { g.Authenticate(ctx, cred, accept, now) }); got != 0 {
		t.Errorf("%v allocations", got)
	}
}

// BenchmarkSession is what each request of a browser costs but the first.
func BenchmarkSession(b *testing.B) {
	var c clock
	g := newGate(b, overTLS(b, "https://idp.example"), authn.Config{Now: c.now, Wait: time.Minute})
	one := signIn(b, newRing(b, "aws", session.NewKey(c.now())), "alice", c.now())
	cred, now, ctx, accept := one.credentials(), c.now(), b.Context(), sessionsOf(time.Hour)
	b.ReportAllocs()
	for b.Loop() {
		if p, _ := g.Authenticate(ctx, cred, accept, now); p == nil {
			b.Fatal("denied")
		}
	}
}

// noBundles is the keys of a proxy that has none yet.
type noBundles struct{}

func (noBundles) JWTBundles() *identity.JWTBundles { return nil }
