package upstream_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/dataplane/upstream"
	"github.com/sallyport/sallyport/dataplane/upstream/balance"
)

// endpoint answers with a status, none for zero, and counts the requests that it has
// seen.
type endpoint struct {
	*httptest.Server
	seen   atomic.Int64
	status atomic.Int64
}

func (e *endpoint) address() string { return e.Listener.Addr().String() }

func answering(t *testing.T, status int) *endpoint {
	t.Helper()
	e := &endpoint{}
	e.status.Store(int64(status))
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.seen.Add(1)
		status := int(e.status.Load())
		if status == 0 {
			panic(http.ErrAbortHandler)
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "some text")
	}))
	t.Cleanup(e.Close)
	return e
}

// outcome is what became of a request: the status of the answer, or the reason for none.
type outcome struct {
	status   int
	reason   string
	endpoint string
	attempts int
}

func ask(ctx context.Context, u *upstream.Upstream, method, body string, key balance.Key) (o outcome) {
	r := (&http.Request{Method: method, Host: "a.example", URL: &url.URL{Opaque: "/"}, Header: http.Header{}}).WithContext(ctx)
	if body != "" {
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	}
	c := upstream.Call{Key: key}
	defer c.End()
	res, err := u.Send(r, &c)
	o.endpoint, o.attempts = c.Endpoint, c.Attempts
	if err != nil {
		o.reason = reason(err)
		return o
	}
	defer res.Body.Close()
	o.status = res.StatusCode
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		o.reason = err.Error()
	}
	return o
}

func observed(t *testing.T, now func() time.Time) (*upstream.Pool, *prometheus.Registry) {
	t.Helper()
	registry := prometheus.NewRegistry()
	p, err := upstream.New(upstream.Config{Identity: anonymous(t), Log: quiet(), Registerer: registry, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Sync(nil) })
	return p, registry
}

// What changes nothing is sent again, to another endpoint. What might have been done is
// not, nor what has a body.
func TestRetries(t *testing.T) {
	for _, c := range []struct {
		name, method, body string
		first              int // status of the first endpoint; zero for none
		retries            upstream.Retries
		want               int // status; zero for none
		attempts           int
	}{
		{"a reset", "GET", "", 0, upstream.Retries{}, 200, 2},
		{"a reset", "HEAD", "", 0, upstream.Retries{}, 200, 2},
		{"a reset", "POST", "", 0, upstream.Retries{}, 0, 1},
		{"a reset", "DELETE", "", 0, upstream.Retries{}, 0, 1},
		{"a reset, and a body", "GET", "x", 0, upstream.Retries{}, 0, 1},
		{"a gateway's error", "GET", "", 503, upstream.Retries{}, 200, 2},
		{"a gateway's error", "OPTIONS", "", 502, upstream.Retries{}, 200, 2},
		{"a gateway's error", "GET", "", 504, upstream.Retries{}, 200, 2},
		{"a gateway's error", "POST", "", 503, upstream.Retries{}, 503, 1},
		{"a gateway's error, and a body", "GET", "x", 503, upstream.Retries{}, 503, 1},
		{"another error", "GET", "", 500, upstream.Retries{}, 500, 1},
		{"only resets", "GET", "", 503, upstream.Retries{On: upstream.OnReset}, 503, 1},
		{"only gateways' errors", "GET", "", 0, upstream.Retries{On: upstream.OnGatewayError}, 0, 1},
		{"off", "GET", "", 0, upstream.Retries{Off: true}, 0, 1},
		{"off", "GET", "", 503, upstream.Retries{Off: true}, 503, 1},
	} {
		bad, good := answering(t, c.first), answering(t, 200)
		spec := plaintext(good.address(), bad.address()) // the second begins
		spec.Retries = c.retries
		p, registry := observed(t, nil)
		got := ask(t.Context(), only(p, spec), c.method, c.body, 0)
		if got.status != c.want || got.attempts != c.attempts {
			t.Errorf("%s %s: %+v", c.name, c.method, got)
		}
		if n := counted(t, registry, "sallyport_upstream_retries_total"); n != float64(c.attempts-1) {
			t.Errorf("%s %s: %v retries were counted", c.name, c.method, n)
		}
		bad.Close()
		good.Close()
	}
}

