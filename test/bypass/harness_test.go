package bypass_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"

	// What the binaries are made of, so that no result is taken from the cache
	// of tests when it has changed.
	_ "github.com/sallyport/sallyport/controlplane"
	_ "github.com/sallyport/sallyport/dataplane"
)

// within bounds one request.
const within = 10 * time.Second

// provider is an identity provider with its keys, which a server publishes.
type provider struct {
	*keys
	issuer string
}

// world is a running fleet with two identity providers, whose key sets share a
// kid, and an API that answers with what arrived.
type world struct {
	*fleet.Fleet
	proxy      *fleet.Member
	idp, other *provider
	echo       string // the API's address
}

// bin holds our binaries.
var bin string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "sallyport-bypass-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin = dir
	for _, name := range []string{"sallyport-controlplane", "sallyport-proxy"} {
		build := exec.Command("go", "build", "-pgo=off", "-o", filepath.Join(bin, name), "github.com/sallyport/sallyport/cmd/"+name)
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build", name, err)
			return 1
		}
	}
	return m.Run()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "sallyport-bypass-") // short: sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	f, err := fleet.Start(t.Context(), fleet.Config{Dir: dir, Bin: bin, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() {
		if err := f.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{Fleet: f, proxy: f.Members[0], idp: newProvider(t), other: newProvider(t), echo: newEcho(t)}
	w.apply(t, fmt.Sprintf(resources, w.idp.issuer, w.other.issuer, w.echo))
	return w
}

// newProvider serves the keys of a new identity provider.
func newProvider(t *testing.T) *provider {
	t.Helper()
	p := &provider{keys: newKeys(t)}
	set := p.set()
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/jwk-set+json")
		_, _ = rw.Write(set) // the proxy is gone
	}))
	t.Cleanup(server.Close)
	p.issuer = server.URL
	return p
}

