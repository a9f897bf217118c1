package authn_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/policy"
)

// issuer is an identity provider: a real HTTP server that publishes keys, and
// signs tokens with any of its keys, published or not.
type issuer struct {
	name    string // its iss
	jwksURL string
	client  *http.Client
	fetches atomic.Int64
	answer  atomic.Pointer[http.HandlerFunc]

	mu   sync.Mutex
	keys map[string]*ecdsa.PrivateKey
}

func newIssuer(name string) *issuer {
	i := &issuer{name: name, keys: map[string]*ecdsa.PrivateKey{}}
	i.publish("one")
	return i
}

// overTLS serves at a real address, with a certificate that client trusts.
func overTLS(t testing.TB, name string) *issuer {
	i := newIssuer(name)
	server := httptest.NewUnstartedServer(i)
	server.Config.ErrorLog = quietLog()
	server.StartTLS()
	t.Cleanup(server.Close)
	i.jwksURL, i.client = server.URL+"/jwks", server.Client()
	return i
}

func quietLog() *log.Logger { return slog.NewLogLogger(slog.DiscardHandler, 0) }

// inBubble serves over pipes, so that time is the bubble's.
func inBubble(t testing.TB, name string) *issuer {
	i := newIssuer(name)
	pipes := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	server := &httptest.Server{Listener: pipes, Config: &http.Server{Handler: i}}
	server.Start()
	transport := &http.Transport{DialContext: pipes.dial}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		server.Close()
	})
	i.jwksURL, i.client = "http://127.0.0.1/jwks", &http.Client{Transport: transport}
	return i
}

type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-p.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

func (i *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.fetches.Add(1)
	(*i.answer.Load())(w, r)
}

// answerWith replaces what the server says.
func (i *issuer) answerWith(h http.HandlerFunc) { i.answer.Store(&h) }

// answerBody says one thing, with status 200.
func (i *issuer) answerBody(contentType, body string) {
	i.answerWith(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		say(w, body)
	})
}

// say writes text, unless the client has gone.
func say(w io.Writer, text string) {
	if _, err := io.WriteString(w, text); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// publish makes the keys of these kids, and no others, the key set.
func (i *issuer) publish(kids ...string) { i.answerBody("application/json", i.keySet(kids...)) }

func (i *issuer) keySet(kids ...string) string {
	entries := make([]string, len(kids))
	for n, kid := range kids {
		point, err := i.key(kid).PublicKey.Bytes()
		if err != nil {
			panic(err)
		}
		b64 := base64.RawURLEncoding.EncodeToString
		entries[n] = fmt.Sprintf(`{"kty":"EC","crv":"P-256","use":"sig","kid":%q,"x":%q,"y":%q}`, kid, b64(point[1:33]), b64(point[33:]))
	}
	return `{"keys":[` + strings.Join(entries, ",") + `]}`
}

func (i *issuer) key(kid string) *ecdsa.PrivateKey {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.keys[kid] == nil {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			panic(err)
		}
		i.keys[kid] = k
	}
	return i.keys[kid]
}

// replace makes another key of that kid, without publishing it.
func (i *issuer) replace(kid string) {
	i.mu.Lock()
	delete(i.keys, kid)
	i.mu.Unlock()
}

// token signs a token for alice and orders, with claims put over the usual.
func (i *issuer) token(kid string, now time.Time, claims jwt.MapClaims) string {
	all := jwt.MapClaims{"iss": i.name, "aud": "orders", "sub": "alice", "groups": []string{"shop"}, "exp": now.Add(5 * time.Minute).Unix()}
	maps.Copy(all, claims)
	t := jwt.NewWithClaims(jwt.SigningMethodES256, all)
	t.Header["kid"] = kid
	raw, err := t.SignedString(i.key(kid))
	if err != nil {
		panic(err)
	}
	return raw
}

func (i *issuer) provider(namespace, name string) authn.Provider {
	return authn.Provider{
		Namespace: namespace, Name: name, Issuer: i.name, JWKSURL: i.jwksURL, Audiences: []string{"orders"},
		AllowPrivateAddresses: true, // the server is on this machine
	}
}

// clock is a time that tests move. The zero clock stands still in 2001.
type clock struct{ seconds atomic.Int64 }

func (c *clock) now() time.Time { return time.Unix(1_000_000_000+c.seconds.Load(), 0) }

func (c *clock) advance(d time.Duration) { c.seconds.Add(int64(d / time.Second)) }

// pass lets time go by in a bubble, where sleeping takes none.
func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // of testing/synctest
}

// gate is a running pool, and the Authenticator of its only provider shop/idp.
type gate struct {
	*authn.Authenticator
	t        testing.TB
	pool     *authn.Pool
	registry *prometheus.Registry
	now      func() time.Time
	stop     func() // ends Run and waits for it
}

var shop = authn.Accept{Providers: []authn.ProviderName{{Namespace: "shop", Name: "idp"}}}

func newGate(t testing.TB, i *issuer, c authn.Config) *gate {
	t.Helper()
	return newGateOf(t, i, i.provider("shop", "idp"), c)
}

func newGateOf(t testing.TB, i *issuer, p authn.Provider, c authn.Config) *gate {
	t.Helper()
	g := &gate{t: t, registry: prometheus.NewRegistry(), now: c.Now}
	c.Log, c.Registerer, c.Client = slog.New(slog.DiscardHandler), g.registry, i.client
	pool, err := authn.New(c)
	if err != nil {
		t.Fatal(err)
	}
	g.pool, g.Authenticator = pool, pool.Sync([]authn.Provider{p})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- pool.Run(ctx) }()
	g.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run ended with %v", err)
		}
	})
	t.Cleanup(g.stop)
	return g
}

// ask sends a bearer token to a route that takes shop/idp, and returns the
// reason of the denial, or who was let in.
func (g *gate) ask(raw string) string {
	return outcome(g.t, g.Authenticator, bearerOf(raw), shop, g.now())
}

func bearerOf(raw string) authn.Credentials {
	return authn.Credentials{Header: map[string][]string{"Authorization": {"Bearer " + raw}}}
}

func outcome(t testing.TB, a *authn.Authenticator, c authn.Credentials, accept authn.Accept, now time.Time) string {
	t.Helper()
	p, d := a.Authenticate(t.Context(), c, accept, now)
	switch {
	case (p == nil) == (d == nil):
		t.Fatalf("principal %v with denial %v", p, d)
	case d != nil:
		return string(d.Reason)
	case p.Kind == policy.Anonymous:
		return "anonymous"
	case p.SPIFFEID != "" && p.SPIFFEID != p.ID:
		return p.ID + " over " + p.SPIFFEID
	}
	return p.ID
}

// metric returns the value of a series as a scrape shows it, or "".
func (g *gate) metric(series string) string {
	w := httptest.NewRecorder()
	promhttp.HandlerFor(g.registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
