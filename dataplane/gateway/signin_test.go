package gateway_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/session"
)

// people is a world with a route on which people sign in at a real provider.
func people(t *testing.T, client, secret, more string) (*world, *echo, *openID) {
	t.Helper()
	o := startOpenID(t)
	w, e := newWorld(t, options{}), newEcho(t)
	file := ""
	if secret != "" {
		file = filepath.Join(w.dir, "secret")
		w.must(os.WriteFile(file, []byte(secret+"\n"), 0o600))
	}
	w.apply(w.listener() + o.provider(client, file) + signInRoute(e.address(), more))
	w.gateway.UseCookieKeys(ring(t, session.NewKey(time.Now().Add(-time.Hour))))
	return w, e, o
}

// Somebody without a session is sent to the provider and comes back, to the page
// that they asked for, as themselves; the upstream never sees the cookie.
func TestSignIn(t *testing.T) {
	for name, c := range map[string]struct{ client, secret string }{
		"with a secret":      {"web", "secret"},
		"with PKCE alone":    {"native", ""},
		"with another OP ID": {"api", "secret"},
	} {
		t.Run(name, func(t *testing.T) {
			w, _, _ := people(t, c.client, c.secret, "")
			p := w.browser()
			p.signIn("/orders/7?full=yes&a=b")
			answer := p.do("GET", "/orders/7?full=yes&a=b", nil, func(r *http.Request) { r.AddCookie(&http.Cookie{Name: "theme", Value: "dark"}) })
			if answer.StatusCode != http.StatusOK || !strings.Contains(answer.body, "GET /orders/7?full=yes&a=b ") {
				t.Fatalf("got %d: %s", answer.StatusCode, answer.body)
			}
			if strings.Contains(answer.body, "sallyport-session") || !strings.Contains(answer.body, "Cookie: theme=dark\r\n") {
				t.Errorf("the upstream got %s", answer.body)
			}
			d := w.records.of(t, "decision", answer.decision())
			if d.Principal == nil || d.Principal.ID != "id1" || d.Principal.Provider != "shop/people" || d.Reason != "allowed_by_policy" {
				t.Errorf("the record is %+v", d)
			}
			if names := slices.Collect(maps.Keys(p.cookies())); !slices.Equal(names, []string{session.CookieName}) {
				t.Errorf("the browser keeps %q", names)
			}
		})
	}
}

// What is sent to sign in is what a person waits for; all else is told to bring a
// credential.
func TestWhoIsSentToSignIn(t *testing.T) {
	w, _, o := people(t, "web", "secret", ", identityProviders: [people]")
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	for _, c := range []struct {
		what   string
		method string
		change []func(*http.Request)
		reason string
	}{
		{what: "a page", method: "GET", reason: "sign_in_required"},
		{what: "a page's head", method: "HEAD", reason: "sign_in_required"},
		{what: "an old browser", method: "GET", change: []func(*http.Request){func(r *http.Request) {
			r.Header = http.Header{"Accept": {"text/html"}}
		}}, reason: "sign_in_required"},
		{what: "a form", method: "POST", reason: "credentials_missing"},
		{what: "an API's client", method: "GET", change: []func(*http.Request){set("Accept", "application/json")}, reason: "credentials_missing"},
		{what: "a script", method: "GET", change: []func(*http.Request){set("Sec-Fetch-Mode", "cors")}, reason: "credentials_missing"},
		{what: "a frame", method: "GET", change: []func(*http.Request){set("Sec-Fetch-Dest", "iframe")}, reason: "credentials_missing"},
		{what: "a page loaded ahead", method: "GET", change: []func(*http.Request){set("Sec-Purpose", "prefetch")}, reason: "credentials_missing"},
		{what: "a bad token", method: "GET", change: []func(*http.Request){set("Authorization", "Bearer x")}, reason: "token_malformed"},
	} {
		answer := w.browser().do(c.method, "/orders", nil, c.change...)
		d := w.records.of(t, "decision", answer.decision())
		if d.Reason != c.reason || d.Allow || (c.reason == "sign_in_required") != (answer.StatusCode == http.StatusFound) {
			t.Errorf("%s: %d, %+v", c.what, answer.StatusCode, d)
		}
		to, err := url.Parse(answer.location())
		w.must(err)
		q := to.Query()
		if answer.StatusCode == http.StatusFound && (!strings.HasPrefix(answer.location(), o.issuer+"auth?") ||
			q.Get("code_challenge_method") != "S256" || len(q.Get("code_challenge")) != 43 || len(q.Get("nonce")) < 26 || len(q.Get("state")) < 26 ||
			q.Get("response_type") != "code" || q.Get("scope") != "openid email" || q.Get("redirect_uri") != "https://"+signInHost+"/.sallyport/callback") {
			t.Errorf("%s is sent to %s", c.what, answer.location())
		}
	}
}

