package authn_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/token"
)

func TestKeyRotation(t *testing.T) {
	var c clock
	i := overTLS(t, "https://idp.example")
	g := newGate(t, i, authn.Config{Now: c.now, Wait: time.Minute})
	first, second := i.token("one", c.now(), nil), i.token("two", c.now(), nil)
	expect(t, "before", g.ask(first), "alice")
	i.publish("one", "two")
	expect(t, "new key", g.ask(second), "alice")
	expect(t, "old key, still published", g.ask(first), "alice")
	i.publish("two")
	c.advance(time.Minute)
	expect(t, "brings the next fetch", g.ask(i.token("three", c.now(), nil)), "token_unknown_key")
	expect(t, "old key, withdrawn, token remembered", g.ask(first), "token_unknown_key")
	expect(t, "new key", g.ask(second), "alice")
}

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %s, want %s", what, got, want)
	}
}

// Whatever a request brings, it cannot make the proxy ask the issuer more than
// once in a cool-down; and a rotation is still noticed in the middle of it.
func TestUnknownKeyFlood(t *testing.T) {
	var c clock
	i := overTLS(t, "https://idp.example")
	g := newGate(t, i, authn.Config{Now: c.now, Wait: time.Minute})
	good := i.token("one", c.now(), nil)
	expect(t, "first fetch", g.ask(good), "alice")
	before := i.fetches.Load()
	flood := func() {
		var all sync.WaitGroup
		for n := range 16 {
			all.Go(func() {
				for m := range 20 {
					raw := i.token("one", c.now(), nil)
					header := fmt.Sprintf(`{"alg":"ES256","kid":"forged-%d-%d"}`, n, m)
					forged := b64(header) + raw[strings.IndexByte(raw, '.'):]
					if got := g.ask(forged); got != "token_unknown_key" {
						t.Errorf("forged token: %s", got)
					}
				}
			})
		}
		all.Wait()
	}
	flood()
	if got := i.fetches.Load() - before; got != 1 {
		t.Errorf("flood made %d fetches", got)
	}
	expect(t, "known key meanwhile", g.ask(good), "alice")
	i.publish("one", "two")
	rotated := i.token("two", c.now(), nil)
	c.advance(9 * time.Second)
	expect(t, "new key within the cool-down", g.ask(rotated), "token_unknown_key")
	c.advance(time.Second)
	flood()
	if got := i.fetches.Load() - before; got != 2 {
		t.Errorf("two floods made %d fetches", got)
	}
	expect(t, "new key after the flood's one fetch", g.ask(rotated), "alice")
}

// The last good keys stay when the issuer says something else, until they are
// too old; then nobody is let in, for a reason of its own.
func TestUselessAnswers(t *testing.T) {
	elsewhere := overTLS(t, "https://evil.example")
	good := newIssuer("x").keySet("other")
	entry := strings.TrimSuffix(strings.TrimPrefix(good, `{"keys":[`), `]}`)
	body := func(contentType, text string) func(*issuer) {
		return func(i *issuer) { i.answerBody(contentType, text) }
	}
	for name, spoil := range map[string]func(*issuer){
		"page":                   body("text/html; charset=utf-8", "<!doctype html><title>Sign in</title>"),
		"keys sent as a page":    body("text/html", good),
		"garbage":                body("application/json", "\x00\x01\x02"),
		"truncated":              body("application/json", good[:len(good)-2]),
		"empty":                  body("application/json", ""),
		"no keys":                body("application/json", `{"keys":[]}`),
		"symmetric key":          body("application/json", `{"keys":[{"kty":"oct","kid":"one","k":"AAAA"}]}`),
		"kid twice":              body("application/json", `{"keys":[`+entry+","+entry+`]}`),
		"longer than the bound":  body("application/json", good+strings.Repeat(" ", token.MaxKeySetSize)),
		"status 500 with keys":   func(i *issuer) { i.answerWith(status(500, good)) },
		"status 204":             func(i *issuer) { i.answerWith(status(204, "")) },
		"status 203 with keys":   func(i *issuer) { i.answerWith(status(203, good)) },
		"redirect to other host": func(i *issuer) { i.answerWith(redirect(elsewhere.jwksURL)) },
		"redirect to plain http": func(i *issuer) { i.answerWith(redirect(strings.Replace(i.jwksURL, "https:", "http:", 1))) },
		"redirects without end":  func(i *issuer) { i.answerWith(redirect("/jwks")) },
		"connection cut": func(i *issuer) {
			i.answerWith(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			var c clock
			i := overTLS(t, "https://idp.example")
			g := newGate(t, i, authn.Config{Now: c.now, Wait: time.Minute})
			expect(t, "good keys", g.ask(i.token("one", c.now(), nil)), "alice")
			asked := i.fetches.Load()
			spoil(i)
			expect(t, "unknown key", g.ask(i.token("two", c.now(), nil)), "token_unknown_key")
			if i.fetches.Load() == asked {
				t.Error("issuer was not asked")
			}
			if got := i.fetches.Load() - asked; got > 8 {
				t.Errorf("issuer was asked %d times", got)
			}
			expect(t, "last good key", g.ask(i.token("one", c.now(), nil)), "alice")
			c.advance(24 * time.Hour)
			remembered := i.token("one", c.now(), nil)
			expect(t, "last good key after a day", g.ask(remembered), "alice")
			c.advance(time.Second)
			expect(t, "after more than a day", g.ask(i.token("one", c.now(), nil)), "keys_unavailable")
			expect(t, "after more than a day, token remembered", g.ask(remembered), "keys_unavailable")
			_, d := g.Authenticate(t.Context(), bearerOf(remembered), shop, c.now())
			if d == nil || d.Status != 503 || d.Challenge != "" {
				t.Errorf("denial %+v", d)
			}
			i.publish("one")
			c.advance(time.Minute)
			expect(t, "issuer well again", g.ask(i.token("one", c.now(), nil)), "alice")
			if elsewhere.fetches.Load() != 0 {
				t.Error("redirect to another host was followed")
			}
		})
	}
}