// As many times as it says, and the last answer is the one that counts.
func TestAttempts(t *testing.T) {
	all := []*endpoint{answering(t, 503), answering(t, 502), answering(t, 504), answering(t, 503)}
	spec := plaintext()
	for _, e := range all {
		spec.Endpoints = append(spec.Endpoints, e.address())
	}
	spec.Retries.Attempts = 2
	p, _ := observed(t, nil)
	u := only(p, spec)
	if got := ask(t.Context(), u, "GET", "", 0); got.attempts != 3 || got.status/100 != 5 {
		t.Errorf("got %+v", got)
	}
	spec.Retries.Attempts = 10
	if got := ask(t.Context(), only(p, spec), "GET", "", 0); got.attempts != 4 {
		t.Errorf("of four endpoints: %+v", got)
	}
}

// With one endpoint alone a request that was lost goes there again; an error is an
// answer.
func TestOneEndpoint(t *testing.T) {
	p, _ := observed(t, nil)
	e := answering(t, 0)
	u := only(p, plaintext(e.address()))
	if got := ask(t.Context(), u, "GET", "", 0); got.reason != "upstream_failed" || got.attempts != 2 || e.seen.Load() != 2 {
		t.Errorf("a reset: %+v, %d seen", got, e.seen.Load())
	}
	e.status.Store(503)
	if got := ask(t.Context(), u, "GET", "", 0); got.status != 503 || got.attempts != 1 {
		t.Errorf("an error: %+v", got)
	}
}

// No more is sent again than there is a budget for, whatever fails.
func TestBudgetOfRetries(t *testing.T) {
	now := time.Now()
	p, registry := observed(t, func() time.Time { return now })
	spec := plaintext(answering(t, 503).address(), answering(t, 503).address(), answering(t, 503).address())
	spec.Ejection.Off = true
	u := only(p, spec)
	const asked = 200
	sent := 0
	for range asked {
		sent += ask(t.Context(), u, "GET", "", 0).attempts
	}
	// Thirty are free in ten seconds.
	if most := asked + asked/5 + 30; sent > most || sent < most-50 {
		t.Errorf("%d requests were sent %d times, want about %d", asked, sent, most)
	}
	if n := counted(t, registry, "sallyport_upstream_retries_withheld_total"); n != float64(2*asked-sent) {
		t.Errorf("%v were withheld, want %d", n, 2*asked-sent)
	}
}

// Five failures in a row eject an endpoint, which shows in what others get.
func TestEjection(t *testing.T) {
	var now clock
	p, registry := observed(t, now.now)
	bad, good := answering(t, 503), answering(t, 200)
	u := only(p, plaintext(bad.address(), good.address()))
	for range 40 {
		ask(t.Context(), u, "POST", "", 0)
	}
	if bad.seen.Load() != 5 || counted(t, registry, "sallyport_upstream_ejections_total") != 1 {
		t.Errorf("the bad one has seen %d", bad.seen.Load())
	}
	bad.status.Store(200)
	now.advance(30 * time.Second)
	for range 10 {
		ask(t.Context(), u, "POST", "", 0)
	}
	if bad.seen.Load() != 10 {
		t.Errorf("when it is back it has seen %d", bad.seen.Load())
	}
	p.Sync(nil)
	if n := counted(t, registry, "sallyport_upstream_ejections_total"); n != 0 {
		t.Errorf("%v ejections are shown of an upstream that is gone", n)
	}
}