// Of what comes back from the provider nothing may be another's, or used twice.
func TestCallbackIsBoundToItsBrowser(t *testing.T) {
	w, _, _ := people(t, "web", "secret", "")
	refused := func(what string, p *person, callback, reason string) {
		t.Helper()
		answer := p.get(callback)
		d := w.records.of(t, "decision", answer.decision())
		if d.Reason != reason || d.Allow || p.cookies()[session.CookieName] != "" || answer.location() != "" {
			t.Errorf("%s: %d, %+v", what, answer.StatusCode, d)
		}
		if !strings.Contains(answer.body, reason) || !strings.Contains(answer.Header.Get("Content-Type"), "text/html") {
			t.Errorf("%s: the person reads %s", what, answer.body)
		}
	}
	with := func(callback, name, value string) string {
		u, err := url.Parse(callback)
		w.must(err)
		q := u.Query()
		if q.Set(name, value); value == "" {
			q.Del(name)
		}
		u.RawQuery = q.Encode()
		return u.String()
	}
	p := w.browser()
	callback := p.returns("/orders")
	refused("another browser (login CSRF)", w.browser(), callback, "sign_in_unknown")
	other := w.browser()
	other.returns("/orders")
	refused("another browser that signs in itself", other, callback, "sign_in_unknown")
	refused("another state", p, with(callback, "state", strings.Repeat("A", 26)), "sign_in_unknown")
	refused("no state", p, with(callback, "state", ""), "sign_in_unknown")
	refused("two states", p, callback+"&state=A", "sign_in_unknown")
	refused("no code", p, with(callback, "code", ""), "sign_in_failed")
	refused("a made-up code", p, with(callback, "code", "x"), "sign_in_failed")
	refused("an answer of another provider", p, with(callback, "iss", "https://mallory.example"), "sign_in_failed")
	refused("a refusal", p, with(callback, "error", "access_denied"), "sign_in_refused")
	refused("a query that cannot be read", p, callback+"&a;b", "sign_in_unknown")

	if answer := p.get(callback); answer.StatusCode != http.StatusSeeOther || answer.location() != "/orders" {
		t.Fatalf("the browser itself: %d %s", answer.StatusCode, answer.body)
	}
	pending := maps.Clone(p.cookies())
	q := w.browser()
	callback = q.returns("/orders")
	kept := q.cookies()
	if answer := q.get(callback); answer.StatusCode != http.StatusSeeOther {
		t.Fatalf("got %d", answer.StatusCode)
	}
	replay := w.browser()
	for name, value := range kept {
		replay.put(name, value)
	}
	refused("a code that was used, with the cookie that was removed", replay, callback, "sign_in_failed")
	if len(pending) != 1 {
		t.Errorf("after a sign-in the browser keeps %q", slices.Collect(maps.Keys(pending)))
	}
}

// A code of another sign-in of the same browser fails by PKCE and nonce.
func TestCodeOfAnotherSignIn(t *testing.T) {
	w, _, _ := people(t, "native", "", "")
	p := w.browser()
	first, second := p.returns("/a"), p.returns("/b")
	one, err := url.Parse(first)
	w.must(err)
	two, err := url.Parse(second)
	w.must(err)
	mixed := two.Query()
	mixed.Set("code", one.Query().Get("code"))
	answer := p.get("/.sallyport/callback?" + mixed.Encode())
	if d := w.records.of(t, "decision", answer.decision()); d.Reason != "sign_in_failed" {
		t.Errorf("got %+v", d)
	}
	// Windows that were opened at once do not get into each other's way.
	for target, callback := range map[string]string{"/a": first, "/b": second} {
		if answer := p.get(callback); answer.StatusCode != http.StatusSeeOther || answer.location() != target {
			t.Errorf("%s: %d %s", target, answer.StatusCode, answer.body)
		}
	}
}

