package upstream_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/dataplane/upstream"
	"github.com/sallyport/sallyport/dataplane/upstream/balance"
	"github.com/sallyport/sallyport/dataplane/upstream/dns/dnstest"
	"github.com/sallyport/sallyport/dataplane/upstream/health"
	"github.com/sallyport/sallyport/internal/identity"
)

// checked is a server that says of itself how it is.
type checked struct {
	*server
	ill   atomic.Bool
	asked atomic.Int64  // how it is
	again chan struct{} // that it was
	path  atomic.Value  // that was asked for
	host  atomic.Value
	used  atomic.Int64 // by requests
}

func newChecked(t *testing.T) *checked {
	t.Helper()
	c := &checked{server: newServer(t, ""), again: make(chan struct{}, 1)}
	c.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("User-Agent") != "sallyport-health" {
			c.used.Add(1)
			return
		}
		c.asked.Add(1)
		c.path.Store(r.URL.Path)
		c.host.Store(r.Host)
		if c.ill.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		select {
		case c.again <- struct{}{}:
		default: // nobody has looked since
		}
	})
	t.Cleanup(c.Close)
	return c
}

// after returns when c was asked n times more, and what that told is known.
func (c *checked) after(t *testing.T, n int64) {
	t.Helper()
	tooLong := time.After(20 * time.Second)
	for start := c.asked.Load(); c.asked.Load() < start+n+1; {
		select {
		case <-c.again:
		case <-tooLong:
			t.Fatal("nobody checks it")
		}
	}
}

// quick are checks that follow on one another at once.
func quick() *health.Check {
	return &health.Check{Kind: health.HTTP, Path: "/healthz", Interval: 5 * time.Millisecond, Timeout: 5 * time.Second, Healthy: 2, Fail: 3}
}

func inService(t *testing.T, src *identity.Source) (*upstream.Pool, *prometheus.Registry) {
	t.Helper()
	registry := prometheus.NewRegistry()
	p, err := upstream.New(upstream.Config{Identity: src, Log: quiet(), Registerer: registry})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Sync(nil) })
	run(t, p.Run)
	return p, registry
}

// shares sends requests, and returns how many have gone to each of two.
func shares(t *testing.T, u *upstream.Upstream, a, b *checked) (int64, int64) {
	t.Helper()
	a.used.Store(0)
	b.used.Store(0)
	for range 10 {
		if o := ask(t.Context(), u, "GET", "", 0); o.status != 200 {
			t.Errorf("%+v", o)
		}
	}
	return a.used.Load(), b.used.Load()
}

// Requests do not go to an endpoint that is found unhealthy, until it is well again, or
// nobody checks it any more. That outlives documents which do not say otherwise.
func TestHealthOfEndpoints(t *testing.T) {
	a, b := newChecked(t), newChecked(t)
	a.Start()
	b.Start()
	p, registry := inService(t, anonymous(t))
	spec := plaintext(a.address(), b.address())
	spec.Check = quick()
	u := only(p, spec)
	expect := func(about string, wantA, wantB int64) {
		t.Helper()
		if gotA, gotB := shares(t, u, a, b); gotA != wantA || gotB != wantB {
			t.Errorf("%s: %d and %d requests, want %d and %d", about, gotA, gotB, wantA, wantB)
		}
	}
	b.after(t, 1)
	expect("both are well", 5, 5)
	b.ill.Store(true)
	b.after(t, 4)
	expect("one is ill", 10, 0)
	if live, ill := endpoints(t, registry, "live"), endpoints(t, registry, "unhealthy"); live != 1 || ill != 1 {
		t.Errorf("%v endpoints are live and %v unhealthy", live, ill)
	}
	for range 3 {
		spec.Retries.Attempts++
		u = only(p, spec)
		expect("one is ill, and the document is another one", 10, 0)
	}
	spec.Check = quick()
	spec.Check.Path = "/other"
	u = only(p, spec)
	expect("one was ill, and the check is another one", 10, 0)
	b.after(t, 2)
	if path, host := b.path.Load(), b.host.Load(); path != "/other" || host != b.address() {
		t.Errorf("it was asked for %s of %s", path, host)
	}
	b.ill.Store(false)
	b.after(t, 3)
	expect("it is well again", 5, 5)
	b.ill.Store(true)
	b.after(t, 4)
	spec.Check = nil
	u = only(p, spec)
	expect("nobody asks how it is", 5, 5)
	asked := b.asked.Load()
	a.ill.Store(true)
	expect("nobody asks how they are", 5, 5)
	if n := b.asked.Load() - asked; n > 1 { // one may have been under way
		t.Errorf("asked %d times by nobody", n)
	}
}

// An upstream all of whose endpoints are ill is asked all the same.
func TestPanicOfChecks(t *testing.T) {
	a, b := newChecked(t), newChecked(t)
	a.Start()
	b.Start()
	a.ill.Store(true)
	b.ill.Store(true)
	p, _ := inService(t, anonymous(t))
	spec := plaintext(a.address(), b.address())
	spec.Check = quick()
	u := only(p, spec)
	a.after(t, 1)
	b.after(t, 1)
	if gotA, gotB := shares(t, u, a, b); gotA != 5 || gotB != 5 {
		t.Errorf("%d and %d requests", gotA, gotB)
	}
}

