package e2e_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
	"github.com/sallyport/sallyport/dataplane/vault"
	"github.com/sallyport/sallyport/internal/session"
)

const loginIssuer = "https://login.example"

// A provider where people sign in, a route for the tokens that it issues with a
// session, and one for browsers, which no proxy behind an edge has the keys for.
const loginResources = `apiVersion: sallyport/v1
kind: IdentityProvider
metadata: {namespace: shop, name: people}
spec:
  issuer: %[1]q
  jwks: '{"keys":[{"kty":"OKP","crv":"Ed25519","use":"sig","kid":"one","x":%[2]q}]}'
  audiences: [orders]
  signIn: {clientId: app}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: inbox}
spec: {hosts: [localhost, 127.0.0.1], paths: [/v1/inbox/**], upstream: orders, authentication: {identityProviders: [people]}}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: desk}
spec:
  environments: [%[3]s]
  hosts: [localhost, 127.0.0.1]
  paths: [/v1/desk/**]
  upstream: orders
  authentication: {signIn: {identityProvider: people}}
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: inbox}
spec:
  routes: {names: [inbox]}
  effect: ALLOW
  principals: [{subject: alice, identityProvider: people}]
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: desk}
spec:
  environments: [%[3]s]
  routes: {names: [desk]}
  effect: ALLOW
  principals: [{subject: alice, identityProvider: people}]
`

// login is a provider, and people who have signed in there.
type login struct {
	*testing.T
	fleet *fleet.Fleet
	key   ed25519.PrivateKey
	ring  *session.Ring // of the proxy that is connected to a replica with a database
}

func startLogin(t *testing.T, f *fleet.Fleet) *login {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(loginResources, loginIssuer, base64.RawURLEncoding.EncodeToString(public), f.Members[0].Environment)
	if err := prove(within(t, time.Minute), f, text); err != nil {
		t.Fatal(err)
	}
	l := &login{T: t, fleet: f, key: key}
	eventually(t, 10*time.Second, func(context.Context) (bool, string) {
		l.ring, err = cookieKeys(f, f.Members[0])
		return err == nil, fmt.Sprint("cookie keys: ", err)
	})
	return l
}

// cookieKeys reads the keys of session cookies from a proxy's disk.
func cookieKeys(f *fleet.Fleet, m *fleet.Member) (*session.Ring, error) {
	kept, err := vault.Open(f.Path(m.Name + "-state-key"))
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(f.Path(m.Name+"-state"), "cookie-keys.sealed"))
	if err != nil {
		return nil, err
	}
	ring, err := kept.Unseal("cookie keys", b[:len(b)-sha256.Size]) // a checksum is behind them
	if err != nil {
		return nil, err
	}
	return session.ParseRing(m.Environment, ring)
}

// sign makes a token of the provider.
func (l *login) sign(typ string, claims jwt.MapClaims) string {
	l.Helper()
	now := time.Now()
	claims["iss"], claims["sub"], claims["iat"], claims["exp"] = loginIssuer, "alice", now.Unix(), now.Add(5*time.Minute).Unix()
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims)
	token.Header["kid"], token.Header["typ"] = "one", typ
	raw, err := token.SignedString(l.key)
	if err != nil {
		l.Fatal(err)
	}
	return raw
}

// asks sends a request with a token of a session.
func (l *login) asks(m *fleet.Member, sid string) string {
	l.Helper()
	return l.told(m, "/v1/inbox/7", "Authorization", "Bearer "+l.sign("JWT", jwt.MapClaims{"aud": "orders", "sid": sid}))
}

// browses sends a request with the cookie of a session, where there can be one.
func (l *login) browses(sid string) string {
	l.Helper()
	began := time.Now().Add(-time.Minute).UTC().Truncate(time.Second)
	s := session.Session{
		Provider: "shop/people", Issuer: loginIssuer, Subject: "alice", ID: sid, SignedIn: began, Expires: began.Add(time.Hour),
	}
	value, err := s.Seal(l.ring, "127.0.0.1", time.Now())
	if err != nil {
		l.Fatal(err)
	}
	return l.told(l.fleet.Members[0], "/v1/desk/7", "Cookie", session.CookieName+"="+value)
}