func status(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		say(w, body)
	}
}

func redirect(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
}

func TestRedirectOnTheSameServer(t *testing.T) {
	var c clock
	i := overTLS(t, "https://idp.example")
	document := i.keySet("one")
	i.answerWith(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/jwks" {
			http.Redirect(w, r, "/keys/v2", http.StatusFound)
			return
		}
		say(w, document)
	})
	g := newGate(t, i, authn.Config{Now: c.now, Wait: time.Minute})
	expect(t, "followed", g.ask(i.token("one", c.now(), nil)), "alice")
}

// An answer without end is left after the bound, not read.
func TestEndlessBody(t *testing.T) {
	var c clock
	var sent atomic.Int64
	done := make(chan struct{})
	i := overTLS(t, "https://idp.example")
	i.answerWith(func(w http.ResponseWriter, _ *http.Request) {
		defer close(done)
		chunk := []byte(strings.Repeat(" ", 64<<10))
		for sent.Load() < 1<<30 {
			n, err := w.Write(chunk)
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	g := newGate(t, i, authn.Config{Now: c.now, Wait: time.Minute, Refresh: time.Hour})
	expect(t, "no keys", g.ask(i.token("one", c.now(), nil)), "keys_unavailable")
	<-done
	if got := sent.Load(); got > 64<<20 {
		t.Errorf("%d bytes were taken", got)
	}
	if g.metric(`sallyport_jwks_fetches_total{provider="shop/idp",result="invalid"}`) == "" {
		t.Error("fetch is not counted as invalid")
	}
}

// A certificate that nobody vouches for is not an issuer's.
func TestServerIsVerified(t *testing.T) {
	var c clock
	i := overTLS(t, "https://idp.example")
	i.client = nil // the system's authorities
	g := newGate(t, i, authn.Config{Now: c.now, Wait: time.Minute, Refresh: time.Hour})
	expect(t, "untrusted server", g.ask(i.token("one", c.now(), nil)), "keys_unavailable")
	if got := g.metric(`sallyport_jwks_fetches_total{provider="shop/idp",result="unreachable"}`); got == "" {
		t.Error("fetch is not counted as unreachable")
	}
}

func TestBackgroundRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := inBubble(t, "https://idp.example")
		g := newGate(t, i, authn.Config{Now: time.Now})
		next := i.token("two", time.Now().Add(time.Hour), nil)
		pass(time.Second)
		expectFetches(t, i, "at once", 1, 1)
		i.publish("two")
		pass(5 * time.Minute)
		expectFetches(t, i, "after five minutes", 2, 2)
		expect(t, "without any request", g.ask(next), "alice")
		pass(5 * time.Minute)
		expect(t, "same keys again", g.ask(next), "alice")
		expect(t, "remembered", g.metric(`sallyport_token_cache_lookups_total{result="hit"}`), "1")
		pass(time.Hour)
		expectFetches(t, i, "after an hour more", 3+12, 3+15)
	})
}