// The way back leads to a path of the same host, whatever was asked for.
func TestWayBack(t *testing.T) {
	w, _, _ := people(t, "web", "secret", "")
	for _, target := range []string{"//mallory.example/", "/%5cmallory.example", "/\\mallory.example", "/a//b", "https://mallory.example/"} {
		res, _ := w.raw("GET " + target + " HTTP/1.1\r\nHost: " + host + "\r\nAccept: text/html\r\n\r\n")
		if res.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d", target, res.StatusCode)
		}
	}
	for target, back := range map[string]string{
		"/?next=https://mallory.example":        "/?next=https://mallory.example",
		"/" + strings.Repeat("a", 900) + "?q=1": "/" + strings.Repeat("a", 900) + "?q=1",
		"/short?q=" + strings.Repeat("a", 2000): "/short",
		"/" + strings.Repeat("a", 2000):         "/",
	} {
		p := w.browser()
		if answer := p.get(p.returns(target)); answer.StatusCode != http.StatusSeeOther || answer.location() != back {
			t.Errorf("%.40s: %d to %.40q", target, answer.StatusCode, answer.location())
		}
	}
}

// A session is one of its host, environment and purpose, whole, and for its time.
func TestSessions(t *testing.T) {
	w, _, _ := people(t, "web", "secret", "")
	old := session.NewKey(time.Now().Add(-48 * time.Hour))
	w.gateway.UseCookieKeys(ring(t, old))
	p := w.browser()
	p.signIn("/orders")
	good := p.cookies()[session.CookieName]
	api := func(r *http.Request) {
		r.Header = http.Header{"Accept": {"application/json"}, "Cookie": r.Header["Cookie"]}
	}
	expect := func(what, cookie, reason string) {
		t.Helper()
		p := w.browser()
		p.put(session.CookieName, cookie)
		answer := p.do("GET", "/orders", nil, api)
		if d := w.records.of(t, "decision", answer.decision()); d.Reason != reason {
			t.Errorf("%s: %+v, want %s", what, d, reason)
		}
	}
	expect("it", good, "allowed_by_policy")
	changed := []byte(good)
	changed[len(changed)/2] ^= 1
	expect("changed", string(changed), "session_invalid")
	expect("cut", good[:len(good)-4], "session_invalid")
	expect("nothing", "", "session_invalid")
	expect("too long", strings.Repeat("A", 5000), "session_invalid")

	plain, err := ring(t, old).Open(session.Signed, signInHost, good)
	w.must(err)
	elsewhere, err := session.NewRing("gcp", old)
	w.must(err)
	seal := func(r *session.Ring, purpose session.Purpose, host string) string {
		v, err := r.Seal(purpose, host, plain, time.Now())
		w.must(err)
		return v
	}
	expect("sealed again", seal(ring(t, old), session.Signed, signInHost), "allowed_by_policy")
	expect("of another host", seal(ring(t, old), session.Signed, "other.wild.example"), "session_invalid")
	expect("of another environment", seal(elsewhere, session.Signed, signInHost), "session_invalid")
	expect("of another purpose", seal(ring(t, old), session.Pending, signInHost), "session_invalid")
	expect("of a key that nobody knows", seal(ring(t, session.NewKey(time.Time{})), session.Signed, signInHost), "session_invalid")

	// Keys are rotated: the one before still opens, and one to come does, too.
	now, next := session.NewKey(time.Now().Add(-time.Hour)), session.NewKey(time.Now().Add(24*time.Hour))
	w.gateway.UseCookieKeys(ring(t, next, old, now))
	expect("of the key before", good, "allowed_by_policy")
	w.gateway.UseCookieKeys(ring(t, now, next))
	expect("of a key that was retired", good, "session_invalid")
	w.gateway.UseCookieKeys(nil)
	expect("without keys", good, "session_keys_unavailable")
	if answer := w.browser().get("/orders"); answer.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("without keys a browser gets %d", answer.StatusCode)
	}
	w.gateway.UseCookieKeys(ring(t, old))
	w.set(func() { w.ahead = 10*time.Hour - time.Minute })
	expect("before its end", good, "allowed_by_policy")
	w.set(func() { w.ahead = 10*time.Hour + time.Second })
	expect("after its end", good, "session_expired")
	if answer := p.get("/orders"); answer.StatusCode != http.StatusFound {
		t.Errorf("after its end a browser gets %d", answer.StatusCode)
	}
}

