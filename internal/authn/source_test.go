package authn_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/token"
)

// metadata answers with metadata where they belong, and with keys at /keys.
func (i *issuer) metadata(document string, kids ...string) {
	set := i.keySet(kids...)
	i.answerWith(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/.well-known/openid-configuration"):
			say(w, document)
		case strings.HasPrefix(r.URL.Path, "/keys"):
			say(w, set)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
}

func (i *issuer) discovered() authn.Provider {
	p := i.provider("shop", "idp")
	p.JWKSURL, p.Discovery = "", true
	return p
}

func TestDiscovery(t *testing.T) {
	const good = `{"issuer":"ISSUER","jwks_uri":"BASE/keys","authorization_endpoint":"x"}`
	for _, tc := range []struct{ name, path, document, want, result string }{
		{"as it should be", "", good, "alice", "ok"},
		{"issuer with a path", "/realms/shop", good, "alice", "ok"},
		{"issuer with a slash at its end", "/", good, "alice", "ok"},
		{"other issuer", "", `{"issuer":"https://evil.example","jwks_uri":"BASE/keys"}`, "", "invalid"},
		{"issuer with one more slash", "", `{"issuer":"BASE/","jwks_uri":"BASE/keys"}`, "", "invalid"},
		{"issuer left out", "", `{"jwks_uri":"BASE/keys"}`, "", "invalid"},
		{"issuer twice", "", `{"issuer":"https://evil.example","issuer":"ISSUER","jwks_uri":"BASE/keys"}`, "", "invalid"},
		{"jwks_uri left out", "", `{"issuer":"ISSUER"}`, "", "invalid"},
		{"jwks_uri a list", "", `{"issuer":"ISSUER","jwks_uri":["BASE/keys"]}`, "", "invalid"},
		{"jwks_uri in other case", "", `{"issuer":"ISSUER","JWKS_URI":"BASE/keys"}`, "", "invalid"},
		{"keys over http", "", `{"issuer":"ISSUER","jwks_uri":"http://idp.example/keys"}`, "", "invalid"},
		{"keys in a file", "", `{"issuer":"ISSUER","jwks_uri":"file:///etc/keys"}`, "", "invalid"},
		{"keys with a password", "", `{"issuer":"ISSUER","jwks_uri":"https://a:b@idp.example/keys"}`, "", "invalid"},
		{"keys that are not there", "", `{"issuer":"ISSUER","jwks_uri":"BASE/elsewhere"}`, "", "status"},
		{"page", "", `<!doctype html>`, "", "invalid"},
		{"too long", "", good + strings.Repeat(" ", token.MaxKeySetSize), "", "invalid"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var c clock
			i := overTLS(t, "")
			base := strings.TrimSuffix(i.jwksURL, "/jwks")
			i.name = base + tc.path
			i.metadata(strings.NewReplacer("ISSUER", i.name, "BASE", base).Replace(tc.document), "one")
			g := newGateOf(t, i, i.discovered(), authn.Config{Now: c.now, Wait: time.Minute, Refresh: time.Hour})
			if tc.want == "" {
				tc.want = "keys_unavailable"
			}
			expect(t, "token", g.ask(i.token("one", c.now(), nil)), tc.want)
			if g.metric(`sallyport_jwks_fetches_total{provider="shop/idp",result="`+tc.result+`"}`) == "" {
				t.Errorf("fetch is not counted as %s", tc.result)
			}
		})
	}
}

// Metadata are read again with the keys: an issuer may move them.
func TestIssuerMovesItsKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := inBubble(t, "http://127.0.0.1")
		i.metadata(`{"issuer":"http://127.0.0.1","jwks_uri":"http://127.0.0.1/keys"}`, "one")
		g := newGateOf(t, i, i.discovered(), authn.Config{Now: time.Now})
		expect(t, "before", g.ask(i.token("one", time.Now(), nil)), "alice")
		i.metadata(`{"issuer":"http://127.0.0.1","jwks_uri":"http://127.0.0.1/keys/v2"}`, "one", "two")
		pass(5 * time.Minute)
		expect(t, "after", g.ask(i.token("two", time.Now(), nil)), "alice")
		i.metadata(`{"issuer":"http://evil.example","jwks_uri":"http://127.0.0.1/keys"}`, "three")
		pass(5 * time.Minute)
		expect(t, "metadata of another, last good keys", g.ask(i.token("two", time.Now(), nil)), "alice")
		expect(t, "metadata of another, their keys", g.ask(i.token("three", time.Now(), nil)), "token_unknown_key")
		pass(24 * time.Hour)
		expect(t, "after a day", g.ask(i.token("two", time.Now(), nil)), "keys_unavailable")
	})
}