func expectFetches(t *testing.T, i *issuer, what string, least, most int64) {
	t.Helper()
	synctest.Wait()
	if got := i.fetches.Load(); got < least || got > most {
		t.Errorf("%s: %d fetches, want %d to %d", what, got, least, most)
	}
}

// An issuer that is away is asked again soon, then ever more rarely.
func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := inBubble(t, "https://idp.example")
		i.answerWith(status(503, ""))
		g := newGate(t, i, authn.Config{Now: time.Now})
		pass(10 * time.Second)
		expectFetches(t, i, "ten seconds", 4, 5) // 0, 1, 3, 7 and a little less each
		pass(time.Hour)
		expectFetches(t, i, "an hour", 4+14, 5+22)
		i.publish("one")
		pass(5 * time.Minute)
		expect(t, "back", g.ask(i.token("one", time.Now(), nil)), "alice")
	})
}

// A request waits two seconds for an issuer that hangs, or as long as its own
// context, and not at all when the issuer was just asked.
func TestWaitIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := inBubble(t, "https://idp.example")
		hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		i.answerWith(hang)
		g := newGate(t, i, authn.Config{Now: time.Now, Refresh: time.Hour})
		took := func(ctx context.Context, raw, want string) time.Duration {
			t.Helper()
			start := time.Now()
			if _, d := g.Authenticate(ctx, bearerOf(raw), shop, start); d == nil || string(d.Reason) != want {
				t.Errorf("denial %+v, want %s", d, want)
			}
			return time.Since(start)
		}
		known, unknown := i.token("one", time.Now(), nil), i.token("two", time.Now(), nil)
		if got := took(t.Context(), known, "keys_unavailable"); got != 2*time.Second {
			t.Errorf("first fetch hangs: waited %v", got)
		}
		hurried, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if got := took(hurried, known, "keys_unavailable"); got != 300*time.Millisecond {
			t.Errorf("request in a hurry: waited %v", got)
		}
		i.publish("one")
		pass(time.Minute) // the fetch has timed out, and was repeated
		expect(t, "known key", g.ask(known), "alice")

		i.answerWith(hang)
		if got := took(t.Context(), unknown, "token_unknown_key"); got != 2*time.Second {
			t.Errorf("unknown key: waited %v", got)
		}
		expect(t, "known key meanwhile", g.ask(known), "alice")
		pass(5 * time.Second) // that fetch has timed out, its cool-down has not
		if got := took(t.Context(), unknown, "token_unknown_key"); got != 0 {
			t.Errorf("unknown key within the cool-down: waited %v", got)
		}
	})
}

// However many ask for unknown keys of an issuer that hangs, only so many wait.
func TestWaitersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := inBubble(t, "https://idp.example")
		i.answerWith(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		g := newGate(t, i, authn.Config{Now: time.Now})
		raw := i.token("one", time.Now(), nil)
		var waiting atomic.Int64
		for range 1100 {
			go func() {
				waiting.Add(1)
				g.Authenticate(t.Context(), bearerOf(raw), shop, time.Now())
				waiting.Add(-1)
			}()
		}
		synctest.Wait()
		if got := waiting.Load(); got != 1024 {
			t.Errorf("%d requests wait", got)
		}
		pass(2 * time.Second)
		synctest.Wait()
		if got := waiting.Load(); got != 0 {
			t.Errorf("%d requests still wait", got)
		}
		// Those who have gone make room.
		start := time.Now()
		expect(t, "another", g.ask(raw), "keys_unavailable")
		if got := time.Since(start); got != 2*time.Second {
			t.Errorf("another waited %v", got)
		}
	})
}

