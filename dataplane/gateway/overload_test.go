package gateway_test

import (
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/dataplane/overload"
)

// guard guards against a delay that the test says.
func guard(t *testing.T) (g *overload.Guard, delay *atomic.Int64) {
	t.Helper()
	delay = &atomic.Int64{}
	g, err := overload.New(overload.Config{Log: slog.New(slog.DiscardHandler), Delay: func() time.Duration { return time.Duration(delay.Load()) }})
	if err != nil {
		t.Fatal(err)
	}
	return g, delay
}

// askUntil asks until an answer has the status, and returns it.
func (w *world) askUntil(c *http.Client, status int) (*http.Response, string) {
	w.t.Helper()
	for until := time.Now().Add(20 * time.Second); time.Now().Before(until); {
		r, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, "https://"+host+"/v1/orders/7", nil)
		w.must(err)
		r.Header.Set("Authorization", "Bearer rubbish") // what costs something to find out
		res, err := c.Do(r)
		w.must(err)
		body := w.read(res)
		if res.StatusCode == status {
			return res, body
		}
	}
	w.t.Fatalf("no answer has the status %d", status)
	return nil, ""
}

// What a proxy has no time for is refused before anybody asks who sends it, and is held
// against nobody; what was let through goes on.
func TestOverload(t *testing.T) {
	g, delay := guard(t)
	w := newWorld(t, options{overload: g})
	w.run(g.Run)
	up := newEcho(t)
	w.apply(w.usual(plaintext(up.address())))
	for _, http2 := range []bool{false, true} {
		c := w.client(http2, w.tls(host))
		delay.Store(int64(10 * time.Second))
		res, body := w.askUntil(c, http.StatusServiceUnavailable)
		d := w.records.of(t, "decision", res.Header.Get("Sallyport-Decision-Id"))
		if p := w.problem(body); p.Reason != "overloaded" || p.DecisionID == "" || d.Reason != "overloaded" || d.Allow || d.Principal != nil || d.Path != "/v1/orders/7" {
			t.Errorf("HTTP/2 %t: the answer is %s, recorded %+v", http2, body, d)
		}
		if after := res.Header.Get("Retry-After"); after < "1" || after > "3" || len(after) != 1 {
			t.Errorf("HTTP/2 %t: Retry-After is %q", http2, after)
		}
		delay.Store(0)
		w.askUntil(c, http.StatusUnauthorized)
	}
	if n := w.metric(`sallyport_requests_total{decision="deny",reason="overloaded",route=""}`); n == "" {
		t.Error("what is refused is not counted")
	}
	if up.requests.Load() > 0 {
		t.Error("the upstream has seen something")
	}
}

func TestOverloadOfCalls(t *testing.T) {
	g, delay := guard(t)
	w := newWorld(t, options{overload: g})
	w.run(g.Run)
	w.apply(w.usual(plaintext(newEcho(t).address())))
	delay.Store(int64(10 * time.Second))
	c := w.client(true, w.tls(host))
	w.askUntil(c, http.StatusServiceUnavailable)
	for until := time.Now().Add(20 * time.Second); ; {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+host+"/v1/orders/7", strings.NewReader(""))
		w.must(err)
		r.Header.Set("Content-Type", "application/grpc")
		res, err := c.Do(r)
		w.must(err)
		w.read(res)
		if strings.HasPrefix(res.Header.Get("Grpc-Message"), "overloaded: ") && res.Header.Get("Grpc-Status") == "14" && res.Header.Get("Retry-After") != "" {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("the last answer is %v", res.Header)
		}
	}
}
