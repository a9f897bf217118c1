package health_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/sallyport/sallyport/dataplane/upstream/health"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newProber(t *testing.T, c health.Config) *health.Prober {
	t.Helper()
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	p, err := health.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// endpoint is reached over TLS if s speaks that.
func endpoint(s *httptest.Server) health.Endpoint {
	address := s.Listener.Addr().String()
	return health.Endpoint{Upstream: "shop/orders", Address: address, Connect: func(ctx context.Context, protocols ...string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil || s.TLS == nil {
			return conn, err
		}
		cfg := s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		cfg.NextProtos, cfg.ServerName = protocols, "example.com"
		secure := tls.Client(conn, cfg)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		return secure, nil
	}}
}

// serve starts servers of HTTP/1.1 without TLS, and of HTTP/2 and HTTP/1.1 with it.
func serve(t *testing.T, h http.HandlerFunc) map[string]*httptest.Server {
	t.Helper()
	all := map[string]*httptest.Server{}
	for _, protocol := range []string{"plain", "HTTP/1.1", "HTTP/2"} {
		s := httptest.NewUnstartedServer(h)
		s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
		s.EnableHTTP2 = protocol == "HTTP/2"
		if protocol == "plain" {
			s.Start()
		} else {
			s.StartTLS()
		}
		t.Cleanup(s.Close)
		all[protocol] = s
	}
	return all
}

// verdict is "" for a check that passes.
func verdict(t *testing.T, c health.Check, e health.Endpoint) string {
	t.Helper()
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if err := newProber(t, health.Config{}).Check(t.Context(), c, e); err != nil {
		return err.Error()
	}
	return ""
}

func TestHTTP(t *testing.T) {
	for protocol, s := range serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/well":
			_, _ = io.WriteString(w, "well")
		case "/empty":
			w.WriteHeader(http.StatusNoContent)
		case "/ill":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/away":
			http.Redirect(w, r, "/well", http.StatusFound)
		case "/endless":
			for r.Context().Err() == nil {
				_, _ = w.Write(make([]byte, 1<<10))
			}
		case "/header":
			w.Header().Set("X", strings.Repeat("x", 64<<10))
		case "/asked":
			if r.Method != "GET" || r.Host != "orders.example" || r.URL.RawQuery != "deep=1" || r.Header.Get("User-Agent") != "sallyport-health" {
				w.WriteHeader(http.StatusBadRequest)
			}
		}
	}) {
		for _, c := range []struct {
			check health.Check
			want  string // is in the error; passes when empty
		}{
			{health.Check{Path: "/well"}, ""},
			{health.Check{Path: "/empty"}, ""},
			{health.Check{Path: "/ill"}, "answered 503"},
			{health.Check{Path: "/ill", Pass: []health.Range{{200, 299}, {503, 503}}}, ""},
			{health.Check{Path: "/well", Pass: []health.Range{{201, 299}}}, "answered 200"},
			{health.Check{Path: "/away"}, "answered 302"},
			{health.Check{Path: "/endless"}, ""},
			{health.Check{Path: "/header"}, " "}, // the words are the protocol's
			{health.Check{Path: "/asked?deep=1", Host: "orders.example"}, ""},
			{health.Check{Path: "well"}, "is no path"},
			{health.Check{Path: "//"}, ""},
			{health.Check{}, "is no path"},
		} {
			c.check.Kind = health.HTTP
			if got := verdict(t, c.check, endpoint(s)); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("%s, %+v: %q, want %q", protocol, c.check, got, c.want)
			}
		}
	}
}

func TestConnections(t *testing.T) {
	tcp := health.Check{Kind: health.TCP}
	for protocol, s := range serve(t, http.NotFound) {
		if got := verdict(t, tcp, endpoint(s)); got != "" {
			t.Errorf("%s: %s", protocol, got)
		}
		s.Close()
		if got := verdict(t, tcp, endpoint(s)); !strings.Contains(got, "refused") {
			t.Errorf("%s, closed: %q", protocol, got)
		}
	}
	if got := verdict(t, health.Check{}, endpoint(serve(t, http.NotFound)["plain"])); got == "" {
		t.Error("a check of no kind passes")
	}
}

