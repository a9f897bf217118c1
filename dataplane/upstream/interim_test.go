package upstream_test

import (
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"net/url"
	"testing"

	"github.com/sallyport/sallyport/dataplane/upstream"
)

// hinting is an endpoint over HTTP/2 that has two hints for /hinted.
func hinting(t *testing.T) *upstream.Upstream {
	t.Helper()
	s := &server{Server: httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hinted" {
			rw.Header().Set("Link", "</a.css>")
			rw.WriteHeader(http.StatusEarlyHints)
			rw.Header().Set("Link", "</b.css>")
			rw.WriteHeader(http.StatusEarlyHints)
		}
	}))}
	s.TLS, s.EnableHTTP2 = &tls.Config{}, true
	s.StartTLS()
	t.Cleanup(s.Close)
	return only(newPool(t, anonymous(t), nil), upstream.Spec{
		Namespace: "shop", Name: "orders", Endpoints: []string{s.address()}, TLS: &upstream.TLS{CAFile: caFile(t, s)},
	})
}

// asks returns why there is no answer.
func asks(t *testing.T, u *upstream.Upstream, path string, hint upstream.Hint) error {
	t.Helper()
	r := &http.Request{Method: http.MethodGet, Host: "a.example", URL: &url.URL{Opaque: path}, Header: http.Header{}}
	c := upstream.Call{Hint: hint}
	defer c.End()
	res, err := u.Send(r.WithContext(t.Context()), &c)
	if err == nil {
		_ = res.Body.Close()
	}
	return err
}

// Who takes its time for a hint has nobody else wait whose request goes over the same
// connection, and misses none.
func TestHintsKeepNobodyElseWaiting(t *testing.T) {
	u := hinting(t)
	if err := asks(t, u, "/", nil); err != nil { // there is a connection
		t.Fatal(err)
	}
	hinted, others := make(chan struct{}, 2), make(chan struct{})
	var links []string
	answered := make(chan error, 1)
	go func() {
		answered <- asks(t, u, "/hinted", func(_ int, fields textproto.MIMEHeader) error {
			links = append(links, fields.Get("Link"))
			hinted <- struct{}{}
			<-others
			return nil
		})
	}()
	<-hinted
	for range 3 {
		if err := asks(t, u, "/", nil); err != nil {
			t.Error(err)
		}
	}
	select {
	case err := <-answered:
		t.Errorf("answered before all was told: %v", err)
	default:
	}
	close(others)
	if err := <-answered; err != nil {
		t.Error(err)
	}
	if len(links) != 2 || links[0] != "</a.css>" || links[1] != "</b.css>" {
		t.Errorf("told of %q", links)
	}
}

// A request whose hint fails has no answer.
func TestHintsThatFail(t *testing.T) {
	no := errors.New("nobody wants to know")
	if err := asks(t, hinting(t), "/hinted", func(int, textproto.MIMEHeader) error { return no }); !errors.Is(err, no) {
		t.Errorf("got %v", err)
	}
}
