package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// What an Upstream has the same of it go to one endpoint by does so, and what lacks it
// goes by turns.
func TestHashedRequests(t *testing.T) {
	w := newWorld(t, options{})
	ends := []*echo{newEcho(t), newEcho(t), newEcho(t)}
	hashed := func(by string) {
		w.apply(w.usual(plaintext(ends[0].address(), ends[1].address(), ends[2].address()) + ", balancing: {method: HASH, hash: {" + by + "}}"))
	}
	hashed("header: x-cart")
	c := w.client(true, w.tls(host))
	ask := func(subject string, fields http.Header) string {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+host+"/v1/orders", nil)
		w.must(err)
		if fields != nil {
			r.Header = fields.Clone()
		}
		r.Header.Set("Authorization", "Bearer "+w.tokens.sign(map[string]any{"sub": subject}))
		res, err := c.Do(r)
		w.must(err)
		w.read(res)
		return w.records.of(t, "outcome", res.Header.Get("Sallyport-Decision-Id")).Endpoint
	}
	number := 0
	for _, k := range []struct {
		hash   string
		fields func(i int) (subject string, fields http.Header)
		at     int // endpoints that keys which differ are at
	}{
		{"header: x-cart", func(i int) (string, http.Header) {
			number++
			return fmt.Sprint("person-", number), http.Header{"X-Cart": {fmt.Sprint(i)}}
		}, 3},
		{"cookie: cart", func(i int) (string, http.Header) {
			number++
			return fmt.Sprint("person-", number), http.Header{"Cookie": {fmt.Sprintf("a=%d; cart=%d; b", number, i)}}
		}, 3},
		{"principal: true", func(i int) (string, http.Header) { return fmt.Sprint("person-", i), nil }, 3},
		{"clientAddress: true", func(i int) (string, http.Header) { return fmt.Sprint("person-", i), nil }, 1},
	} {
		hashed(k.hash)
		at := map[string]bool{}
		for i := range 20 {
			first, second := ask(k.fields(i)), ask(k.fields(i))
			if first != second {
				t.Errorf("%s %d is at %s, then at %s", k.hash, i, first, second)
			}
			at[first] = true
		}
		if len(at) != k.at {
			t.Errorf("%s: 20 keys are at %v", k.hash, at)
		}
	}
	hashed("header: x-cart")
	at := map[string]int{}
	for range 9 {
		at[ask("alice", nil)]++
	}
	if len(at) != 3 {
		t.Errorf("without the header: %v", at)
	}
}

// An endpoint that fails shows in a record of what was tried, and not to who asks.
func TestRetriedRequests(t *testing.T) {
	w := newWorld(t, options{})
	bad, good := newEcho(t), newEcho(t)
	bad.answerWith(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	w.apply(w.usual(plaintext(bad.address(), good.address())))
	c := w.client(true, w.tls(host))
	tried := map[int]int{}
	for range 6 {
		res, _ := w.ask(c, "GET", "/v1/orders", nil)
		if res.StatusCode != 200 {
			t.Errorf("GET: %d", res.StatusCode)
		}
		o := w.records.of(t, "outcome", res.Header.Get("Sallyport-Decision-Id"))
		if o.Endpoint != good.address() || o.Reason != "" {
			t.Errorf("outcome %+v", o)
		}
		tried[o.Attempts]++
	}
	if tried[0] != 3 || tried[2] != 3 || bad.requests.Load() != 3 {
		t.Errorf("attempts %v, and the bad one has seen %d", tried, bad.requests.Load())
	}
	failed := 0
	for range 2 {
		if res, _ := w.ask(c, "POST", "/v1/orders", strings.NewReader("an order")); res.StatusCode != 200 {
			failed++
		}
	}
	if failed != 1 || good.requests.Load() != 7 {
		t.Errorf("%d of two orders failed, and the good one has seen %d requests", failed, good.requests.Load())
	}
}

// An error of the endpoint that is not asked again about reaches the client as it is.
func TestErrorsWithNobodyElseToAsk(t *testing.T) {
	w := newWorld(t, options{})
	e := newEcho(t)
	e.answerWith(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, "come back later")
	})
	w.apply(w.usual(plaintext(e.address())))
	res, body := w.ask(w.client(true, w.tls(host)), "GET", "/v1/orders", nil)
	if res.StatusCode != 503 || body != "come back later" || e.requests.Load() != 1 {
		t.Errorf("%d %q after %d requests", res.StatusCode, body, e.requests.Load())
	}
}

// What an upstream has no room for is told when to come again.
func TestOverloadedUpstream(t *testing.T) {
	w := newWorld(t, options{})
	e, release := newEcho(t), make(chan struct{})
	e.answerWith(func(http.ResponseWriter, *http.Request) { <-release })
	w.apply(w.usual(plaintext(e.address()) + ", circuitLimits: {maxRequests: 1}"))
	c := w.client(true, w.tls(host))
	first := make(chan int)
	go func() {
		res, _ := w.ask(c, "GET", "/v1/orders", nil)
		first <- res.StatusCode
	}()
	until(t, "the first request", func() bool { return e.requests.Load() == 1 })
	res, body := w.ask(c, "GET", "/v1/orders", nil)
	if p := w.problem(body); res.StatusCode != 503 || p.Reason != "upstream_overloaded" || res.Header.Get("Retry-After") != "1" {
		t.Errorf("%d %s %v", res.StatusCode, p.Reason, res.Header)
	}
	close(release)
	if got := <-first; got != 200 {
		t.Errorf("the first request got %d", got)
	}
}

// An endpoint that never answers what it was sent is ejected, bodies or not.
func TestLateEndpoints(t *testing.T) {
	w := newWorld(t, options{})
	late, good := newEcho(t), newEcho(t)
	late.answerWith(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	resources := w.usual(plaintext(late.address(), good.address()) + ", ejection: {consecutiveFailures: 2}")
	w.apply(strings.Replace(resources, "upstream: orders, ", "upstream: orders, timeout: 2s, ", 1))
	c := w.client(true, w.tls(host))
	statuses := map[int]int{}
	for range 12 {
		res, _ := w.ask(c, "POST", "/v1/orders", strings.NewReader("an order"))
		statuses[res.StatusCode]++
	}
	if statuses[504] != 2 || statuses[200] != 10 {
		t.Errorf("got %v, want it to be ejected after two", statuses)
	}
}