// Keys that the resource holds need no network, and do not age.
func TestInlineKeys(t *testing.T) {
	var c clock
	i := newIssuer("https://idp.example")
	i.client = &http.Client{Transport: refusing{}}
	with := func(kids ...string) authn.Provider {
		p := i.provider("shop", "idp")
		p.JWKSURL, p.JWKS = "", i.keySet(kids...)
		return p
	}
	g := newGateOf(t, i, with("one"), authn.Config{Now: c.now, Wait: time.Minute})
	raw := i.token("one", c.now().Add(100*24*time.Hour), nil)
	expect(t, "known key", g.ask(raw), "alice")
	expect(t, "unknown key", g.ask(i.token("two", c.now(), nil)), "token_unknown_key")
	c.advance(100 * 24 * time.Hour)
	expect(t, "a hundred days later", g.ask(raw), "alice")
	before := g.Authenticator
	g.Authenticator = g.pool.Sync([]authn.Provider{with("two")})
	expect(t, "key withdrawn, token remembered", g.ask(raw), "token_unknown_key")
	expect(t, "new key", g.ask(i.token("two", c.now(), nil)), "alice")
	expect(t, "a request of the snapshot before", outcome(t, before, bearerOf(raw), shop, c.now()), "alice")
	if got := g.metric(`sallyport_jwks_fetches_total{provider="shop/idp",result="unreachable"}`); got != "" {
		t.Errorf("%s fetches", got)
	}
}

// A provider without keys, or with keys from two places, is not enforced.
func TestProvidersThatCannotWork(t *testing.T) {
	i := newIssuer("https://idp.example")
	set := i.keySet("one")
	for name, spoil := range map[string]func(*authn.Provider){
		"no keys":                func(p *authn.Provider) { p.JWKSURL = "" },
		"two places":             func(p *authn.Provider) { p.JWKS = set },
		"three places":           func(p *authn.Provider) { p.JWKS, p.Discovery = set, true },
		"discovery below http":   func(p *authn.Provider) { p.JWKSURL, p.Discovery, p.Issuer = "", true, "http://idp.example" },
		"discovery below no URL": func(p *authn.Provider) { p.JWKSURL, p.Discovery, p.Issuer = "", true, "idp" },
		"discovery and a query":  func(p *authn.Provider) { p.JWKSURL, p.Discovery, p.Issuer = "", true, "https://idp.example?a" },
		"JWKS that is none":      func(p *authn.Provider) { p.JWKSURL, p.JWKS = "", "{}" },
		"JWKS with a secret":     func(p *authn.Provider) { p.JWKSURL, p.JWKS = "", `{"keys":[{"kty":"oct","kid":"a","k":"AA"}]}` },
		"endpoint over http": func(p *authn.Provider) {
			p.Introspection = &authn.Introspection{Endpoint: "http://idp.example", ClientID: "a", ClientSecretFile: "/b"}
		},
		"endpoint without secret": func(p *authn.Provider) {
			p.Introspection = &authn.Introspection{Endpoint: "https://idp.example", ClientID: "a"}
		},
		"endpoint without ID": func(p *authn.Provider) {
			p.Introspection = &authn.Introspection{Endpoint: "https://idp.example", ClientSecretFile: "/b"}
		},
		"good keys, endpoint bad": func(p *authn.Provider) { p.Introspection = &authn.Introspection{} },
		"endpoint good, JWKS none": func(p *authn.Provider) {
			p.JWKSURL, p.JWKS, p.Introspection = "", "{}", &authn.Introspection{Endpoint: "https://idp.example", ClientID: "a", ClientSecretFile: "/b"}
		},
	} {
		var c clock
		i.client = &http.Client{Transport: refusing{}}
		p := i.provider("shop", "idp")
		p.JWKSURL = "https://idp.example/jwks"
		spoil(&p)
		g := newGateOf(t, i, p, authn.Config{Now: c.now, Refresh: time.Hour})
		for range g.Providers() {
			t.Errorf("%s: enforced", name)
		}
		if got := g.ask(i.token("one", c.now(), nil)); got == "alice" {
			t.Errorf("%s: let in", name)
		}
		if got := g.ask("opaque"); got == "alice" {
			t.Errorf("%s: let in with an opaque token", name)
		}
	}
}

// An issuer says how long its keys stay, and is asked again before; within
// bounds.
func TestCacheControl(t *testing.T) {
	for header, want := range map[string]struct{ least, most time.Duration }{
		"":                           {4 * time.Minute, 5 * time.Minute},
		"public":                     {4 * time.Minute, 5 * time.Minute},
		"max-age=900":                {12 * time.Minute, 15 * time.Minute},
		"public, MAX-AGE=900":        {12 * time.Minute, 15 * time.Minute},
		`max-age="900", immutable`:   {12 * time.Minute, 15 * time.Minute},
		"max-age=1":                  {48 * time.Second, time.Minute},
		"max-age=86400":              {48 * time.Minute, time.Hour},
		"no-store":                   {48 * time.Second, time.Minute},
		"max-age=900, no-cache":      {48 * time.Second, time.Minute},
		"max-age=-1":                 {4 * time.Minute, 5 * time.Minute},
		"max-age=99999999999":        {4 * time.Minute, 5 * time.Minute},
		"s-maxage=900, max-age=soon": {4 * time.Minute, 5 * time.Minute},
	} {
		t.Run(header, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := inBubble(t, "https://idp.example")
				document := i.keySet("one")
				i.answerWith(func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Cache-Control", header)
					say(w, document)
				})
				newGate(t, i, authn.Config{Now: time.Now})
				expectFetches(t, i, "at once", 1, 1)
				pass(want.least - time.Millisecond)
				expectFetches(t, i, "before", 1, 1)
				pass(want.most - want.least + 2*time.Millisecond)
				expectFetches(t, i, "after", 2, 2)
			})
		})
	}
}