// Each sign-in makes another session: what was in the browser before is worth
// nothing after it.
func TestSignInMakesANewSession(t *testing.T) {
	w, _, _ := people(t, "web", "secret", "")
	p := w.browser()
	p.put(session.CookieName, "planted")
	p.signIn("/orders")
	first := p.cookies()[session.CookieName]
	p.jar.SetCookies(&url.URL{Scheme: "https", Host: signInHost}, []*http.Cookie{{Name: session.CookieName, Path: "/", MaxAge: -1}})
	p.signIn("/orders")
	if second := p.cookies()[session.CookieName]; first == "planted" || second == first || second == "" {
		t.Errorf("sessions are %q and %q", first, second)
	}
}

// Two proxies of an environment share sessions.
func TestProxiesShareSessions(t *testing.T) {
	w, e, o := people(t, "native", "", "")
	other := newWorld(t, options{})
	other.apply(other.listener() + o.provider("native", "") + signInRoute(e.address(), ""))
	keys := ring(t, session.NewKey(time.Now().Add(-time.Minute)))
	w.gateway.UseCookieKeys(keys)
	other.gateway.UseCookieKeys(keys)
	p := w.browser()
	p.signIn("/orders")
	q := other.browser()
	q.put(session.CookieName, p.cookies()[session.CookieName])
	if answer := q.get("/orders"); answer.StatusCode != http.StatusOK {
		t.Errorf("the other proxy answers %d: %s", answer.StatusCode, answer.body)
	}
	// A sign-in may begin at one and end at the other.
	r := w.browser()
	callback := r.returns("/orders")
	s := other.browser()
	for name, value := range r.cookies() {
		s.put(name, value)
	}
	if answer := s.get(callback); answer.StatusCode != http.StatusSeeOther {
		t.Errorf("the other proxy completes with %d: %s", answer.StatusCode, answer.body)
	}
}

// What changes something has to come from a page of the same host.
func TestCrossSite(t *testing.T) {
	w, e, _ := people(t, "web", "secret", "")
	p := w.browser()
	p.signIn("/orders")
	without := func(r *http.Request) { r.Header = http.Header{} }
	with := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	for _, c := range []struct {
		what   string
		method string
		change func(*http.Request)
		allow  bool
	}{
		{"another site's link", "GET", with("Sec-Fetch-Site", "cross-site"), true},
		{"our form", "POST", with("Sec-Fetch-Site", "same-origin"), true},
		{"our form, without a referrer", "POST", func(r *http.Request) {
			r.Header.Set("Sec-Fetch-Site", "same-origin")
			r.Header.Set("Origin", "null")
		}, true},
		{"an address that was typed", "POST", with("Sec-Fetch-Site", "none"), true},
		{"an old browser's form", "POST", with("Origin", "https://"+signInHost), true},
		{"another site's form", "POST", with("Sec-Fetch-Site", "cross-site"), false},
		{"a sibling's form", "POST", with("Sec-Fetch-Site", "same-site"), false},
		{"another site's form in an old browser", "POST", with("Origin", "https://mallory.example"), false},
		{"a sibling's form in an old browser", "DELETE", with("Origin", "https://other.wild.example"), false},
		{"another port's form in an old browser", "PUT", with("Origin", "https://"+signInHost+":8443"), false},
		{"another scheme's form in an old browser", "POST", with("Origin", "http://"+signInHost), false},
		{"a form of nobody", "POST", with("Origin", "null"), false},
		{"no word of where it comes from", "PATCH", func(*http.Request) {}, false},
		{"another site that claims our origin", "POST", func(r *http.Request) {
			r.Header.Set("Sec-Fetch-Site", "cross-site")
			r.Header.Set("Origin", "https://"+signInHost)
		}, false},
	} {
		before := e.requests.Load()
		answer := p.do(c.method, "/orders", nil, without, c.change)
		d := w.records.of(t, "decision", answer.decision())
		want := map[bool]string{true: "allowed_by_policy", false: "cross_site"}[c.allow]
		if d.Reason != want || (e.requests.Load() > before) != c.allow {
			t.Errorf("%s: %d, %+v", c.what, answer.StatusCode, d)
		}
	}
}