// Checks go over connections as those of requests, with the same proof of who is there.
func TestChecksProveWhoIsThere(t *testing.T) {
	is := newIssuer(t)
	theirs := identified(t, is, peer, nil)
	start := func() *checked {
		c := newChecked(t)
		c.TLS = identity.ServerConfig(theirs, identity.Only(self))
		c.StartTLS()
		return c
	}
	c := start()
	for about, want := range map[string]struct {
		peers, state string
		asked        bool
	}{
		"as requests are":   {string(peer), "live", true},
		"not by whom it is": {"spiffe://prod.example/ns/other/**", "unhealthy", false},
	} {
		t.Run(about, func(t *testing.T) {
			p, registry := inService(t, identified(t, is, self, nil))
			spec := spiffe(t, want.peers, c.address())
			spec.Check = quick()
			before := c.asked.Load()
			only(p, spec)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			for endpoints(t, registry, want.state) != 1 || want.asked && c.asked.Load() < before+3 {
				if ctx.Err() != nil {
					t.Fatalf("not %s", want.state)
				}
			}
			if asked := c.asked.Load() > before; asked != want.asked {
				t.Errorf("asked: %v", asked)
			}
		})
	}
}

// What we lack is no fault of an endpoint.
func TestChecksThatSayNothing(t *testing.T) {
	c := newChecked(t)
	c.StartTLS()
	trusted := caFile(t, c.server)
	p := newPool(t, anonymous(t), nil)
	for about, tried := range map[string]struct {
		spec upstream.Spec
		ours bool
	}{
		"no identity":               {spiffe(t, string(peer), c.address()), true},
		"no authorities":            {upstream.Spec{Endpoints: []string{c.address()}, TLS: &upstream.TLS{CAFile: "/nowhere"}}, true},
		"others than it is":         {upstream.Spec{Endpoints: []string{c.address()}, TLS: &upstream.TLS{CAFile: trusted, ServerName: "x.example"}}, false},
		"nobody there":              {plaintext(closedAddress(t)), false},
		"nobody there to speak TLS": {upstream.Spec{Endpoints: []string{closedAddress(t)}, TLS: &upstream.TLS{}}, false},
	} {
		err := only(p, tried.spec).Check(t.Context())
		if err == nil || errors.Is(err, health.ErrNotAsked) != tried.ours {
			t.Errorf("%s: %v", about, err)
		}
	}
}

// endpoints returns how many endpoints the metrics show in a state.
func endpoints(t *testing.T, registry *prometheus.Registry, state string) (n float64) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "sallyport_upstream_endpoints" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "state" && l.GetValue() == state {
					n += m.GetGauge().GetValue()
				}
			}
		}
	}
	return n
}

// The state of an endpoint that is new in a document is not that of another one.
func TestEndpointsThatAreNew(t *testing.T) {
	down := closedAddress(t)
	p, registry := inService(t, anonymous(t))
	spec := plaintext(down)
	spec.Balancing.Method = balance.LeastRequest
	if got := send(t, only(p, spec), ""); got != "upstream_unreachable" {
		t.Fatalf("got %s", got)
	}
	if n := endpoints(t, registry, "avoided"); n != 1 {
		t.Errorf("%v are avoided, want 1", n)
	}
	spec.Endpoints = append(spec.Endpoints, strings.Replace(down, "127.0.0.1", "127.0.0.2", 1))
	only(p, spec)
	if avoided, live := endpoints(t, registry, "avoided"), endpoints(t, registry, "live"); avoided != 1 || live != 1 {
		t.Errorf("%v avoided and %v live, want one each", avoided, live)
	}
}

// However often a document changes, what goes on for it does so once, and ends with it.
func TestManyDocuments(t *testing.T) {
	a := newChecked(t)
	a.Start()
	_, port, _ := net.SplitHostPort(a.address())
	s := dnstest.New()
	s.Set("orders.example", 60, "127.0.0.1")
	p := resolving(t, s)
	spec := plaintext("orders.example:" + port)
	spec.Check, spec.Resolution = quick(), often
	for u := only(p, spec); u.Endpoints()[0] != a.address(); {
		a.after(t, 0)
	}
	const documents = 1000
	most := 0
	for i := range documents {
		spec.Retries.Attempts = 1 + i%2
		u := only(p, spec)
		if i%10 == 0 {
			if o := ask(t.Context(), u, "GET", "", 0); o.status != 200 {
				t.Fatalf("document %d: %+v", i, o)
			}
		}
		most = max(most, runtime.NumGoroutine())
	}
	if most > 100 {
		t.Errorf("%d goroutines at once", most)
	}
	if asked, looked := a.asked.Load(), s.Asked("orders.example"); asked > documents || looked > documents {
		t.Errorf("checked %d times and looked up %d times: as often as there were documents", asked, looked)
	}
	a.after(t, 3) // it goes on
	// Another that is checked as often tells the time.
	b := newChecked(t)
	b.Start()
	other := plaintext(b.address())
	other.Name, other.Check = "other", quick()
	only(p, other)
	for range 20 { // checks and lookups that are under way may still arrive
		asked, looked := a.asked.Load(), s.Asked("orders.example")
		b.after(t, 10)
		if a.asked.Load() == asked && s.Asked("orders.example") == looked {
			return
		}
	}
	t.Error("it is still checked and looked up")
}
