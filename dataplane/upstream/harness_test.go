package upstream_test

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/dataplane/upstream"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/identity/issuer"
	"github.com/sallyport/sallyport/internal/pattern"
)

const (
	self identity.ID = "spiffe://prod.example/proxy/one"
	peer identity.ID = "spiffe://prod.example/ns/shop/orders"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// clock runs with real time and can be put forward.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time           { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) advance(by time.Duration) { c.ahead.Add(int64(by)) }

// run calls part until the returned function, or the end of the test, stops it.
func run(t *testing.T, part func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- part(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func newIssuer(t *testing.T) *issuer.Issuer {
	t.Helper()
	is, err := issuer.New(issuer.Config{DevelopmentOnly: true, TrustDomain: "prod.example", Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	return is
}

// nobody is a Source that has no identity.
func nobody(t *testing.T, now func() time.Time) (src *identity.Source, socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	addr, err := identity.SocketAddr(socket)
	if err != nil {
		t.Fatal(err)
	}
	if src, err = identity.New(identity.Config{SocketAddr: addr, Log: quiet(), RetryCap: 50 * time.Millisecond, Now: now}); err != nil {
		t.Fatal(err)
	}
	return src, socket
}

// identified is a Source that has the identity id from is.
func identified(t *testing.T, is *issuer.Issuer, id identity.ID, now func() time.Time) *identity.Source {
	t.Helper()
	src, socket := nobody(t, now)
	e, err := is.Listen(id, socket, 0)
	if err != nil {
		t.Fatal(err)
	}
	run(t, e.Run)
	run(t, src.Run)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := src.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	return src
}

func newPool(t *testing.T, src *identity.Source, now func() time.Time) *upstream.Pool {
	t.Helper()
	p, err := upstream.New(upstream.Config{Identity: src, Log: quiet(), Now: now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Sync(nil) })
	return p
}

// server is a real one that counts its connections and says who it is.
type server struct {
	*httptest.Server
	conns atomic.Int64
}

func (s *server) address() string { return s.Listener.Addr().String() }

// serve starts a server that answers with name, protocol and body. It speaks
// TLS when cfg is not nil.
func serve(t *testing.T, name string, cfg *tls.Config) *server {
	t.Helper()
	s := newServer(t, name)
	if cfg == nil {
		s.Start()
	} else {
		s.TLS, s.EnableHTTP2 = cfg, true
		s.StartTLS()
	}
	t.Cleanup(s.Close)
	return s
}

func newServer(t *testing.T, name string) *server {
	t.Helper()
	s := &server{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		_, _ = io.WriteString(w, name+" "+r.Proto+" "+r.RequestURI+" "+string(body))
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.conns.Add(1)
		}
	}
	return s
}

// caFile writes what verifies s to a file.
func caFile(t *testing.T, s *server) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.pem")
	writeCA(t, file, s)
	return file
}

func writeCA(t *testing.T, file string, s *server) {
	t.Helper()
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func plaintext(endpoints ...string) upstream.Spec {
	return upstream.Spec{Namespace: "shop", Name: "orders", Endpoints: endpoints, Plaintext: true}
}

func spiffe(t *testing.T, peers string, endpoints ...string) upstream.Spec {
	t.Helper()
	p, err := pattern.ParseSPIFFE(peers)
	if err != nil {
		t.Fatal(err)
	}
	return upstream.Spec{Namespace: "shop", Name: "orders", Endpoints: endpoints, SPIFFE: &upstream.SPIFFE{Peers: []identity.Pattern{p}}}
}

// only makes spec the one upstream of p.
func only(p *upstream.Pool, spec upstream.Spec) *upstream.Upstream {
	return p.Sync([]upstream.Spec{spec}).Upstream(spec.Key())
}

// send returns the answer, or the reason why there is none.
func send(t *testing.T, u *upstream.Upstream, body string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/", io.NopCloser(strings.NewReader(body)))
	if err != nil {
		t.Fatal(err)
	}
	r.URL = &url.URL{Opaque: "/v1/orders%20?a=b;c"}
	r.Host = "api.shop.example"
	var c upstream.Call
	defer c.End()
	res, err := u.Send(r, &c)
	if err != nil {
		return reason(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}