// Whose time is over blames the endpoint; who goes away does not, nor does who breaks off
// what they send.
func TestWhoIsToBlame(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	slow := serve(t, "", nil)
	slow.Config.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release })
	fast := answering(t, 200)
	gone := errors.New("nobody waits")
	for _, c := range []struct {
		cause   error
		ejected bool
	}{{upstream.ErrLate, true}, {gone, false}} {
		p, registry := observed(t, nil)
		u := only(p, plaintext(slow.address(), fast.address()))
		for range 20 {
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(5*time.Millisecond, func() { cancel(c.cause) })
			ask(ctx, u, "GET", "", 0)
			cancel(nil)
		}
		if got := counted(t, registry, "sallyport_upstream_ejections_total") > 0; got != c.ejected {
			t.Errorf("%v: ejected is %v", c.cause, got)
		}
	}
	p, registry := observed(t, nil)
	u := only(p, plaintext(fast.address(), answering(t, 200).address()))
	for range 20 {
		r := (&http.Request{Method: "POST", Host: "a.example", URL: &url.URL{Opaque: "/"}, Header: http.Header{}}).WithContext(t.Context())
		r.Body, r.ContentLength = io.NopCloser(io.MultiReader(strings.NewReader("abc"), broken{})), 10
		var c upstream.Call
		if _, err := u.Send(r, &c); err == nil {
			t.Error("a body that breaks off was answered")
		}
		c.End()
	}
	if counted(t, registry, "sallyport_upstream_ejections_total") > 0 {
		t.Error("endpoints were ejected for what a client did")
	}
}

// upload is a body that may come slowly.
type upload struct {
	io.Reader

	slow  chan struct{} // nil for not
	ended atomic.Bool
}

func (u *upload) Read(p []byte) (int, error) {
	if u.slow != nil {
		<-u.slow
	}
	n, err := u.Reader.Read(p)
	u.ended.Store(err != nil)
	return n, err
}

func (u *upload) Close() error { return nil }
func (u *upload) Ended() bool  { return u.ended.Load() }

// Who sends slowly has not shown that an endpoint answers late.
func TestSlowUploadsBlameNobody(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	s := serve(t, "", nil)
	s.Config.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	for _, c := range []struct {
		name    string
		slow    bool
		perTry  time.Duration
		ejected float64
	}{
		{"slow, and late", true, 0, 0}, {"slow, and late for a try", true, 300 * time.Millisecond, 0},
		{"sent, and late", false, 0, 1}, {"sent, and late for a try", false, 300 * time.Millisecond, 1},
	} {
		spec := plaintext(answering(t, 200).address(), s.address()) // the second begins
		spec.Ejection.After, spec.Retries.PerTry = 1, c.perTry
		p, registry := observed(t, nil)
		u := only(p, spec)
		ctx, cancel := context.WithCancelCause(t.Context())
		if c.perTry == 0 {
			time.AfterFunc(300*time.Millisecond, func() { cancel(upstream.ErrLate) })
		}
		body := &upload{Reader: strings.NewReader("abc")}
		if c.slow {
			body.slow = release
		}
		r := (&http.Request{Method: "POST", Host: "a.example", URL: &url.URL{Opaque: "/"}, Header: http.Header{}}).WithContext(ctx)
		r.Body, r.ContentLength = body, -1
		var call upstream.Call
		if _, err := u.Send(r, &call); err == nil {
			t.Errorf("%s: an answer", c.name)
		}
		call.End()
		cancel(nil)
		if got := counted(t, registry, "sallyport_upstream_ejections_total"); got != c.ejected {
			t.Errorf("%s: %v were ejected, want %v", c.name, got, c.ejected)
		}
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestHash(t *testing.T) {
	spec := plaintext(answering(t, 200).address(), answering(t, 200).address(), answering(t, 200).address())
	p, _ := observed(t, nil)
	if only(p, spec).Hash() != nil {
		t.Error("a key is asked for that nobody uses")
	}
	spec.Balancing = upstream.Balancing{Method: balance.Hash, Hash: upstream.HashKey{Header: "X-Cart"}}
	u := only(p, spec)
	if u.Hash() == nil || u.Hash().Header != "X-Cart" {
		t.Errorf("got %+v", u.Hash())
	}
	at := map[string]bool{}
	for i := range 30 {
		key := balance.KeyOf(string(rune('a' + i)))
		first := ask(t.Context(), u, "GET", "", key).endpoint
		if again := ask(t.Context(), u, "GET", "", key).endpoint; again != first {
			t.Errorf("key %d went to %s and %s", i, first, again)
		}
		at[first] = true
	}
	if len(at) != 3 {
		t.Errorf("30 keys went to %d of 3 endpoints", len(at))
	}
}

// An endpoint that takes too long for a try has lost it to another one, if the request
// changes nothing, and what it says later reaches nobody.
func TestTimeOfATry(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	slow := serve(t, "", nil)
	slow.Config.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done(): // it is told
		}
	})
	spec := plaintext(answering(t, 200).address(), slow.address()) // the second begins
	spec.Retries.PerTry = 300 * time.Millisecond
	p, registry := observed(t, nil)
	if got := ask(t.Context(), only(p, spec), "GET", "", 0); got.status != 200 || got.attempts != 2 {
		t.Errorf("GET: %+v", got)
	}
	if n := counted(t, registry, "sallyport_upstream_retries_total"); n != 1 {
		t.Errorf("%v retries were counted", n)
	}
	spec.Digest[0]++ // a new one, at which the second begins
	if got := ask(t.Context(), only(p, spec), "POST", "", 0); got.reason != "upstream_timeout" || got.attempts != 1 {
		t.Errorf("POST: %+v", got)
	}
	spec.Retries.On = upstream.OnReset
	if got := ask(t.Context(), only(p, spec), "GET", "", 0); got.reason != "upstream_timeout" || got.attempts != 1 {
		t.Errorf("GET, after resets only: %+v", got)
	}
}

