package gateway_test

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/internal/session"
)

// logoutToken signs one for alice, the client app and the session one, with claims
// put over the usual; nil ones are left out.
func (k *tokens) logoutToken(typ string, claims jwt.MapClaims) string {
	all := jwt.MapClaims{
		"iss": "https://login.example", "aud": "app", "sub": "alice", "sid": "one", "jti": fmt.Sprint(time.Now().UnixNano()),
		"iat": time.Now().Unix(), "exp": time.Now().Add(2 * time.Minute).Unix(),
		"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}},
	}
	maps.Copy(all, claims)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	t := jwt.NewWithClaims(jwt.SigningMethodES256, all)
	t.Header["kid"], t.Header["typ"] = "one", typ
	raw, err := t.SignedString(k.key)
	if err != nil {
		panic(err)
	}
	return raw
}

// signedIn is a world with a route on which people sign in at login.example, and
// the cookies of sessions there.
func signedIn(t *testing.T) (w *world, cookie func(sub, sid string) string) {
	t.Helper()
	w = newWorld(t, options{})
	e := newEcho(t)
	login := strings.Replace(strings.Replace(w.login(), "name: login", "name: people", 1), "audiences: [orders]", "audiences: [orders], signIn: {clientId: app}", 1)
	w.apply(w.listener() + login + strings.Replace(signInRoute(e.address(), ""), "subject: id1, identityProvider: people", "authenticated: true", 1))
	keys := ring(t, session.NewKey(time.Now().Add(-time.Hour)))
	w.gateway.UseCookieKeys(keys)
	return w, func(sub, sid string) string {
		s := session.Session{
			Provider: "shop/people", Issuer: "https://login.example", Subject: sub, ID: sid,
			SignedIn: w.now().UTC().Truncate(time.Second), Expires: w.now().Add(time.Hour),
		}
		v, err := s.Seal(keys, signInHost, w.now())
		w.must(err)
		return v
	}
}

// What a provider says to have ended has ended, and nothing else; what is no
// logout token, or was here before, ends nothing.
func TestBackchannelLogout(t *testing.T) {
	w, cookie := signedIn(t)
	reason := func(cookie string) string {
		t.Helper()
		p := w.browser()
		p.put(session.CookieName, cookie)
		answer := p.do("GET", "/", nil, func(r *http.Request) { r.Header.Set("Accept", "*/*") })
		return w.records.of(t, "decision", answer.decision()).Reason
	}
	logout := func(token string) (int, string) {
		t.Helper()
		answer := w.browser().do("POST", "/.sallyport/backchannel-logout", url.Values{"logout_token": {token}})
		return answer.StatusCode, w.records.of(t, "decision", answer.decision()).Reason
	}
	one, two, bob := cookie("alice", "one"), cookie("alice", "two"), cookie("bob", "three")
	for what, token := range map[string]string{
		"an access token":         w.tokens.sign(nil),
		"another type":            w.tokens.logoutToken("JWT", nil),
		"a nonce":                 w.tokens.logoutToken("logout+jwt", jwt.MapClaims{"nonce": "x"}),
		"no event":                w.tokens.logoutToken("logout+jwt", jwt.MapClaims{"events": nil}),
		"another event":           w.tokens.logoutToken("logout+jwt", jwt.MapClaims{"events": map[string]any{"x": map[string]any{}}}),
		"an event that is text":   w.tokens.logoutToken("logout+jwt", jwt.MapClaims{"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": ""}}),
		"nobody":                  w.tokens.logoutToken("logout+jwt", jwt.MapClaims{"sub": nil, "sid": nil}),
		"no jti":                  w.tokens.logoutToken("logout+jwt", jwt.MapClaims{"jti": nil}),
		"no iat":                  w.tokens.logoutToken("logout+jwt", jwt.MapClaims{"iat": nil}),
		"no exp":                  w.tokens.logoutToken("logout+jwt", jwt.MapClaims{"exp": nil}),
		"an iat of long ago":      w.tokens.logoutToken("logout+jwt", jwt.MapClaims{"iat": time.Now().Add(-6 * time.Minute).Unix()}),
		"an iat of the future":    w.tokens.logoutToken("logout+jwt", jwt.MapClaims{"iat": time.Now().Add(time.Minute).Unix()}),
		"an exp that has passed":  w.tokens.logoutToken("logout+jwt", jwt.MapClaims{"exp": time.Now().Add(-time.Minute).Unix()}),
		"another client":          w.tokens.logoutToken("logout+jwt", jwt.MapClaims{"aud": "orders"}),
		"another issuer":          w.tokens.logoutToken("logout+jwt", jwt.MapClaims{"iss": "https://other.example"}),
		"another signature":       w.tokens.logoutToken("logout+jwt", nil) + "A",
		"no token":                "",
		"what is too large":       strings.Repeat("a", 20<<10),
		"more than a body may be": strings.Repeat("a", 40<<10),
	} {
		if status, reason := logout(token); status != http.StatusBadRequest || reason != "logout_invalid" {
			t.Errorf("%s: %d %s", what, status, reason)
		}
	}
	for _, c := range []string{one, two, bob} {
		if r := reason(c); r != "allowed_by_policy" {
			t.Fatalf("a session has ended: %s", r)
		}
	}
	token := w.tokens.logoutToken("logout+jwt", nil)
	if status, reason := logout(token); status != http.StatusOK || reason != "signed_out" {
		t.Fatalf("got %d %s", status, reason)
	}
	if status, reason := logout(token); status != http.StatusBadRequest || reason != "logout_invalid" {
		t.Errorf("a token is taken twice: %d %s", status, reason)
	}
	for c, want := range map[string]string{one: "session_ended", two: "allowed_by_policy", bob: "allowed_by_policy"} {
		if r := reason(c); r != want {
			t.Errorf("after the logout of a session: %s, want %s", r, want)
		}
	}
	if status, _ := logout(w.tokens.logoutToken("logout+jwt", jwt.MapClaims{"sid": nil})); status != http.StatusOK {
		t.Fatalf("got %d", status)
	}
	for c, want := range map[string]string{two: "session_ended", bob: "allowed_by_policy"} {
		if r := reason(c); r != want {
			t.Errorf("after the logout of a subject: %s, want %s", r, want)
		}
	}
	w.set(func() { w.ahead = 2 * time.Second })
	if r := reason(cookie("alice", "four")); r != "allowed_by_policy" {
		t.Errorf("a later session has ended as well: %s", r)
	}
}