// Signing out ends the session here, removes the cookie, and goes on to the
// provider.
func TestLogout(t *testing.T) {
	w, _, o := people(t, "web", "secret", "")
	p := w.browser()
	p.signIn("/orders")
	kept := p.cookies()[session.CookieName]
	asked := p.get("/.sallyport/logout")
	if asked.StatusCode != http.StatusOK || !strings.Contains(asked.body, `<form method="post" action="/.sallyport/logout">`) {
		t.Fatalf("got %d: %s", asked.StatusCode, asked.body)
	}
	if answer := p.get("/orders"); answer.StatusCode != http.StatusOK {
		t.Errorf("to ask ends nothing: %d", answer.StatusCode)
	}
	from := func(site string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", site) }
	}
	if answer := p.do("POST", "/.sallyport/logout", url.Values{}, from("cross-site")); answer.StatusCode != http.StatusForbidden {
		t.Errorf("another site signs people out: %d", answer.StatusCode)
	}
	out := p.do("POST", "/.sallyport/logout", url.Values{}, from("same-origin"))
	if out.StatusCode != http.StatusSeeOther || out.location() != o.issuer+"end_session?client_id=web" {
		t.Errorf("got %d to %q: %s", out.StatusCode, out.location(), out.body)
	}
	if d := w.records.of(t, "decision", out.decision()); !d.Allow || d.Reason != "signed_out" || d.Principal == nil || d.Principal.ID != "id1" {
		t.Errorf("the record is %+v", d)
	}
	w.records.of(t, "outcome", out.decision())
	if len(p.cookies()) != 0 {
		t.Errorf("the browser keeps %v", p.cookies())
	}
	thief := w.browser()
	thief.put(session.CookieName, kept)
	answer := thief.do("GET", "/orders", nil, func(r *http.Request) { r.Header.Set("Accept", "*/*") })
	if d := w.records.of(t, "decision", answer.decision()); d.Reason != "session_ended" || answer.StatusCode != http.StatusUnauthorized {
		t.Errorf("the cookie is still worth something: %+v", d)
	}
	again := w.browser()
	again.signIn("/orders")
	if answer := again.get("/orders"); answer.StatusCode != http.StatusOK {
		t.Errorf("a later session has ended as well: %d", answer.StatusCode)
	}
}

// What a provider tells at its userinfo endpoint alone is asked for where that is
// wanted, and counts as what an ID token says.
func TestUserInfo(t *testing.T) {
	for more, want := range map[string]string{"": "403 no_matching_policy", ", userinfo: true": "200 allowed_by_policy"} {
		w, e, o := newWorld(t, options{}), newEcho(t), startOpenID(t)
		provider := strings.Replace(o.provider("native", ""), "scopes: [email]", "scopes: [email]"+more, 1)
		provider = strings.Replace(provider, "audiences: [api]", "audiences: [api]\n  groupsClaim: email", 1)
		w.apply(w.listener() + provider + strings.Replace(signInRoute(e.address(), ""), "subject: id1, identityProvider: people", "group: test-user@zitadel.ch, identityProvider: people", 1))
		w.gateway.UseCookieKeys(ring(t, session.NewKey(time.Now().Add(-time.Hour))))
		p := w.browser()
		p.signIn("/orders")
		answer := p.get("/orders")
		d := w.records.of(t, "decision", answer.decision())
		if got := fmt.Sprint(answer.StatusCode, " ", d.Reason); got != want || d.Principal == nil || d.Principal.ID != "id1" {
			t.Errorf("with %q: %s, want %s: %+v", more, got, want, d.Principal)
		}
	}
}

