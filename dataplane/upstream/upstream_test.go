package upstream_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/dataplane/upstream"
	"github.com/sallyport/sallyport/internal/identity"
)

func reason(err error) string {
	var e *upstream.Error
	if !errors.As(err, &e) {
		return "no *upstream.Error: " + err.Error()
	}
	return string(e.Reason)
}

const sent = " HTTP/1.1 /v1/orders%20?a=b;c "

func anonymous(t *testing.T) *identity.Source {
	t.Helper()
	src, _ := nobody(t, nil)
	return src
}

// closedAddress returns an address on which nobody listens.
func closedAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func TestEndpointsTakeTurns(t *testing.T) {
	a, b := serve(t, "a", nil), serve(t, "b", nil)
	u := only(newPool(t, anonymous(t), nil), plaintext(a.address(), b.address()))
	got := map[string]int{}
	for range 10 {
		got[send(t, u, "x")]++
	}
	if got["a"+sent+"x"] != 5 || got["b"+sent+"x"] != 5 {
		t.Errorf("got %v", got)
	}
	if a.conns.Load() != 1 || b.conns.Load() != 1 {
		t.Errorf("%d and %d connections, want one each", a.conns.Load(), b.conns.Load())
	}
}

// An endpoint that is not there has not seen the request, whose body goes whole
// to the next one.
func TestFailover(t *testing.T) {
	var now clock
	up, down := serve(t, "up", nil), closedAddress(t)
	u := only(newPool(t, anonymous(t), now.now), plaintext(down, up.address(), down))
	for range 6 {
		if got := send(t, u, "body"); got != "up"+sent+"body" {
			t.Fatalf("got %q", got)
		}
	}
	// It is tried again, when it may be there again.
	ln, err := net.Listen("tcp", down)
	if err != nil {
		t.Fatal(err)
	}
	back := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Minute}
	go func() { _ = back.Serve(ln) }()
	defer back.Close()
	for range 6 {
		if got := send(t, u, ""); got != "up"+sent {
			t.Fatalf("it is avoided, and yet %q", got)
		}
	}
	now.advance(time.Minute)
	got := map[string]int{}
	for range 6 {
		got[send(t, u, "")]++
	}
	if len(got) != 2 {
		t.Errorf("after a while: %v", got)
	}
}

func TestUnreachable(t *testing.T) {
	registry := prometheus.NewRegistry()
	p, err := upstream.New(upstream.Config{Identity: anonymous(t), Log: quiet(), Registerer: registry})
	if err != nil {
		t.Fatal(err)
	}
	down := []string{closedAddress(t), closedAddress(t)}
	u := only(p, plaintext(down...))
	for range 2 { // avoided endpoints are tried when there are no others
		if got := send(t, u, "x"); got != "upstream_unreachable" {
			t.Errorf("got %s", got)
		}
	}
	if n := failures(t, registry); n != 4 {
		t.Errorf("%v failures were counted, want each endpoint once per request", n)
	}
	if got := send(t, only(p, plaintext()), ""); got != "upstream_misconfigured" {
		t.Errorf("without endpoints: %s", got)
	}
	if n := failures(t, registry); n != 4 {
		t.Errorf("%v failures", n)
	}
	if got := send(t, only(p, upstream.Spec{Endpoints: down}), ""); got != "upstream_unreachable" {
		t.Errorf("without a transport: %s", got)
	}
	p.Sync(nil)
	if n := failures(t, registry); n != 0 {
		t.Errorf("%v failures are shown of upstreams that are gone", n)
	}
}

func failures(t *testing.T, registry *prometheus.Registry) float64 {
	t.Helper()
	return counted(t, registry, "sallyport_upstream_connect_failures_total")
}