func (l *login) told(m *fleet.Member, path, name, value string) string {
	l.Helper()
	req, err := http.NewRequestWithContext(within(l.T, 10*time.Second), http.MethodGet, m.URL+path, nil)
	if err != nil {
		l.Fatal(err)
	}
	req.Header.Set(name, value)
	return l.answer(req)
}

// logout has a proxy know that a session has ended at the provider.
func (l *login) logout(m *fleet.Member, token string) string {
	l.Helper()
	form := url.Values{"logout_token": {token}}
	req, err := http.NewRequestWithContext(within(l.T, 20*time.Second), http.MethodPost, m.URL+"/.sallyport/backchannel-logout", strings.NewReader(form.Encode()))
	if err != nil {
		l.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return l.answer(req)
}

// ended is the provider's word that a session has ended.
func (l *login) ended(sid string) string {
	l.Helper()
	return l.sign("logout+jwt", jwt.MapClaims{
		"aud": "app", "sid": sid, "jti": rand.Text(),
		"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}},
	})
}

// answer is a status, and the reason of a denial.
func (l *login) answer(req *http.Request) string {
	l.Helper()
	client, err := l.fleet.Client(false)
	if err != nil {
		l.Fatal(err)
	}
	defer client.CloseIdleConnections()
	res, err := client.Do(req)
	if err != nil {
		l.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		l.Fatal(err)
	}
	_, reason, _ := strings.Cut(string(body), `"reason":"`)
	reason, _, _ = strings.Cut(reason, `"`)
	return strings.TrimSpace(fmt.Sprint(res.StatusCode, " ", reason))
}

// comesTo waits until a session is answered in some way.
func (l *login) comesTo(what, want string, ask func() string) {
	l.Helper()
	eventually(l.T, 20*time.Second, func(context.Context) (bool, string) {
		got := ask()
		return got == want, fmt.Sprintf("%s is answered %s, not %s", what, got, want)
	})
}

// Who is told by the provider that a session has ended, a proxy behind an edge or one
// that is not, ends it at both.
func TestLogoutBehindAnEdge(t *testing.T) {
	f := startEdge(t)
	aws, gcp := f.Members[0], f.Members[1]
	l := startLogin(t, f)
	// A session in a browser, at aws: who was told itself knows why.
	ended := map[*fleet.Member]string{aws: "401 session_ended", gcp: "401 revoked"}
	for _, told := range f.Members {
		sid := "of-" + told.Name
		for _, m := range f.Members {
			if got := l.asks(m, sid); got != "200" {
				t.Fatalf("%s answers %s before", m.Name, got)
			}
		}
		if got := l.browses(sid); got != "200" {
			t.Fatalf("a browser is answered %s before", got)
		}
		if got := l.logout(told, l.ended(sid)); got != "200" {
			t.Fatalf("%s answers the provider %s", told.Name, got)
		}
		for _, m := range f.Members {
			l.comesTo("a token at "+m.Name, "401 revoked", func() string { return l.asks(m, sid) })
		}
		l.comesTo("a browser", ended[told], func() string { return l.browses(sid) })
	}
	if got := l.browses("another"); got != "200" {
		t.Errorf("another session is answered %s", got)
	}

	// Cut off, the proxy says that the fleet was not told, and the provider tries again.
	if err := f.Replicas[0].Kill(); err != nil {
		t.Fatal(err)
	}
	last := l.ended("last")
	if got := l.logout(gcp, last); got != "503 logout_unconfirmed" {
		t.Errorf("without a replica to tell it answers %s", got)
	}
	if got := l.asks(aws, "last"); got != "200" {
		t.Errorf("the fleet was told all the same: the session is answered %s", got)
	}
	if err := f.Replicas[0].Start(); err != nil {
		t.Fatal(err)
	}
	if err := f.ReplicaReady(t.Context(), f.Replicas[0]); err != nil {
		t.Fatal(err)
	}
	l.comesTo("the provider", "200", func() string { return l.logout(gcp, last) })
	l.comesTo("the session", "401 revoked", func() string { return l.asks(aws, "last") })
}