// The time of a try is over when the answer begins: its body takes as long as it takes.
func TestTimeOfATryEndsWithTheHead(t *testing.T) {
	release := make(chan struct{})
	s := serve(t, "", nil)
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-release
		_, _ = io.WriteString(w, "late, and whole")
	})
	spec := plaintext(s.address())
	spec.Retries.PerTry = 500 * time.Millisecond
	p, _ := observed(t, nil)
	r := (&http.Request{Method: "GET", Host: "a.example", URL: &url.URL{Opaque: "/"}, Header: http.Header{}}).WithContext(t.Context())
	var c upstream.Call
	defer c.End()
	res, err := only(p, spec).Send(r, &c)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	time.AfterFunc(time.Second, func() { close(release) })
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != "late, and whole" {
		t.Errorf("%q %v", body, err)
	}
}

// What is more than an upstream may have to do at once is told so, and nothing is left of
// it when it has ended.
func TestRequestsAtOnce(t *testing.T) {
	release := make(chan struct{})
	busy := answering(t, 200)
	busy.Config.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		busy.seen.Add(1)
		<-release
	})
	spec := plaintext(busy.address())
	spec.Circuit.Requests = 3
	p, registry := observed(t, nil)
	u := only(p, spec)
	answers := make(chan outcome, 3)
	for range 3 {
		go func() { answers <- ask(t.Context(), u, "POST", "", 0) }()
	}
	wait(t, "three requests", func() bool { return busy.seen.Load() == 3 })
	for range 2 {
		if got := ask(t.Context(), u, "GET", "", 0); got.reason != "upstream_overloaded" || got.attempts != 0 {
			t.Errorf("a fourth: %+v", got)
		}
	}
	if n := counted(t, registry, "sallyport_upstream_overflow_total"); n != 2 {
		t.Errorf("%v were counted", n)
	}
	close(release)
	for range 3 {
		if got := <-answers; got.status != 200 {
			t.Errorf("got %+v", got)
		}
	}
	for range 5 {
		if got := ask(t.Context(), u, "GET", "", 0); got.status != 200 {
			t.Errorf("afterwards: %+v", got)
		}
	}
}