// A key that is unknown while a background fetch is under way waits for that
// one, and does not cause another.
func TestDemandDuringFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := inBubble(t, "https://idp.example")
		g := newGate(t, i, authn.Config{Now: time.Now})
		raw := i.token("two", time.Now().Add(time.Hour), nil)
		expectFetches(t, i, "first", 1, 1)
		document := i.keySet("one", "two")
		i.answerWith(func(w http.ResponseWriter, r *http.Request) {
			pass(time.Second)
			say(w, document)
		})
		for i.fetches.Load() == 1 {
			pass(time.Second / 2)
		}
		expect(t, "new key", g.ask(raw), "alice")
		pass(time.Minute)
		expectFetches(t, i, "after a minute", 2, 2)
	})
}

// Run ends after all that it started.
func TestRunEndsLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer("https://idp.example")
		stuck := stuck(make(chan struct{}))
		i.jwksURL, i.client = "https://idp.example/jwks", &http.Client{Transport: stuck}
		g := newGate(t, i, authn.Config{Now: time.Now})
		ended := false
		go func() {
			g.stop()
			ended = true
		}()
		synctest.Wait()
		if ended {
			t.Error("ended during a fetch")
		}
		close(stuck)
		synctest.Wait()
		if !ended {
			t.Error("did not end")
		}
	})
}

// stuck is a network that does not heed its context.
type stuck chan struct{}

func (s stuck) RoundTrip(*http.Request) (*http.Response, error) {
	<-s
	return nil, errors.New("connection lost")
}

// From https, the same host without TLS is another host.
func TestRedirectWithoutTLS(t *testing.T) {
	var c clock
	i := newIssuer("https://idp.example")
	network := &downgrading{}
	i.jwksURL, i.client = "https://idp.example/jwks", &http.Client{Transport: network}
	g := newGate(t, i, authn.Config{Now: c.now, Wait: time.Minute, Refresh: time.Hour})
	expect(t, "no keys", g.ask(i.token("one", c.now(), nil)), "keys_unavailable")
	if network.plain.Load() {
		t.Error("asked without TLS")
	}
}

// downgrading is a network in which https://HOST leads to http://HOST.
type downgrading struct{ plain atomic.Bool }

func (d *downgrading) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme == "http" {
		d.plain.Store(true)
	}
	w := httptest.NewRecorder()
	http.Redirect(w, r, "http://"+r.URL.Host+"/jwks", http.StatusFound)
	return w.Result(), nil
}

// Nothing waits for a pool that has ended, and keys stay for those who come.
func TestAfterRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := inBubble(t, "https://idp.example")
		g := newGate(t, i, authn.Config{Now: time.Now})
		expect(t, "while it runs", g.ask(i.token("one", time.Now(), nil)), "alice")
		g.stop()
		start := time.Now()
		expect(t, "known key", g.ask(i.token("one", time.Now(), nil)), "alice")
		expect(t, "unknown key", g.ask(i.token("two", time.Now(), nil)), "token_unknown_key")
		if got := time.Since(start); got != 0 {
			t.Errorf("waited %v", got)
		}
	})
}

func TestURLs(t *testing.T) {
	server := httptest.NewServer(newIssuer("https://idp.example"))
	defer server.Close()
	port := server.URL[strings.LastIndexByte(server.URL, ':'):]
	for url, used := range map[string]bool{
		"https://idp.example/jwks":      true,
		server.URL:                      true,
		"http://localhost" + port:       true,
		"http://[::1]" + port:           true,
		"http://127.0.0.1.evil.example": false,
		"http://localhost.evil.example": false,
		"http://idp.example/jwks":       false,
		"http://10.0.0.1/jwks":          false,
		"http://user@127.0.0.1/jwks":    false,
		"https://user:pw@idp.example":   false,
		"ftp://127.0.0.1/jwks":          false,
		"file:///etc/jwks":              false,
		"https:///jwks":                 false,
		"//idp.example/jwks":            false,
		"":                              false,
		"https://idp.example/%zz":       false,
	} {
		var c clock
		i := newIssuer("https://idp.example")
		i.jwksURL, i.client = url, &http.Client{Transport: refusing{}}
		g := newGate(t, i, authn.Config{Now: c.now, Refresh: time.Hour, Wait: time.Minute})
		got := 0
		for range g.Providers() {
			got++
		}
		if (got == 1) != used {
			t.Errorf("%q: used is not %v", url, used)
		}
		expect(t, url, g.ask(i.token("one", c.now(), nil)), "keys_unavailable")
	}
}

// refusing is a network that reaches nobody.
type refusing struct{}

func (refusing) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("no route to host")
}