// Why nobody was asked is told as it is, whatever asks.
func TestNotAsked(t *testing.T) {
	e := health.Endpoint{Address: "192.0.2.1:443", Connect: func(context.Context, ...string) (net.Conn, error) {
		return nil, fmt.Errorf("%w: for a reason", health.ErrNotAsked)
	}}
	for _, kind := range []health.Kind{health.HTTP, health.TCP, health.GRPC} {
		c := health.Check{Kind: kind, Path: "/", Timeout: 10 * time.Second}
		if err := newProber(t, health.Config{}).Check(t.Context(), c, e); !errors.Is(err, health.ErrNotAsked) {
			t.Errorf("kind %d: %v", kind, err)
		}
	}
}

// An endpoint that takes the question and says nothing has the time of a check.
func TestSilence(t *testing.T) {
	hold := make(chan struct{})
	defer close(hold)
	for protocol, s := range serve(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hold:
		case <-r.Context().Done():
		}
	}) {
		if got := verdict(t, health.Check{Kind: health.HTTP, Path: "/", Timeout: 100 * time.Millisecond}, endpoint(s)); !strings.Contains(got, "deadline") {
			t.Errorf("%s: %q", protocol, got)
		}
	}
}

// gRPC's own server of its health protocol.
func TestGRPC(t *testing.T) {
	certificates := serve(t, http.NotFound)["HTTP/2"] // whose certificate is used
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	states := grpchealth.NewServer()
	states.SetServingStatus("shop.Orders", healthpb.HealthCheckResponse_SERVING)
	states.SetServingStatus("shop.Old", healthpb.HealthCheckResponse_NOT_SERVING)
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: certificates.TLS.Certificates})))
	healthpb.RegisterHealthServer(g, states)
	go func() { _ = g.Serve(ln) }()
	defer g.Stop()
	e := endpoint(certificates)
	e.Connect = func(ctx context.Context, protocols ...string) (net.Conn, error) {
		return (&tls.Dialer{Config: &tls.Config{
			RootCAs: certificates.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, ServerName: "example.com", NextProtos: protocols,
		}}).DialContext(ctx, "tcp", ln.Addr().String())
	}
	for service, want := range map[string]string{
		"": "", "shop.Orders": "", "shop.Old": "health status 2", "shop.Unknown": `gRPC status "5"`,
	} {
		if got := verdict(t, health.Check{Kind: health.GRPC, Service: service}, e); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%q: %q, want %q", service, got, want)
		}
	}
	states.Shutdown()
	if got := verdict(t, health.Check{Kind: health.GRPC}, e); got == "" {
		t.Error("passes while the server shuts down")
	}
}

// Answers that are not what gRPC's health protocol has.
func TestAnswersOfOtherServers(t *testing.T) {
	answer := ""
	servers := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		_, _ = io.WriteString(w, answer)
		w.Header().Set("Grpc-Status", "0")
	})
	for text, want := range map[string]string{
		"\x00\x00\x00\x00\x02\x08\x01":                     "",
		"\x00\x00\x00\x00\x05\x12\x01x\x08\x01":            "", // with a field of later
		"\x00\x00\x00\x00\x00":                             "health status 0",
		"":                                                 "no message",
		"\x00\x00\x00\x00\x03\x08\x01":                     "no message",
		"\x01\x00\x00\x00\x02\x08\x01":                     "no message", // compressed
		"\x00\x00\x00\x00\x01\x08":                         "read answer",
		"\x00\x00\x00\x00\x01\xff":                         "read answer",
		"\x00\x00\x00\x00\x02\x12\x09":                     "read answer",
		"\x00\xff\xff\xff\xff\x08\x01":                     "no message",
		"\x00\x00\x00\x20\x00" + strings.Repeat("x", 8192): "more than",
	} {
		answer = text
		if got := verdict(t, health.Check{Kind: health.GRPC}, endpoint(servers["HTTP/2"])); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%q: %q, want %q", text[:min(len(text), 12)], got, want)
		}
	}
	answer = "\x00\x00\x00\x00\x02\x08\x01"
	if got := verdict(t, health.Check{Kind: health.GRPC}, endpoint(servers["plain"])); !strings.Contains(got, "is not gRPC") {
		t.Errorf("over HTTP/1.1: %q", got)
	}
	if got := verdict(t, health.Check{Kind: health.GRPC}, endpoint(serve(t, http.NotFound)["HTTP/2"])); !strings.Contains(got, "answered 404") {
		t.Errorf("from a server without it: %q", got)
	}
}