// counted is the sum of all series of a counter.
func counted(t *testing.T, registry *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

func TestNoAnswer(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	answers := make(chan string)
	go func() {
		for answer := range answers {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			_, _ = io.WriteString(conn, answer)
			_ = conn.Close()
		}
	}()
	defer close(answers)
	u := only(newPool(t, anonymous(t), nil), plaintext(ln.Addr().String()))
	for answer, want := range map[string]string{
		"":                    "upstream_failed",
		"HTTP/1.1 200":        "upstream_failed",
		"nonsense\r\n\r\n":    "upstream_malformed",
		"HTTP/1.1 200 OK\n\n": "upstream_malformed",
		"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 128<<10) + "\r\n\r\n": "upstream_malformed",
	} {
		answers <- answer
		if got := send(t, u, ""); got != want {
			t.Errorf("%.40q: %s, want %s", answer, got, want)
		}
	}
}

func TestTLS(t *testing.T) {
	a, b := serve(t, "a", &tls.Config{}), serve(t, "b", &tls.Config{Certificates: []tls.Certificate{otherCertificate(t)}})
	file := caFile(t, a)
	spec := func(address string, s upstream.TLS) upstream.Spec {
		return upstream.Spec{Namespace: "shop", Name: "orders", Endpoints: []string{address}, TLS: &s}
	}
	p := newPool(t, anonymous(t), nil)
	for _, c := range []struct {
		name string
		spec upstream.Spec
		want string
	}{
		{"by address", spec(a.address(), upstream.TLS{CAFile: file}), "a HTTP/2.0 /v1/orders%20?a=b;c x"},
		{"by name", spec(a.address(), upstream.TLS{CAFile: file, ServerName: "example.com"}), "a HTTP/2.0 /v1/orders%20?a=b;c x"},
		{"by another name", spec(a.address(), upstream.TLS{CAFile: file, ServerName: "example.net"}), "upstream_unverified"},
		{"of another authority", spec(b.address(), upstream.TLS{CAFile: file}), "upstream_unverified"},
		{"with the system's authorities", spec(a.address(), upstream.TLS{}), "upstream_unverified"},
		{"without the file", spec(a.address(), upstream.TLS{CAFile: file + ".not"}), "upstream_misconfigured"},
	} {
		if got := send(t, only(p, c.spec), "x"); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// The file with the authorities is read for each connection. One that cannot be
// understood changes nothing.
func TestAuthoritiesChange(t *testing.T) {
	a, b := serve(t, "a", &tls.Config{}), serve(t, "b", &tls.Config{Certificates: []tls.Certificate{otherCertificate(t)}})
	file := caFile(t, a)
	u := only(newPool(t, anonymous(t), nil), upstream.Spec{Endpoints: []string{b.address()}, TLS: &upstream.TLS{CAFile: file}})
	if got := send(t, u, ""); got != "upstream_unverified" {
		t.Fatalf("got %q", got)
	}
	writeCA(t, file, b)
	if got := send(t, u, ""); !strings.HasPrefix(got, "b ") {
		t.Fatalf("with the new authority: %q", got)
	}
	if err := os.WriteFile(file, []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.CloseClientConnections()
	got := "upstream_failed" // until the connection is known to be gone
	for deadline := time.Now().Add(20 * time.Second); got == "upstream_failed" && time.Now().Before(deadline); {
		got = send(t, u, "")
	}
	if !strings.HasPrefix(got, "b ") || b.conns.Load() < 3 {
		t.Fatalf("with a torn file: %q over %d connections", got, b.conns.Load())
	}
}

func otherCertificate(t *testing.T) tls.Certificate {
	t.Helper()
	cert, err := newIssuer(t).IssueServerCertificate([]string{"127.0.0.1"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestSPIFFE(t *testing.T) {
	is := newIssuer(t)
	src := identified(t, is, self, nil)
	orders := serve(t, "orders", identity.ServerConfig(identified(t, is, peer, nil), identity.Only(self)))
	strict := serve(t, "strict", identity.ServerConfig(identified(t, is, peer, nil), identity.Only(peer)))
	stranger := serve(t, "stranger", &tls.Config{})
	p := newPool(t, src, nil)
	for _, c := range []struct{ name, peers, address, want string }{
		{"expected", "spiffe://prod.example/ns/shop/*", orders.address(), "orders HTTP/2.0 /v1/orders%20?a=b;c x"},
		{"somebody else", "spiffe://prod.example/ns/bank/*", orders.address(), "upstream_unverified"},
		{"of another trust domain", "spiffe://test.example/**", orders.address(), "upstream_unverified"},
		{"nobody", "spiffe://prod.example/**", stranger.address(), "upstream_unverified"},
		{"who does not expect us", "spiffe://prod.example/**", strict.address(), "upstream_failed"},
	} {
		if got := send(t, only(p, spiffe(t, c.peers, c.address)), "x"); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// A connection that was made with an identity must not outlive it.
func TestIdentityExpires(t *testing.T) {
	var now clock
	is := newIssuer(t)
	orders := serve(t, "orders", identity.ServerConfig(identified(t, is, peer, nil), identity.Only(self)))
	u := only(newPool(t, identified(t, is, self, now.now), now.now), spiffe(t, "spiffe://prod.example/**", orders.address()))
	if got := send(t, u, ""); !strings.HasPrefix(got, "orders ") {
		t.Fatalf("got %q", got)
	}
	now.advance(2 * time.Hour)
	if got := send(t, u, ""); got != "identity_expired" {
		t.Errorf("over the connection of before: %q", got)
	}
	u = only(newPool(t, anonymous(t), nil), spiffe(t, "spiffe://prod.example/**", orders.address()))
	if got := send(t, u, ""); got != "identity_unavailable" {
		t.Errorf("without an identity: %q", got)
	}
}

func TestRenewedIdentityRenewsConnections(t *testing.T) {
	is := newIssuer(t)
	src := identified(t, is, self, nil)
	p := newPool(t, src, nil)
	run(t, p.Run)
	orders := serve(t, "orders", identity.ServerConfig(identified(t, is, peer, nil), identity.Only(self)))
	u := only(p, spiffe(t, "spiffe://prod.example/**", orders.address()))
	for range 3 {
		if got := send(t, u, ""); !strings.HasPrefix(got, "orders ") {
			t.Fatalf("got %q", got)
		}
	}
	if n := orders.conns.Load(); n != 1 {
		t.Fatalf("%d connections, want 1", n)
	}
	is.Rotate()
	for deadline := time.Now().Add(20 * time.Second); orders.conns.Load() == 1; {
		if got := send(t, u, ""); !strings.HasPrefix(got, "orders ") || time.Now().After(deadline) {
			t.Fatalf("got %q, over %d connections", got, orders.conns.Load())
		}
	}
}

func TestSync(t *testing.T) {
	a := serve(t, "a", nil)
	p := newPool(t, anonymous(t), nil)
	first := p.Sync([]upstream.Spec{plaintext(a.address())})
	name := upstream.Name{Namespace: "shop", Name: "orders"}
	before := first.Upstream(name)
	if got := send(t, before, ""); got != "a"+sent {
		t.Fatalf("got %q", got)
	}
	if again := only(p, plaintext(a.address())); again != before {
		t.Error("an upstream that did not change was replaced")
	}
	changed := plaintext(a.address())
	changed.Digest[0] = 1
	if only(p, changed) == before {
		t.Error("an upstream that changed was kept")
	}
	b := serve(t, "b", nil)
	changed = plaintext(b.address()) // with the digest of before
	if got := send(t, only(p, changed), ""); got != "b"+sent {
		t.Errorf("a changed upstream with the same digest still sends to %q", got)
	}
	if got := send(t, first.Upstream(name), ""); got != "a"+sent {
		t.Errorf("the first set sends to %q", got)
	}
	if p.Sync(nil).Upstream(name) != nil || (*upstream.Set)(nil).Upstream(name) != nil {
		t.Error("an empty set has an upstream")
	}
}

// What a request says goes out as it is, byte by byte, and nothing is added.
func TestNothingIsAdded(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://"+closedAddress(t))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	heads := make(chan string, 1)
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		var head strings.Builder
		lines := bufio.NewReader(conn)
		for line := ""; line != "\r\n"; head.WriteString(line) {
			if line, err = lines.ReadString('\n'); err != nil {
				return
			}
		}
		heads <- head.String()
		_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
	}()
	r := (&http.Request{
		Method: http.MethodGet, Host: "api.shop.example", URL: &url.URL{Opaque: "/a;b/%C3%A9/c%2Bd?x=%2f;y"},
		Header: http.Header{"User-Agent": nil, "X-A": {"b"}},
	}).WithContext(t.Context())
	var c upstream.Call
	res, err := only(newPool(t, anonymous(t), nil), plaintext(ln.Addr().String())).Send(r, &c)
	if err != nil || c.Endpoint != ln.Addr().String() || c.Attempts != 1 {
		t.Fatal(c.Endpoint, c.Attempts, err)
	}
	_ = res.Body.Close()
	want := "GET /a;b/%C3%A9/c%2Bd?x=%2f;y HTTP/1.1\r\nHost: api.shop.example\r\nX-A: b\r\n\r\n"
	if got := <-heads; got != want {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

func TestGivingUp(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	gaveUp := errors.New("the client gave up")
	release := make(chan struct{})
	s := serve(t, "", nil)
	s.Config.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		cancel(gaveUp)
		<-release
	})
	defer close(release)
	r := (&http.Request{Method: http.MethodGet, URL: &url.URL{Opaque: "/"}, Header: http.Header{}}).WithContext(ctx)
	_, err := only(newPool(t, anonymous(t), nil), plaintext(s.address())).Send(r, &upstream.Call{})
	if !errors.Is(err, gaveUp) {
		t.Errorf("got %v", err)
	}
}

func TestConfig(t *testing.T) {
	registry := prometheus.NewRegistry()
	src := anonymous(t)
	if _, err := upstream.New(upstream.Config{Identity: src, Log: quiet(), Registerer: registry}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]upstream.Config{
		"no identity":   {Log: quiet()},
		"no logger":     {Identity: src},
		"negative":      {Identity: src, Log: quiet(), Avoid: -1},
		"metrics twice": {Identity: src, Log: quiet(), Registerer: registry},
	} {
		if _, err := upstream.New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