// newEcho starts an API that answers with the fields that reached it.
func newEcho(t *testing.T) (address string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(rw).Encode(r.Header) // the proxy is gone
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

const resources = `apiVersion: sallyport/v1
kind: IdentityProvider
metadata: {namespace: bypass, name: idp}
spec: {issuer: %[1]q, jwksUrl: "%[1]s/jwks.json", audiences: [orders], leeway: 10s, allowPrivateAddresses: true}
---
apiVersion: sallyport/v1
kind: IdentityProvider
metadata: {namespace: bypass, name: other}
spec: {issuer: %[2]q, jwksUrl: "%[2]s/jwks.json", audiences: [orders], leeway: 10s, allowPrivateAddresses: true}
---
apiVersion: sallyport/v1
kind: Upstream
metadata: {namespace: bypass, name: echo}
spec: {endpoints: [%[3]q], plaintext: {}}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: bypass, name: token}
spec:
  hosts: [localhost, 127.0.0.1]
  paths: [/token/**]
  upstream: echo
  authentication: {identityProviders: [idp, other]}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: bypass, name: workload}
spec:
  hosts: [localhost, 127.0.0.1]
  paths: [/workload/**]
  upstream: echo
  authentication: {clientCertificates: true}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: bypass, name: both}
spec:
  hosts: [localhost, 127.0.0.1]
  paths: [/both/**]
  upstream: echo
  authentication: {identityProviders: [idp], clientCertificates: true, require: ALL}
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: bypass, name: alice}
spec:
  routes: {all: true}
  effect: ALLOW
  principals: [{subject: alice, identityProvider: idp}, {subject: bob, identityProvider: other}]
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: bypass, name: billing}
spec:
  routes: {names: [workload]}
  effect: ALLOW
  principals: [{spiffe: "spiffe://partner.example/ns/shop/billing"}]
`

// apply applies resources and waits for the proof.
func (w *world) apply(t *testing.T, text string) {
	t.Helper()
	revision, err := w.Admin.Apply(t.Context(), text, "bypass")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Admin.Enforced(t.Context(), revision, w.Environments()...); err != nil {
		t.Fatal(err)
	}
}

// request is a request to the proxy, with one field for each line.
type request struct {
	path   string
	header []string // "Name: value", written as they are
	method string   // GET when empty
	body   string
	client *tls.Certificate
	proxy  *fleet.Member // the first when nil
	host   string        // 127.0.0.1 when empty
}

// bearer is a request with a bearer token.
func bearer(token string) request {
	return request{path: "/token/7", header: []string{"Authorization: Bearer " + token}}
}

// outcome is "200", or the status and the reason of a denial, or why there was
// no connection to send a request on.
func (w *world) outcome(t *testing.T, r request) string {
	t.Helper()
	answer, err := w.exchange(t, r)
	if err != nil {
		return "no connection"
	}
	return answer.outcome(t)
}

// onPage is the reason on a page for people.
var onPage = regexp.MustCompile("Reason: <code>([a-z_]+)</code>")

func (a answer) outcome(t *testing.T) string {
	t.Helper()
	var problem struct{ Reason string }
	page := onPage.FindSubmatch(a.body)
	switch {
	case a.status == http.StatusOK:
		return "200"
	case a.status == http.StatusSeeOther:
		return "303 to " + a.header.Get("Location")
	case page != nil:
		problem.Reason = string(page[1])
	default:
		if err := json.Unmarshal(a.body, &problem); err != nil {
			t.Fatalf("the answer is %d and no problem: %s", a.status, a.body)
		}
	}
	for _, c := range (&http.Response{Header: a.header}).Cookies() {
		if c.Name == sessionCookie && c.Value != "" {
			t.Errorf("who is refused with %s gets a session", problem.Reason)
		}
	}
	return fmt.Sprint(a.status, " ", problem.Reason)
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

// exchange sends one request over HTTP/1.1 as its bytes, which no client tidies
// up, on a connection of its own.
func (w *world) exchange(t *testing.T, r request) (answer, error) {
	t.Helper()
	conn, err := w.dialAt(t, w.url(r), r.client, func(*tls.Config) {})
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	return w.send(conn, r)
}

// url is the origin that a request is for.
func (w *world) url(r request) *url.URL {
	member := w.proxy
	if r.proxy != nil {
		member = r.proxy
	}
	at := must(url.Parse(member.URL))
	if r.host != "" {
		at.Host = net.JoinHostPort(r.host, at.Port())
	}
	return at
}

func (w *world) send(conn *tls.Conn, r request) (answer, error) {
	var b strings.Builder
	method := "GET"
	if r.method != "" {
		method = r.method
	}
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, r.path, w.url(r).Host)
	for _, line := range r.header {
		b.WriteString(line + "\r\n")
	}
	if r.body != "" {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(r.body))
	}
	b.WriteString("\r\n" + r.body)
	if _, err := io.WriteString(conn, b.String()); err != nil {
		return answer{}, err
	}
	return readAnswer(conn, method)
}

// dial completes a handshake. What a server thinks of a certificate over TLS 1.3
// comes with the first read only.
func (w *world) dial(t *testing.T, client *tls.Certificate) (*tls.Conn, error) {
	t.Helper()
	return w.dialWith(t, client, func(*tls.Config) {})
}

func (w *world) dialWith(t *testing.T, client *tls.Certificate, change func(*tls.Config)) (*tls.Conn, error) {
	t.Helper()
	return w.dialAt(t, w.url(request{}), client, change)
}

func (w *world) dialAt(t *testing.T, at *url.URL, client *tls.Certificate, change func(*tls.Config)) (*tls.Conn, error) {
	t.Helper()
	roots, err := w.Roots()
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, NextProtos: []string{"http/1.1"}}
	if client != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return client, nil }
	}
	change(config)
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	config.ServerName = at.Hostname() // the listeners are on one address
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", at.Port()))
	if err != nil {
		return nil, err
	}
	return conn.(*tls.Conn), conn.SetDeadline(time.Now().Add(within))
}

func readAnswer(conn *tls.Conn, method string) (answer, error) {
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	return answer{status: res.StatusCode, header: res.Header, body: body}, err
}
