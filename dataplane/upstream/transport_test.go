package upstream_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/sallyport/sallyport/dataplane/upstream"
)

// An endpoint is spoken to as it prefers, and may change its mind between
// connections.
func TestProtocolsOfAnEndpoint(t *testing.T) {
	first := serve(t, "first", &tls.Config{})
	address, cert := first.address(), first.TLS.Certificates[0]
	u := only(newPool(t, anonymous(t), nil), upstream.Spec{
		Namespace: "shop", Name: "orders", Endpoints: []string{address}, TLS: &upstream.TLS{CAFile: caFile(t, first)},
	})
	ask := func(s *server, want string) {
		t.Helper()
		for range 3 {
			if got := send(t, u, "x"); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		if n := s.conns.Load(); n != 1 {
			t.Errorf("%s: %d connections for three requests, want 1", want, n)
		}
	}
	ask(first, "first HTTP/2.0 /v1/orders%20?a=b;c x")
	first.Close()
	second := serveAt(t, address, "second", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}})
	got := ""
	for range 3 { // until HTTP/2 has noticed, and no longer
		if got = send(t, u, "x"); got != "upstream_failed" {
			break
		}
	}
	if want := "second HTTP/1.1 /v1/orders%20?a=b;c x"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	second.conns.Store(1) // the one on which HTTP/1.1 was found is not used
	ask(second, "second HTTP/1.1 /v1/orders%20?a=b;c x")
	second.Close()
	third := serveAt(t, address, "third", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}})
	ask(third, "third HTTP/2.0 /v1/orders%20?a=b;c x")
}

// serveAt is serve on an address that was in use before.
func serveAt(t *testing.T, address, name string, cfg *tls.Config) *server {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, name)
	_ = s.Listener.Close()
	s.Listener = ln
	s.TLS, s.EnableHTTP2 = cfg, len(cfg.NextProtos) > 1
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// forgetful answers the first request of each connection, and ends it at the second.
func forgetful(t *testing.T) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	go func() {
		for {
			conn, err := s.Listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				in := bufio.NewReader(conn)
				_, _ = http.ReadRequest(in)
				_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
				_, _ = http.ReadRequest(in)
			}()
		}
	}()
	t.Cleanup(func() { _ = s.Listener.Close() })
	return s
}

// A connection that ends under a request is nobody's fault: what changes nothing is
// sent again, and what might have been done is not.
func TestConnectionsThatEndUnderARequest(t *testing.T) {
	for method, want := range map[string]string{"GET": "", "HEAD": "", "POST": "upstream_failed", "DELETE": "upstream_failed"} {
		s := forgetful(t)
		u := only(newPool(t, anonymous(t), nil), plaintext(s.Listener.Addr().String()))
		if got := call(t, u, method); got != "" {
			t.Errorf("%s: %s", method, got)
		}
		if got := call(t, u, method); got != want {
			t.Errorf("%s over the connection that ends: %q, want %q", method, got, want)
		}
	}
}

// call sends a request without a body and returns why there is no answer.
func call(t *testing.T, u *upstream.Upstream, method string) string {
	t.Helper()
	r := &http.Request{Method: method, Host: "a.example", URL: &url.URL{Opaque: "/"}, Header: http.Header{}}
	var c upstream.Call
	defer c.End()
	res, err := u.Send(r.WithContext(t.Context()), &c)
	if err != nil {
		return reason(err)
	}
	_ = res.Body.Close()
	return ""
}