// A logout that the control plane has not confirmed has ended the session here, and
// is taken again, once; what begins between the two goes on.
func TestBackchannelLogoutIsTriedAgain(t *testing.T) {
	w, cookie := signedIn(t)
	logout := func(token string) (int, string) {
		t.Helper()
		answer := w.browser().do("POST", "/.sallyport/backchannel-logout", url.Values{"logout_token": {token}})
		if got := answer.Header.Get("Cache-Control"); got != "no-store" {
			t.Errorf("the answer may be kept: %q", got)
		}
		return answer.StatusCode, w.records.of(t, "decision", answer.decision()).Reason
	}
	reason := func(cookie string) string {
		t.Helper()
		p := w.browser()
		p.put(session.CookieName, cookie)
		answer := p.do("GET", "/", nil, func(r *http.Request) { r.Header.Set("Accept", "*/*") })
		return w.records.of(t, "decision", answer.decision()).Reason
	}
	before := cookie("alice", "one")
	w.set(func() { w.away = errors.New("the control plane is away") })
	token := w.tokens.logoutToken("logout+jwt", jwt.MapClaims{"sid": nil})
	for range 2 {
		if status, reason := logout(token); status != http.StatusServiceUnavailable || reason != "logout_unconfirmed" {
			t.Fatalf("got %d %s", status, reason)
		}
	}
	if r := reason(before); r != "session_ended" {
		t.Errorf("it has not ended here: %s", r)
	}
	w.set(func() { w.ahead = 2 * time.Second })
	after := cookie("alice", "two")
	w.set(func() { w.ahead, w.away = 4*time.Second, nil })
	for _, want := range []int{http.StatusOK, http.StatusBadRequest} {
		if status, reason := logout(token); status != want {
			t.Errorf("got %d %s, want %d", status, reason, want)
		}
	}
	for c, want := range map[string]string{before: "session_ended", after: "allowed_by_policy"} {
		if r := reason(c); r != want {
			t.Errorf("in the end: %s, want %s", r, want)
		}
	}
	if len(w.told) != 3 || w.told[2].GetLogoutToken() != token {
		t.Errorf("the control plane was told %v", w.told)
	}
}