// A person is told when other proxies may not know yet that they have signed out,
// and can try again, though the browser has no session any more.
func TestLogoutThatIsNotConfirmed(t *testing.T) {
	w, _, o := people(t, "web", "secret", "")
	p := w.browser()
	p.signIn("/orders")
	kept := p.cookies()[session.CookieName]
	leave := func() page {
		return p.do("POST", "/.sallyport/logout", url.Values{}, func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-origin") })
	}
	w.set(func() { w.away = errors.New("the control plane is away") })
	out := leave()
	if out.StatusCode != http.StatusServiceUnavailable || out.location() != "" || !strings.Contains(out.body, "could not be confirmed") ||
		!strings.Contains(out.body, `<form method="post" action="/.sallyport/logout">`) {
		t.Errorf("got %d to %q: %s", out.StatusCode, out.location(), out.body)
	}
	d := w.records.of(t, "decision", out.decision())
	if d.Allow || d.Reason != "logout_unconfirmed" || d.Principal == nil || d.Principal.ID != "id1" || d.Detail != "the control plane is away" {
		t.Errorf("the record is %+v", d)
	}
	if got := p.cookies(); !maps.Equal(got, map[string]string{session.LeavingName: kept}) {
		t.Errorf("the browser keeps %v", got)
	}
	thief := w.browser()
	thief.put(session.CookieName, kept)
	if answer := thief.get("/orders"); answer.StatusCode == http.StatusOK {
		t.Error("the session goes on here")
	}
	p.signIn("/orders")
	w.set(func() { w.away = nil })
	again := p.cookies()[session.CookieName]
	if out := leave(); out.StatusCode != http.StatusSeeOther || out.location() != o.issuer+"end_session?client_id=web" {
		t.Errorf("tried again: %d to %q: %s", out.StatusCode, out.location(), out.body)
	}
	if got := p.cookies(); len(got) != 0 {
		t.Errorf("the browser keeps %v", got)
	}
	var told []string
	for _, proof := range w.told {
		told = append(told, proof.GetSession().GetValue())
	}
	if !slices.Equal(told, []string{kept, kept, again}) {
		t.Errorf("the control plane was told of %q", told)
	}
}

// An upstream cannot make cookies that are ours.
func TestUpstreamSetsNoSession(t *testing.T) {
	w, e, _ := people(t, "web", "secret", "")
	p := w.browser()
	p.signIn("/orders")
	e.answerWith(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Add("Set-Cookie", "__Host-sallyport-session=planted; Path=/; Secure")
		w.Header().Add("Set-Cookie", "__host-Sallyport-signin-AAAAAAAA=planted; Path=/; Secure")
		w.Header().Add("Set-Cookie", "theme=dark")
	})
	if got := p.get("/orders").Header["Set-Cookie"]; !slices.Equal(got, []string{"theme=dark"}) {
		t.Errorf("got %q", got)
	}
}

// The gateway's own paths are its own on every host, and no others are.
func TestReservedPaths(t *testing.T) {
	w, e, _ := people(t, "web", "secret", "")
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/.sallyport/", http.StatusNotFound},
		{"GET", "/.sallyport/callback/", http.StatusNotFound},
		{"POST", "/.sallyport/callback", http.StatusMethodNotAllowed},
		{"PUT", "/.sallyport/logout", http.StatusMethodNotAllowed},
		{"GET", "/.sallyport/backchannel-logout", http.StatusMethodNotAllowed},
		{"GET", "/.sallyport/callback", http.StatusBadRequest},
		{"GET", "/.sallyports", http.StatusFound},
	} {
		if answer := w.browser().do(c.method, c.path, nil); answer.StatusCode != c.status {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, answer.StatusCode, c.status)
		}
	}
	if n := e.requests.Load(); n != 0 {
		t.Errorf("the upstream got %d requests", n)
	}
}

