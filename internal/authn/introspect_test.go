package authn_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/token"
)

const clientSecret = "s:cret+/="

// registry is the tokens that an issuer knows, with what it says of them.
type registry struct {
	t      testing.TB
	file   string // holds the client secret
	asked  atomic.Int64
	mu     sync.Mutex
	claims map[string]jwt.MapClaims
	secret string
}

// introspects makes the issuer answer for tokens at /introspect, to who knows
// the secret, besides publishing the key "one".
func (i *issuer) introspects(t testing.TB) *registry {
	r := &registry{t: t, file: filepath.Join(t.TempDir(), "secret"), claims: map[string]jwt.MapClaims{}, secret: clientSecret}
	r.write(clientSecret + "\n")
	set := i.keySet("one")
	i.answerWith(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/jwks" {
			say(w, set)
			return
		}
		r.answer(w, req)
	})
	return r
}

func (r *registry) write(text string) {
	if err := os.WriteFile(r.file, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *registry) answer(w http.ResponseWriter, req *http.Request) {
	r.asked.Add(1)
	user, password, _ := req.BasicAuth()
	r.mu.Lock()
	defer r.mu.Unlock()
	if req.Method != "POST" || req.URL.Path != "/introspect" || user != "proxy%3A1" || password != url.QueryEscape(r.secret) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	claims, known := r.claims[req.PostFormValue("token")]
	if !known {
		say(w, `{"active":false}`)
		return
	}
	if err := json.NewEncoder(w).Encode(claims); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// knows makes the token an active one of alice for orders, with claims put over
// the usual; nil removes a claim.
func (r *registry) knows(raw string, now time.Time, claims jwt.MapClaims) string {
	all := jwt.MapClaims{"active": true, "sub": "alice", "aud": "orders", "groups": []string{"shop"}, "exp": now.Add(time.Hour).Unix()}
	for name, v := range claims {
		if all[name] = v; v == nil {
			delete(all, name)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.claims[raw] = all
	return raw
}

func (r *registry) forgets(raw string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.claims, raw)
}

// asks is the issuer's provider with keys and an endpoint.
func (i *issuer) asks(r *registry) authn.Provider {
	p := i.provider("shop", "idp")
	p.Introspection = &authn.Introspection{
		Endpoint: strings.TrimSuffix(i.jwksURL, "/jwks") + "/introspect", ClientID: "proxy:1", ClientSecretFile: r.file,
	}
	return p
}

func TestOpaqueTokens(t *testing.T) {
	var c clock
	i := overTLS(t, "https://idp.example")
	r := i.introspects(t)
	g := newGateOf(t, i, i.asks(r), authn.Config{Now: c.now, Wait: time.Minute, CoolDown: time.Hour})
	jwe := b64(`{"alg":"RSA-OAEP","enc":"A128GCM"}`) + ".a.b.c.d"
	signed := i.token("one", c.now(), nil)
	for _, tc := range []struct {
		name, raw, want string
		asked           int64
	}{
		{"active", r.knows("ory_at_1", c.now(), nil), "alice", 1},
		{"again", "ory_at_1", "alice", 0},
		{"another", r.knows("ory_at_2", c.now(), jwt.MapClaims{"sub": "bob"}), "bob", 1},
		{"with dots", r.knows("a.b", c.now(), nil), "alice", 1},
		{"three segments that are no JWT", r.knows("a.b.c", c.now(), nil), "alice", 1},
		{"encrypted", r.knows(jwe, c.now(), nil), "alice", 1},
		{"unknown", "ory_at_9", "token_inactive", 1},
		{"unknown again", "ory_at_9", "token_inactive", 0},
		{"with the issuer", r.knows("t1", c.now(), jwt.MapClaims{"iss": "https://idp.example"}), "alice", 1},
		{"of another issuer", r.knows("t2", c.now(), jwt.MapClaims{"iss": "https://evil.example"}), "token_wrong_issuer", 1},
		{"for another audience", r.knows("t3", c.now(), jwt.MapClaims{"aud": "billing"}), "token_wrong_audience", 1},
		{"for no audience", r.knows("t4", c.now(), jwt.MapClaims{"aud": nil}), "token_wrong_audience", 1},
		{"without end", r.knows("t5", c.now(), jwt.MapClaims{"exp": nil}), "token_bad_claim", 1},
		{"expired", r.knows("t6", c.now(), jwt.MapClaims{"exp": c.now().Add(-time.Hour).Unix()}), "token_expired", 1},
		{"of nobody", r.knows("t7", c.now(), jwt.MapClaims{"sub": nil}), "token_bad_claim", 1},
		{"not even a token", "a,b", "credentials_malformed", 0},
		// What is a JWT is verified with keys, and nobody is asked.
		{"JWT", signed, "alice", 0},
		{"JWT, wrong signature", overTLS(t, "https://idp.example").token("one", c.now(), nil), "token_bad_signature", 0},
		{"JWT of another issuer", i.token("one", c.now(), jwt.MapClaims{"iss": "https://evil.example"}), "token_wrong_issuer", 0},
		{"JWT that is malformed", signed + "=", "token_malformed", 0},
		{"JWT with alg none", r.knows(b64(`{"alg":"none"}`)+"."+b64(`{}`)+".", c.now(), nil), "token_algorithm", 0},
	} {
		before := r.asked.Load()
		expect(t, tc.name, g.ask(tc.raw), tc.want)
		if got := r.asked.Load() - before; got != tc.asked {
			t.Errorf("%s: asked %d times, want %d", tc.name, got, tc.asked)
		}
	}
	p, _ := g.Authenticate(t.Context(), bearerOf("ory_at_1"), shop, c.now())
	if p.AuthenticatedBy != "introspection" || p.Kind != policy.User || p.Issuer != i.name || p.Provider != "shop/idp" ||
		!p.Expires.Equal(c.now().Add(time.Hour)) || p.Claims["aud"] != "orders" || p.Claims["active"] != nil {
		t.Errorf("principal %+v", p)
	}
}

// A provider without keys is asked for every token.
func TestProviderWithoutKeys(t *testing.T) {
	var c clock
	i := overTLS(t, "https://idp.example")
	r := i.introspects(t)
	p := i.asks(r)
	p.JWKSURL = ""
	g := newGateOf(t, i, p, authn.Config{Now: c.now, Wait: time.Minute})
	raw := i.token("unpublished", c.now(), nil)
	expect(t, "JWT that it does not know", g.ask(raw), "token_inactive")
	known := r.knows(i.token("unpublished", c.now(), jwt.MapClaims{"n": 1}), c.now(), nil)
	expect(t, "JWT", g.ask(known), "alice")
	expect(t, "JWT in a form of its own", g.ask(r.knows(b64(`{"alg":"HS256"}`)+"."+b64(`{}`)+".x", c.now(), nil)), "alice")
	expect(t, "JWT that names another issuer", g.ask(i.token("one", c.now(), jwt.MapClaims{"iss": "https://evil.example"})), "token_wrong_issuer")
	if got := i.fetches.Load() - r.asked.Load(); got != 0 {
		t.Errorf("%d fetches of keys", got)
	}
}

// Where a route wants it, a JWT counts only while its issuer says so.
func TestIntrospectedRoute(t *testing.T) {
	var c clock
	i := overTLS(t, "https://idp.example")
	r := i.introspects(t)
	g := newGateOf(t, i, i.asks(r), authn.Config{Now: c.now, Wait: time.Minute, CoolDown: time.Hour})
	strict := shop
	strict.Introspected = true
	ask := func(raw string) string { return outcome(t, g.Authenticator, bearerOf(raw), strict, c.now()) }
	raw := i.token("one", c.now(), jwt.MapClaims{"exp": c.now().Add(time.Hour).Unix()})
	expect(t, "at an ordinary route", g.ask(raw), "alice")
	expect(t, "unknown to the issuer, though remembered", ask(raw), "token_inactive")
	r.knows(raw, c.now(), jwt.MapClaims{"sub": "mallory", "aud": nil})
	c.advance(5 * time.Second)
	expect(t, "active", ask(raw), "alice") // what the issuer signed says who it is
	r.forgets(raw)
	c.advance(59 * time.Second)
	expect(t, "withdrawn a moment ago", ask(raw), "alice")
	c.advance(time.Second)
	expect(t, "withdrawn", ask(raw), "token_inactive")
	expect(t, "at an ordinary route", g.ask(raw), "alice")
	before := r.asked.Load()
	forged := overTLS(t, "https://idp.example").token("one", c.now(), nil)
	expect(t, "forged", ask(r.knows(forged, c.now(), nil)), "token_bad_signature")
	expect(t, "opaque", ask(r.knows("ory_at_1", c.now(), nil)), "alice")
	if got := r.asked.Load() - before; got != 1 {
		t.Errorf("asked %d times", got)
	}
	short := r.knows(i.token("one", c.now(), jwt.MapClaims{"exp": c.now().Add(2 * time.Second).Unix()}), c.now(), nil)
	expect(t, "nearly expired", ask(short), "alice")
	c.advance(3 * time.Second)
	r.forgets(short)
	expect(t, "expired, within the leeway", ask(short), "token_inactive")

	g.Authenticator = g.pool.Sync([]authn.Provider{i.provider("shop", "idp")})
	expect(t, "provider that cannot be asked", ask(raw), "introspection_unavailable")
}

// What an issuer said counts for a minute, and never beyond the token's end.
func TestIntrospectionIsRemembered(t *testing.T) {
	var c clock
	i := overTLS(t, "https://idp.example")
	r := i.introspects(t)
	p := i.asks(r)
	g := newGateOf(t, i, p, authn.Config{Now: c.now, Wait: time.Minute})
	raw := r.knows("long", c.now(), nil)
	short := r.knows("short", c.now(), jwt.MapClaims{"exp": c.now().Add(10 * time.Second).Unix()})
	expect(t, "long", g.ask(raw), "alice")
	expect(t, "short", g.ask(short), "alice")
	r.forgets(raw)
	r.forgets(short)
	c.advance(9 * time.Second)
	expect(t, "short, a second before its end", g.ask(short), "alice")
	c.advance(time.Second)
	expect(t, "short, at its end", g.ask(short), "token_inactive")
	c.advance(49 * time.Second)
	expect(t, "long, withdrawn", g.ask(raw), "alice")
	c.advance(time.Second)
	expect(t, "long, after a minute", g.ask(raw), "token_inactive")
	r.knows(raw, c.now(), nil)
	c.advance(4 * time.Second)
	expect(t, "refused a moment ago", g.ask(raw), "token_inactive")
	c.advance(time.Second)
	expect(t, "asked again", g.ask(raw), "alice")

	p.Introspection.Cache = -1
	g.Authenticator = g.pool.Sync([]authn.Provider{p})
	before := r.asked.Load()
	expect(t, "nothing remembered", g.ask(raw), "alice")
	r.forgets(raw)
	expect(t, "nothing remembered", g.ask(raw), "token_inactive")
	r.knows(raw, c.now(), nil)
	expect(t, "no refusal either", g.ask(raw), "alice")
	if got := r.asked.Load() - before; got != 3 {
		t.Errorf("asked %d times", got)
	}
}

// An issuer that says nothing of use is our trouble and not the client's; tokens
// that are remembered go on.
func TestIntrospectionFails(t *testing.T) {
	elsewhere := overTLS(t, "https://evil.example")
	good := `{"active":true,"sub":"alice","aud":"orders","exp":1000003600}`
	body := func(contentType, text string) func(*issuer, *registry) {
		return func(i *issuer, _ *registry) { i.answerBody(contentType, text) }
	}
	for name, tc := range map[string]struct {
		spoil  func(*issuer, *registry)
		result string
	}{
		"page":              {body("text/html", "<!doctype html>"), "invalid"},
		"garbage":           {body("application/json", "\x00"), "invalid"},
		"empty":             {body("application/json", ""), "invalid"},
		"active as text":    {body("application/json", strings.Replace(good, "true", `"true"`, 1)), "invalid"},
		"active twice":      {body("application/json", strings.Replace(good, "true", `false,"active":true`, 1)), "invalid"},
		"too long":          {body("application/json", good+strings.Repeat(" ", token.MaxIntrospectionSize)), "invalid"},
		"a gigabyte":        {func(i *issuer, _ *registry) { i.answerWith(endless) }, "invalid"},
		"status 500":        {func(i *issuer, _ *registry) { i.answerWith(status(500, good)) }, "status"},
		"status 401":        {func(_ *issuer, r *registry) { r.mu.Lock(); r.secret = "other"; r.mu.Unlock() }, "status"},
		"redirect":          {func(i *issuer, _ *registry) { i.answerWith(redirect("/elsewhere")) }, "status"},
		"redirect to other": {func(i *issuer, _ *registry) { i.answerWith(redirect(elsewhere.jwksURL)) }, "status"},
		"connection cut": {func(i *issuer, _ *registry) {
			i.answerWith(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		}, "unreachable"},
		"no secret":       {func(_ *issuer, r *registry) { _ = os.Remove(r.file) }, "secret"},
		"secret empty":    {func(_ *issuer, r *registry) { r.write("\n") }, "secret"},
		"secret too long": {func(_ *issuer, r *registry) { r.write(strings.Repeat("x", 257)) }, "secret"},
	} {
		t.Run(name, func(t *testing.T) {
			var c clock
			i := overTLS(t, "https://idp.example")
			r := i.introspects(t)
			g := newGateOf(t, i, i.asks(r), authn.Config{Now: c.now, Wait: time.Minute})
			expect(t, "before", g.ask(r.knows("before", c.now(), nil)), "alice")
			tc.spoil(i, r)
			r.knows("after", c.now(), nil)
			expect(t, "after", g.ask("after"), "introspection_unavailable")
			expect(t, "remembered", g.ask("before"), "alice")
			if got := g.metric(`sallyport_introspections_total{provider="shop/idp",result="` + tc.result + `"}`); got != "1" {
				t.Errorf("%q counted as %s", got, tc.result)
			}
			_, d := g.Authenticate(t.Context(), bearerOf("after"), shop, c.now())
			if d == nil || d.Status != 503 || d.Challenge != "" {
				t.Errorf("denial %+v", d)
			}
			if elsewhere.fetches.Load() != 0 {
				t.Error("the token went elsewhere")
			}
			again := i.introspects(t)
			again.knows("after", c.now(), nil)
			r.write(clientSecret)
			expect(t, "issuer well again", g.ask("after"), "alice")
		})
	}
}

func endless(w http.ResponseWriter, _ *http.Request) {
	chunk := []byte(strings.Repeat(" ", 64<<10))
	for range 1 << 14 {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

// A secret that is renewed is the one that is sent next.
func TestSecretIsReadAgain(t *testing.T) {
	var c clock
	i := overTLS(t, "https://idp.example")
	r := i.introspects(t)
	g := newGateOf(t, i, i.asks(r), authn.Config{Now: c.now, Wait: time.Minute})
	expect(t, "before", g.ask(r.knows("one", c.now(), nil)), "alice")
	r.secret = "renewed"
	expect(t, "issuer's alone", g.ask(r.knows("two", c.now(), nil)), "introspection_unavailable")
	r.write("renewed")
	expect(t, "both", g.ask("two"), "alice")
}

// However many bring a token, its issuer is asked once at a time; and however
// many tokens they bring, so many questions are under way.
func TestQuestionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := inBubble(t, "https://idp.example")
		r := i.introspects(t)
		var most, now atomic.Int64
		i.answerWith(func(w http.ResponseWriter, req *http.Request) {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			pass(100 * time.Millisecond)
			now.Add(-1)
			r.answer(w, req)
		})
		p := i.asks(r)
		p.JWKSURL = ""
		g := newGateOf(t, i, p, authn.Config{Now: time.Now})
		r.knows("same", time.Now(), nil)
		outcomes := func(n int, raw func(int) string) map[string]int {
			var all sync.WaitGroup
			var mu sync.Mutex
			counted := map[string]int{}
			for m := range n {
				all.Go(func() {
					got := g.ask(raw(m))
					mu.Lock()
					counted[got]++
					mu.Unlock()
				})
			}
			all.Wait()
			return counted
		}
		if got := outcomes(500, func(int) string { return "same" }); got["alice"] != 500 || r.asked.Load() != 1 {
			t.Errorf("%v, asked %d times", got, r.asked.Load())
		}
		got := outcomes(1000, func(n int) string { return fmt.Sprint("rubbish-", n) })
		if got["token_inactive"] != 256 || got["introspection_unavailable"] != 744 || most.Load() != 32 {
			t.Errorf("%v, %d at a time", got, most.Load())
		}
		if busy := g.metric(`sallyport_introspections_total{provider="shop/idp",result="busy"}`); busy != "744" {
			t.Errorf("%s counted as busy", busy)
		}
		expect(t, "remembered among rubbish", g.ask("same"), "alice")
	})
}

// An issuer that never answers costs a request two seconds, or what the provider
// says.
func TestIntrospectionTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := inBubble(t, "https://idp.example")
		r := i.introspects(t)
		i.answerWith(func(_ http.ResponseWriter, req *http.Request) {
			_, _ = io.Copy(io.Discard, req.Body) // or the server does not see that the client has gone
			<-req.Context().Done()
		})
		p := i.asks(r)
		p.JWKSURL = ""
		g := newGateOf(t, i, p, authn.Config{Now: time.Now})
		start := time.Now()
		expect(t, "never answered", g.ask("a"), "introspection_unavailable")
		if got := time.Since(start); got != 2*time.Second {
			t.Errorf("waited %v", got)
		}
		p.Introspection.Timeout = 300 * time.Millisecond
		g.Authenticator = g.pool.Sync([]authn.Provider{p})
		start = time.Now()
		expect(t, "never answered", g.ask("a"), "introspection_unavailable")
		if got := time.Since(start); got != 300*time.Millisecond {
			t.Errorf("waited %v", got)
		}
	})
}

// The client that asked first may leave; the others get their answer.
func TestClientLeavesDuringQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := inBubble(t, "https://idp.example")
		r := i.introspects(t)
		r.knows("a", time.Now(), nil)
		i.answerWith(func(w http.ResponseWriter, req *http.Request) {
			pass(time.Second)
			r.answer(w, req)
		})
		p := i.asks(r)
		p.JWKSURL = ""
		g := newGateOf(t, i, p, authn.Config{Now: time.Now})
		hurried, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		go g.Authenticate(hurried, bearerOf("a"), shop, time.Now())
		synctest.Wait()
		expect(t, "patient", g.ask("a"), "alice")
		if got := r.asked.Load(); got != 1 {
			t.Errorf("asked %d times", got)
		}
	})
}
