package bypass_test

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
	"github.com/sallyport/sallyport/dataplane/vault"
	"github.com/sallyport/sallyport/internal/session"
)

const (
	sessionCookie = session.CookieName
	pendingPrefix = session.PendingPrefix
	callbackPath  = "/.sallyport/callback"
	logoutPath    = "/.sallyport/logout"
)

// people is a world with routes on which people sign in at a real provider.
type people struct {
	*world
	openID *openID
}

func (w *world) people(t *testing.T) *people {
	t.Helper()
	var origins []string
	for _, m := range w.Members {
		for _, host := range []string{"127.0.0.1", "localhost"} {
			origins = append(origins, "https://"+w.url(request{proxy: m, host: host}).Host)
		}
	}
	p := &people{world: w, openID: startOpenID(t, origins...)}
	secret := w.Path("openid-secret")
	if err := os.WriteFile(secret, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.apply(t, fmt.Sprintf(signInResources, p.openID.issuer, secret, w.echo))
	return p
}

// browser is a new one of somebody at the first proxy.
func (p *people) browser(user string) *person {
	return &person{people: p, user: user, proxy: p.Members[0], host: "127.0.0.1", cookies: map[string]string{}}
}

const signInResources = `apiVersion: sallyport/v1
kind: IdentityProvider
metadata: {namespace: bypass, name: people}
spec:
  issuer: %[1]q
  jwksUrl: "%[1]skeys"
  audiences: [api]
  allowPrivateAddresses: true
  signIn: {clientId: web, clientSecretFile: %[2]q}
---
apiVersion: sallyport/v1
kind: IdentityProvider
metadata: {namespace: bypass, name: staff}
spec: {issuer: %[1]q, jwksUrl: "%[1]skeys", audiences: [api], allowPrivateAddresses: true, signIn: {clientId: native}}
---
apiVersion: sallyport/v1
kind: IdentityProvider
metadata: {namespace: elsewhere, name: people}
spec: {issuer: %[1]q, jwksUrl: "%[1]skeys", audiences: [api], allowPrivateAddresses: true, signIn: {clientId: native}}
---
apiVersion: sallyport/v1
kind: Upstream
metadata: {namespace: elsewhere, name: echo}
spec: {endpoints: [%[3]q], plaintext: {}}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: bypass, name: app}
spec:
  hosts: [localhost, 127.0.0.1]
  paths: [/app/**]
  upstream: echo
  webSocket: true
  authentication: {signIn: {identityProvider: people}}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: bypass, name: brief}
spec:
  hosts: [localhost, 127.0.0.1]
  paths: [/brief/**]
  upstream: echo
  authentication: {signIn: {identityProvider: people, sessionLifetime: 60s}}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: bypass, name: mixed}
spec:
  hosts: [localhost, 127.0.0.1]
  paths: [/mixed/**]
  upstream: echo
  authentication: {identityProviders: [idp], signIn: {identityProvider: people}}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: bypass, name: staff}
spec:
  hosts: [localhost, 127.0.0.1]
  paths: [/staff/**]
  upstream: echo
  authentication: {signIn: {identityProvider: staff}}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: elsewhere, name: app}
spec:
  hosts: [localhost, 127.0.0.1]
  paths: [/elsewhere/**]
  upstream: echo
  authentication: {signIn: {identityProvider: people}}
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: bypass, name: app}
spec:
  routes: {names: [app, brief, mixed, staff]}
  effect: ALLOW
  principals: [{subject: id1, identityProvider: people}, {subject: id1, identityProvider: staff}]
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: elsewhere, name: app}
spec:
  routes: {names: [app]}
  effect: ALLOW
  principals: [{subject: id1, identityProvider: people}]
`

// ring reads the cookie keys of a proxy, as only somebody can who is on its
// machine: so a session may be as old as it has to be.
func (p *people) ring(t *testing.T, m *fleet.Member) *session.Ring {
	t.Helper()
	file := filepath.Join(p.Path(m.Name+"-state"), "cookie-keys.sealed")
	kept := must(vault.Open(p.Path(m.Name + "-state-key")))
	for end := time.Now().Add(within); ; {
		b, err := os.ReadFile(file)
		if err == nil {
			ring := must(kept.Unseal("cookie keys", b[:len(b)-sha256.Size])) // a checksum is behind them
			return must(session.ParseRing(m.Environment, ring))
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// aged is a session that began, and ends, at another time.
func (p *person) aged(t *testing.T, value string, began, lasts time.Duration) string {
	t.Helper()
	ring := p.ring(t, p.proxy)
	s := must(session.Open(ring, p.host, value))
	s.SignedIn = time.Now().Add(-began).UTC().Truncate(time.Second)
	s.Expires = s.SignedIn.Add(lasts)
	return must(s.Seal(ring, p.host, time.Now()))
}

// sessionCookies are tricks with the value of a session's cookie, and its name.
func (p *people) sessionCookies(t *testing.T) []trick {
	who := p.browser(alice)
	value := who.signsIn(t, "/app/7")
	good := who.asks("/app/7")
	reads := func(name, value, want string) trick {
		return trick{name, who.with(sessionCookie, value).asks("/app/7"), want, good}
	}
	sends := func(name, want string, header ...string) trick {
		return trick{name, who.with().asks("/app/7", header...), want, good}
	}
	begun := p.browser(alice)
	begun.begins(t, "/app/7")
	_, pending := begun.pending(t)
	const invalid, missing = "401 session_invalid", "401 credentials_missing"
	tricks := []trick{
		sends("none", missing),
		reads("empty", "", invalid),
		reads("made up", "planted", invalid),
		reads("without its last letter", value[:len(value)-1], invalid),
		reads("without its last part", value[:len(value)-22], invalid),
		reads("without its first letter", value[1:], invalid),
		reads("its key and nonce alone", value[:38], invalid),
		reads("with a letter more", value+"A", invalid),
		reads("with padding", value+"=", invalid),
		reads("in quotes", `"`+value+`"`, invalid),
		reads("in lower case", strings.ToLower(value), invalid),
		reads("twice, one behind the other", value+value, invalid),
		reads("too long", value+strings.Repeat("A", 4000), invalid),
		reads("of a sign-in that is under way", pending, invalid),
		sends("without its prefix", missing, "Cookie: sallyport-session="+value),
		sends("with the prefix that other hosts can set", missing, "Cookie: __Secure-sallyport-session="+value),
		sends("its name in lower case", missing, "Cookie: "+strings.ToLower(sessionCookie)+"="+value),
		sends("its name in upper case", missing, "Cookie: "+strings.ToUpper(sessionCookie)+"="+value),
		sends("a space behind its name", missing, "Cookie: "+sessionCookie+" ="+value),
		sends("its name encoded", missing, "Cookie: __Host%2Dsallyport-session="+value),
		sends("within another", missing, `Cookie: theme="`+sessionCookie+"="+value+`"`),
		sends("twice, another first", invalid, "Cookie: "+sessionCookie+"=planted; "+sessionCookie+"="+value),
		sends("twice, another last", invalid, "Cookie: "+sessionCookie+"="+value+"; "+sessionCookie+"=planted"),
		sends("twice the same", invalid, "Cookie: "+sessionCookie+"="+value+"; "+sessionCookie+"="+value),
		sends("twice, of which one is empty", invalid, "Cookie: "+sessionCookie+"; "+sessionCookie+"="+value),
		sends("in two fields", "400 header_duplicate", "Cookie: "+sessionCookie+"=planted", "Cookie: "+sessionCookie+"="+value),
		sends("in another field", missing, "Cookie2: "+sessionCookie+"="+value),
		sends("in the field of answers", missing, "Set-Cookie: "+sessionCookie+"="+value),
		{"in the query", who.with().asks("/app/7?" + sessionCookie + "=" + value), missing, good},
	}
	for part, at := range map[string]int{"key": 0, "nonce": 4, "text": 28, "seal": base64.RawURLEncoding.DecodedLen(len(value)) - 1} {
		changed := must(base64.RawURLEncoding.DecodeString(value))
		changed[at] ^= 1
		tricks = append(tricks, reads("a bit of its "+part+" changed", base64.RawURLEncoding.EncodeToString(changed), invalid))
	}
	return tricks
}

// sessionsElsewhere are tricks with a session that is good, but not there.
func (p *people) sessionsElsewhere(t *testing.T) []trick {
	who, staff, namesake, local, far := p.browser(alice), p.browser(alice), p.browser(alice), p.browser(alice), p.browser(alice)
	local.host, far.proxy = "localhost", p.Members[1]
	value := who.signsIn(t, "/app/7")
	staff.signsIn(t, "/staff/7")
	namesake.signsIn(t, "/elsewhere/7")
	at := func(host string, m *fleet.Member, from *person, path string) request {
		r := from.asks(path)
		r.host, r.proxy = host, m
		return r
	}
	aws, gcp := p.Members[0], p.Members[1]
	local.signsIn(t, "/app/7")
	far.signsIn(t, "/app/7")
	good, invalid := who.asks("/app/7"), "401 session_invalid"
	aged := func(began, lasts time.Duration) *person {
		return who.with(sessionCookie, who.aged(t, value, began, lasts))
	}
	old, almost := aged(61*time.Second, 10*time.Hour), aged(45*time.Second, 10*time.Hour)
	mixed := who.asks("/mixed/7")
	return []trick{
		{"on a route with another provider", who.asks("/staff/7"), invalid, staff.asks("/staff/7")},
		{"of another provider with the same issuer", staff.asks("/app/7"), invalid, good},
		{"of a namesake of another namespace", namesake.asks("/app/7"), invalid, good},
		{"at a namesake of another namespace", who.asks("/elsewhere/7"), invalid, namesake.asks("/elsewhere/7")},
		{"on a route where nobody signs in", who.asks("/token/7"), "401 credentials_missing", good},
		{"on a route for workloads", who.asks("/workload/7"), "401 credentials_missing", good},
		{"as a bearer token", who.with().asks("/mixed/7", "Authorization: Bearer "+value), "401 token_malformed", mixed},
		{"beside a token that is bad", who.asks("/mixed/7", "Authorization: Bearer "+p.other.token(nil)), "401 token_wrong_issuer", mixed},
		{"on a route that takes it for less long", old.asks("/brief/7"), "401 session_expired", old.asks("/app/7")},
		{"on that route, later", old.asks("/brief/7"), "401 session_expired", almost.asks("/brief/7")},
		{"after its end", aged(time.Hour+time.Second, time.Hour).asks("/app/7"), "401 session_expired", aged(time.Hour-time.Minute, time.Hour).asks("/app/7")},
		{"after the longest that the route allows", aged(10*time.Hour+time.Second, 100*time.Hour).asks("/app/7"), "401 session_expired", aged(10*time.Hour-time.Minute, 100*time.Hour).asks("/app/7")},
		{"of another host", at("127.0.0.1", aws, local, "/app/7"), invalid, local.asks("/app/7")},
		{"at another host", at("localhost", aws, who, "/app/7"), invalid, good},
		{"of another environment", at("127.0.0.1", aws, far, "/app/7"), invalid, far.asks("/app/7")},
		{"at another environment", at("127.0.0.1", gcp, who, "/app/7"), invalid, good},
	}
}

// crossSite are tricks of pages of other sites with somebody who has signed in.
func (p *people) crossSite(t *testing.T) []trick {
	who := p.browser(alice)
	who.signsIn(t, "/app/7")
	origin := p.url(who.asks("")).String()
	posts := func(header ...string) request {
		r := who.asks("/app/7", header...)
		r.method = "POST"
		return r
	}
	upgrades := func(header ...string) request {
		return who.asks("/app/7", append(header, "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")...)
	}
	ours, reads := posts("Sec-Fetch-Site: same-origin"), who.asks("/app/7", "Sec-Fetch-Site: cross-site")
	talks := upgrades("Sec-Fetch-Site: same-origin")
	const want = "403 cross_site"
	return []trick{
		{"a form", posts("Sec-Fetch-Site: cross-site"), want, ours},
		{"a form of a sibling", posts("Sec-Fetch-Site: same-site"), want, ours},
		{"a form that says two things", posts("Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: cross-site"), want, ours},
		{"a form that says a word of its own", posts("Sec-Fetch-Site: Same-Origin"), want, ours},
		{"a form with our origin", posts("Sec-Fetch-Site: cross-site", "Origin: "+origin), want, ours},
		{"a form in an old browser", posts("Origin: https://mallory.example"), want, posts("Origin: " + origin)},
		{"a form of a name that begins like ours", posts("Origin: " + origin + ".mallory.example"), want, posts("Origin: " + origin)},
		{"a form of another port", posts("Origin: https://127.0.0.1"), want, posts("Origin: " + origin)},
		{"a form over plain HTTP", posts("Origin: " + strings.Replace(origin, "https:", "http:", 1)), want, posts("Origin: " + origin)},
		{"a form of nobody", posts("Origin: null"), want, posts("Origin: " + origin)},
		{"a form that only refers to us", posts("Referer: " + origin + "/app/7"), want, posts("Origin: " + origin)},
		{"a form that says nothing", posts(), want, ours},
		{"a method in a header", posts("X-HTTP-Method-Override: GET"), want, reads},
		{"a WebSocket", upgrades("Sec-Fetch-Site: cross-site"), want, talks},
		{"a WebSocket in an old browser", upgrades("Origin: https://mallory.example"), want, upgrades("Origin: " + origin)},
		{"a WebSocket that says nothing", upgrades(), want, talks},
	}
}

// signOuts are tricks of pages of other sites that would sign somebody out.
func (p *people) signOuts(t *testing.T) []trick {
	who := p.browser(alice)
	who.signsIn(t, "/app/7")
	still := who.asks("/app/7")
	out := func(method string, header ...string) request {
		r := who.asks(logoutPath, header...)
		r.method = method
		return r
	}
	if a := who.goes(t, logoutPath, "Sec-Fetch-Site: cross-site"); a.status != 200 || len(a.header["Set-Cookie"]) > 0 {
		t.Errorf("to ask signs out: %d %v", a.status, a.header)
	}
	return []trick{
		{"a form", out("POST", "Sec-Fetch-Site: cross-site"), "403 cross_site", still},
		{"a form of a sibling", out("POST", "Sec-Fetch-Site: same-site"), "403 cross_site", still},
		{"a form in an old browser", out("POST", "Origin: https://mallory.example"), "403 cross_site", still},
		{"a form of nobody", out("POST", "Origin: null"), "403 cross_site", still},
		{"a form that says nothing", out("POST"), "403 cross_site", still},
		{"another method", out("PUT", "Sec-Fetch-Site: same-origin"), "405 method_not_allowed", still},
		{"another spelling of the path", func() request {
			r := out("POST", "Sec-Fetch-Site: same-origin")
			r.path = "/.sallyport/Logout"
			return r
		}(), "404 no_route", still},
	}
}

// endedSessions are tricks with sessions that are over. What ends one comes first.
func (p *people) endedSessions(t *testing.T) []trick {
	gone, kept, cut := p.browser(alice), p.browser(alice), p.browser(alice)
	gone.signsIn(t, "/app/7")
	kept.signsIn(t, "/app/7")
	id := must(session.Open(p.ring(t, cut.proxy), cut.host, cut.signsIn(t, "/app/7"))).ID
	open, err := p.dial(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = open.Close() })
	if a, err := p.send(open, cut.asks("/app/7")); err != nil || a.status != 200 {
		t.Fatalf("before: %d, %v", a.status, err)
	}
	leave := gone.asks(logoutPath, "Sec-Fetch-Site: same-origin")
	leave.method = "POST"
	if got := p.outcome(t, leave); !strings.HasPrefix(got, "303 to "+p.openID.issuer) {
		t.Errorf("signing out: %s", got)
	}
	p.revoke(t, fmt.Sprintf("session: {issuer: %q, id: %q}", p.openID.issuer, id))
	a, err := p.send(open, cut.asks("/app/7"))
	if err != nil {
		t.Fatal(err)
	}
	if got := a.outcome(t); got != "401 revoked" {
		t.Errorf("over a connection from before: %s", got)
	}
	good := kept.asks("/app/7")
	resealed := func(of *person) request {
		return of.with(sessionCookie, of.aged(t, of.cookies[sessionCookie], 0, time.Hour)).asks("/app/7")
	}
	return []trick{
		{"signed out", gone.asks("/app/7"), "401 session_ended", good},
		{"revoked", cut.asks("/app/7"), "401 revoked", good},
		{"revoked, on another route", cut.asks("/brief/7"), "401 revoked", kept.asks("/brief/7")},
		{"revoked, as if it had just begun", resealed(cut), "401 revoked", resealed(kept)},
	}
}

func (w *world) sessions(t *testing.T) {
	p := w.people(t)
	t.Run("cookies", func(t *testing.T) { w.try(t, p.sessionCookies(t)) })
	t.Run("elsewhere", func(t *testing.T) { w.try(t, p.sessionsElsewhere(t)) })
	t.Run("pages of other sites", func(t *testing.T) { w.try(t, p.crossSite(t)) })
	t.Run("to sign somebody out", func(t *testing.T) { w.try(t, p.signOuts(t)) })
	t.Run("planted", func(t *testing.T) { w.try(t, p.planted(t)) })
	t.Run("that are over", func(t *testing.T) { w.try(t, p.endedSessions(t)) })
	t.Run("what comes back", func(t *testing.T) { w.visit(t, p.callbacks(t)) })
	t.Run("what is under way", func(t *testing.T) { w.visit(t, p.pendings(t)) })
	t.Run("what is sealed", func(t *testing.T) { w.visit(t, p.resealed(t)) })
	t.Run("two people", func(t *testing.T) { w.visit(t, p.logins(t)) })
	t.Run("what was here before", func(t *testing.T) { w.visit(t, p.replays(t)) })
	t.Run("to send somebody away", func(t *testing.T) { w.visit(t, p.elsewhere(t)) })
	t.Run("ways back", p.waysBack)
	t.Run("somebody who is cut off", func(t *testing.T) { w.visit(t, p.cutOff(t)) }) // the last: it is the end of Mallory
}
