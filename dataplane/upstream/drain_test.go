package upstream_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/dataplane/upstream"
	"github.com/sallyport/sallyport/dataplane/upstream/balance"
)

// drained is a server whose next request may have to wait to be released, and that tells of
// connections that end.
type drained struct {
	*server
	holds   atomic.Bool
	held    chan struct{} // a request has come
	release chan struct{}
	ended   chan struct{} // one for each connection
}

// drains starts a server of HTTP/2 if cfg is not nil, else of plain HTTP/1.1.
func drains(t *testing.T, cfg *tls.Config) *drained {
	t.Helper()
	d := newDrained(t)
	if cfg == nil {
		d.Start()
	} else {
		d.TLS, d.EnableHTTP2 = cfg, true
		d.StartTLS()
	}
	return d
}

// drainsOn starts a server of plain HTTP/1.1.
func drainsOn(t *testing.T, ln net.Listener) *drained {
	t.Helper()
	d := newDrained(t)
	_ = d.Listener.Close()
	d.Listener = ln
	d.Start()
	return d
}

func newDrained(t *testing.T) *drained {
	t.Helper()
	d := &drained{server: newServer(t, ""), held: make(chan struct{}), release: make(chan struct{}), ended: make(chan struct{}, 8)}
	d.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if d.holds.CompareAndSwap(true, false) {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			d.held <- struct{}{}
			<-d.release
		}
		_, _ = io.WriteString(w, "all of it")
	})
	count := d.Config.ConnState
	d.Config.ConnState = func(c net.Conn, s http.ConnState) {
		count(c, s)
		if s == http.StateClosed {
			d.ended <- struct{}{}
		}
	}
	t.Cleanup(d.Close)
	return d
}

func (d *drained) open(t *testing.T, about string) {
	t.Helper()
	select {
	case <-d.ended:
		t.Errorf("%s: a connection was closed", about)
	default:
	}
}

func (d *drained) closed(t *testing.T, about string) {
	t.Helper()
	select {
	case <-d.ended:
	case <-time.After(20 * time.Second):
		t.Errorf("%s: no connection was closed", about)
	}
}

// A changed document leaves connections to endpoints that stay as they are, whatever
// else is new of it. Those to endpoints that are gone are closed, and a request that is
// under way on one goes on to its end.
func TestDrainOfEndpoints(t *testing.T) {
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2"} {
		t.Run(protocol, func(t *testing.T) {
			var cfg *tls.Config
			if protocol == "HTTP/2" {
				cfg = &tls.Config{}
			}
			stays, goes := drains(t, cfg), drains(t, cfg)
			spec := plaintext(stays.address(), goes.address())
			if cfg != nil {
				spec.Plaintext, spec.TLS = false, &upstream.TLS{CAFile: caFile(t, stays.server)} // httptest's is one for all
			}
			p := newPool(t, anonymous(t), nil)
			u := only(p, spec)
			for range 4 {
				if o := ask(t.Context(), u, "GET", "", 0); o.status != 200 {
					t.Fatalf("%+v", o)
				}
			}
			spec.Balancing.Method = balance.LeastRequest
			spec.Retries.Attempts = 3
			u = only(p, spec)
			for range 8 {
				if o := ask(t.Context(), u, "GET", "", 0); o.status != 200 {
					t.Fatalf("%+v", o)
				}
			}
			if a, b := stays.conns.Load(), goes.conns.Load(); a != 1 || b != 1 {
				t.Errorf("%d and %d connections over two documents, want one each", a, b)
			}
			spec.Balancing.Method = balance.RoundRobin
			whole := hold(t, only(p, spec), goes)
			spec.Endpoints = spec.Endpoints[:1]
			u = only(p, spec)
			goes.open(t, "a request is under way on it")
			close(goes.release)
			if got := <-whole; got != "all of it" {
				t.Errorf("the request that was under way got %q", got)
			}
			if protocol == "HTTP/1.1" { // with HTTP/2 it takes a minute and a half
				goes.closed(t, "it is gone, and nothing is under way")
			}
			for range 4 {
				if o := ask(t.Context(), u, "GET", "", 0); o.endpoint != stays.address() || o.status != 200 {
					t.Errorf("afterwards: %+v", o)
				}
			}
			stays.open(t, "it has stayed")
			if n := stays.conns.Load(); n != 1 {
				t.Errorf("%d connections to the endpoint that stayed, want 1", n)
			}
			p.Sync(nil)
			stays.closed(t, "the upstream is gone")
		})
	}
}

// hold sends requests until one is under way at d, and returns what it gets in the end.
func hold(t *testing.T, u *upstream.Upstream, d *drained) <-chan string {
	t.Helper()
	whole := make(chan string, 1)
	d.holds.Store(true)
	go func() {
		for {
			if endpoint, got := fetch(t.Context(), u); endpoint == d.address() {
				whole <- got
				return
			}
		}
	}()
	<-d.held
	return whole
}

func get(ctx context.Context) *http.Request {
	r := &http.Request{Method: http.MethodGet, Host: "a.example", URL: &url.URL{Opaque: "/"}, Header: http.Header{}}
	return r.WithContext(ctx)
}

// fetch returns which endpoint has answered, and what.
func fetch(ctx context.Context, u *upstream.Upstream) (endpoint, got string) {
	var c upstream.Call
	defer c.End()
	response, err := u.Send(get(ctx), &c)
	if err != nil {
		return c.Endpoint, reason(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return c.Endpoint, err.Error()
	}
	return c.Endpoint, string(body)
}

// What is known of an endpoint stays known when the document changes.
func TestEndpointsAreRemembered(t *testing.T) {
	up, down := serve(t, "up", nil), closedAddress(t)
	p, registry := observed(t, nil)
	spec := plaintext(up.address(), down)
	u := only(p, spec)
	for range 4 {
		send(t, u, "")
	}
	for range 5 {
		spec.Retries.Attempts++
		u = only(p, spec)
		for range 4 {
			if got := send(t, u, ""); got != "up"+sent {
				t.Errorf("got %q", got)
			}
		}
	}
	if n := failures(t, registry); n != 1 {
		t.Errorf("%v connections failed over six documents, want one: it is avoided", n)
	}
	// To somebody else, whoever he is at the same address.
	spec.Plaintext = false
	if got := send(t, only(p, spec), ""); got != "upstream_unreachable" {
		t.Errorf("without a transport: %s", got)
	}
}
