package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/test/openid"
)

// openID is a provider that was written by others.
type openID struct{ issuer string }

// signInHost is the host on which people sign in.
const signInHost = "app.wild.example"

func startOpenID(t *testing.T) *openID {
	t.Helper()
	return &openID{openid.Start(t, "https://"+signInHost+"/.sallyport/callback")}
}

// provider is the IdentityProvider shop/people, as the client of that ID. With a
// secret it is one that keeps a secret.
func (o *openID) provider(client, secretFile string) string {
	return fmt.Sprintf(`
---
apiVersion: sallyport/v1
kind: IdentityProvider
metadata: {namespace: shop, name: people}
spec:
  issuer: %q
  jwksUrl: %q
  audiences: [api]
  allowPrivateAddresses: true
  signIn: {clientId: %s, clientSecretFile: %q, scopes: [email], claims: [azp, auth_time]}
`, o.issuer, o.issuer+"keys", client, secretFile)
}

// signInRoute is the Route shop/app, on which those may do all who have signed in.
func signInRoute(upstream, more string) string {
	return fmt.Sprintf(`
---
apiVersion: sallyport/v1
kind: Upstream
metadata: {namespace: shop, name: app}
spec: {%s}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: app}
spec: {hosts: ["*.wild.example"], upstream: app, webSocket: true, authentication: {signIn: {identityProvider: people}%s}}
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: app}
spec: {routes: {names: [app]}, effect: ALLOW, principals: [{subject: id1, identityProvider: people}]}
`, plaintext(upstream), more)
}

// ring is the cookie keys of the environment aws.
func ring(t testing.TB, keys ...session.Key) *session.Ring {
	t.Helper()
	r, err := session.NewRing("aws", keys...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// person is a browser.
type person struct {
	w      *world
	client *http.Client
	jar    *cookiejar.Jar
	header http.Header
}

// browser is one that has just been installed.
func (w *world) browser() *person {
	w.t.Helper()
	jar, err := cookiejar.New(nil)
	w.must(err)
	client := w.client(true, w.tls(""))
	gate := w.address("edge/public")
	client.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		if !strings.HasPrefix(address, "localhost:") {
			address = gate
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	client.Jar = jar
	return &person{w: w, client: client, jar: jar, header: http.Header{
		"Accept": {"text/html,*/*;q=0.8"}, "Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"document"}, "Sec-Fetch-Site": {"none"},
	}}
}

// page is what a browser got.
type page struct {
	*http.Response
	body string
}

func (p page) location() string { return p.Header.Get("Location") }

func (p page) decision() string { return p.Header.Get("Sallyport-Decision-Id") }

// do sends one request, and follows nothing.
func (p *person) do(method, target string, form url.Values, change ...func(*http.Request)) page {
	p.w.t.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	if strings.HasPrefix(target, "/") {
		target = "https://" + signInHost + target
	}
	r, err := http.NewRequestWithContext(p.w.t.Context(), method, target, body)
	p.w.must(err)
	r.Header = p.header.Clone()
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, c := range change {
		c(r)
	}
	res, err := p.client.Do(r)
	p.w.must(err)
	return page{res, p.w.read(res)}
}

func (p *person) get(target string) page { p.w.t.Helper(); return p.do("GET", target, nil) }

var requestID = regexp.MustCompile(`name="id" value="([^"]+)"`)

// returns goes to a page, signs in as test-user at the provider, and stops before
// it comes back: at what the provider sends it to.
func (p *person) returns(target string) (callback string) {
	p.w.t.Helper()
	answer := p.get(target)
	if answer.StatusCode != http.StatusFound {
		p.w.t.Fatalf("%s answers %d: %s", target, answer.StatusCode, answer.body)
	}
	for !strings.Contains(answer.location(), "/login/") {
		answer = p.get(answer.location())
		if answer.StatusCode != http.StatusFound {
			p.w.t.Fatalf("the provider answers %d: %s", answer.StatusCode, answer.body)
		}
	}
	at, err := answer.Request.URL.Parse(answer.location())
	p.w.must(err)
	login := p.get(at.String())
	id := requestID.FindStringSubmatch(login.body)
	if id == nil {
		p.w.t.Fatalf("there is no form to sign in: %s", login.body)
	}
	answer = p.do("POST", at.String(), url.Values{"id": {id[1]}, "username": {"test-user@localhost"}, "password": {"verysecure"}})
	for !strings.HasPrefix(answer.location(), "https://"+signInHost) {
		to, err := answer.Request.URL.Parse(answer.location())
		p.w.must(err)
		if answer = p.get(to.String()); answer.StatusCode != http.StatusFound {
			p.w.t.Fatalf("the provider answers %d: %s", answer.StatusCode, answer.body)
		}
	}
	return answer.location()
}

// signIn goes to a page and comes back to it, with a session.
func (p *person) signIn(target string) {
	p.w.t.Helper()
	answer := p.get(p.returns(target))
	if answer.StatusCode != http.StatusSeeOther || answer.location() != target {
		p.w.t.Fatalf("the callback answers %d to %q: %s", answer.StatusCode, answer.location(), answer.body)
	}
}

// cookies are those that the browser sends.
func (p *person) cookies() map[string]string {
	found := map[string]string{}
	for _, c := range p.jar.Cookies(&url.URL{Scheme: "https", Host: signInHost, Path: "/"}) {
		found[c.Name] = c.Value
	}
	return found
}

// put replaces a cookie.
func (p *person) put(name, value string) {
	p.jar.SetCookies(&url.URL{Scheme: "https", Host: signInHost, Path: "/"}, []*http.Cookie{
		{Name: name, Value: value, Path: "/", Secure: true},
	})
}