// A page of another site must not open a WebSocket in the person's name, though it
// does so with GET.
func TestCrossSiteWebSocket(t *testing.T) {
	w, _, _ := people(t, "web", "secret", "")
	p := w.browser()
	p.signIn("/orders")
	cookie := session.CookieName + "=" + p.cookies()[session.CookieName]
	for fields, want := range map[string]string{
		"Origin: https://" + signInHost: "allowed_by_policy", "Sec-Fetch-Site: same-origin": "allowed_by_policy",
		"Origin: https://mallory.example": "cross_site", "Sec-Fetch-Site: cross-site": "cross_site", "X-Other: field": "cross_site",
	} {
		cfg := w.tls(signInHost)
		cfg.NextProtos = []string{"http/1.1"}
		conn, err := tls.Dial("tcp", w.address("edge/public"), cfg)
		w.must(err)
		w.must(conn.SetDeadline(time.Now().Add(10 * time.Second)))
		w.send(conn, "GET /live HTTP/1.1\r\nHost: "+signInHost+"\r\nCookie: "+cookie+"\r\n"+shake+fields+"\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		w.must(err)
		if d := w.records.of(t, "decision", res.Header.Get("Sallyport-Decision-Id")); d.Reason != want {
			t.Errorf("%s: %+v, want %s", fields, d, want)
		}
		_ = res.Body.Close()
		_ = conn.Close()
	}
}

// Who is revoked is sent to sign in again, and told when that does not help.
func TestRevokedSession(t *testing.T) {
	w, _, o := people(t, "web", "secret", "")
	p := w.browser()
	p.signIn("/orders")
	reason := func(answer page) string { return w.records.of(t, "decision", answer.decision()).Reason }
	w.revoke("subject: {issuer: " + o.issuer + ", id: id2}")
	if answer := p.get("/orders"); answer.StatusCode != http.StatusOK {
		t.Fatalf("somebody else was revoked: %d", answer.StatusCode)
	}
	w.revoke(fmt.Sprintf("subject: {issuer: %q, id: id1}, issuedBefore: %q", o.issuer, time.Now().Add(time.Second).UTC().Format(time.RFC3339)))
	w.set(func() { w.ahead = 3 * time.Second })
	answer := p.do("GET", "/orders", nil, func(r *http.Request) { r.Header.Set("Accept", "application/json") })
	if answer.StatusCode != http.StatusUnauthorized || reason(answer) != "revoked" || answer.Header.Get("WWW-Authenticate") != `Session realm="sallyport"` {
		t.Errorf("got %d: %s", answer.StatusCode, answer.body)
	}
	p.signIn("/orders")
	if answer := p.get("/orders"); answer.StatusCode != http.StatusOK {
		t.Errorf("the session after it is revoked as well: %d", answer.StatusCode)
	}
	w.revoke("subject: {issuer: " + o.issuer + ", id: id1}")
	answer = p.get(p.returns("/orders"))
	if answer.StatusCode != http.StatusUnauthorized || reason(answer) != "revoked" || answer.location() != "" || answer.Header["Set-Cookie"] != nil {
		t.Errorf("the callback answers %d to %q: %s", answer.StatusCode, answer.location(), answer.body)
	}
}

// A route that demands another or a more recent sign-in has the provider asked for
// it, and tells the person when that does not help.
func TestStepUpBySignIn(t *testing.T) {
	w, _, _ := people(t, "web", "secret", ", stepUp: {maxAge: 600s}")
	p := w.browser()
	p.signIn("/orders")
	if answer := p.get("/orders"); answer.StatusCode != http.StatusOK {
		t.Fatalf("got %d: %s", answer.StatusCode, answer.body)
	}
	w.set(func() { w.ahead = 11 * time.Minute })
	api := p.do("GET", "/orders", nil, func(r *http.Request) { r.Header.Set("Accept", "application/json") })
	if d := w.records.of(t, "decision", api.decision()); d.Reason != "step_up_required" || api.StatusCode != http.StatusUnauthorized {
		t.Errorf("got %d, %+v", api.StatusCode, d)
	}
	answer := p.get("/orders")
	to, err := url.Parse(answer.location())
	w.must(err)
	if answer.StatusCode != http.StatusFound || to.Query().Get("max_age") != "600" {
		t.Errorf("got %d to %s", answer.StatusCode, answer.location())
	}

	w, _, _ = people(t, "web", "secret", `, stepUp: {acrValues: ["phr", "phrh"], amr: [hwk]}`)
	p = w.browser()
	to, err = url.Parse(p.get("/orders").location())
	w.must(err)
	if to.Query().Get("acr_values") != "phr phrh" {
		t.Errorf("the provider is asked for %s", to.RawQuery)
	}
	answer = p.get(p.returns("/orders"))
	if d := w.records.of(t, "decision", answer.decision()); d.Reason != "step_up_required" || answer.location() != "" || answer.Header["Set-Cookie"] != nil {
		t.Errorf("got %d to %q, %+v", answer.StatusCode, answer.location(), d)
	}
}
