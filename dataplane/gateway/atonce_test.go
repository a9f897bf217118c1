package gateway_test

import (
	"net/http"
	"testing"
)

// Of a key so many requests are under way at once, and who ends makes room, however it
// ends, also when the limits have changed meanwhile.
func TestConcurrentRequests(t *testing.T) {
	const spec = "key: [{header: X-Tenant}], requests: 1000, period: 1s, concurrent: 2"
	w, up := limited(t, rateLimit("few", spec))
	came, end := make(chan struct{}), make(chan struct{})
	up.answerWith(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Wait") != "" {
			came <- struct{}{}
			<-end
		}
	})
	ended := make(chan int, 2)
	for range 2 {
		go func() {
			res, _ := w.asked("ann", "GET", "X-Tenant", "a", "X-Wait", "yes")
			ended <- res.StatusCode
		}()
		<-came
	}
	res, body := w.asked("ann", "GET", "X-Tenant", "a")
	if p := w.problem(body); res.StatusCode != 429 || p.Reason != "rate_limited" || res.Header.Get("Retry-After") != "1" {
		t.Errorf("a third: %d %s", res.StatusCode, body)
	}
	if l := w.records.of(t, "decision", w.problem(body).DecisionID); l.Policy != "RateLimit/shop/few" || l.Detail != "more than 2 at once" {
		t.Errorf("recorded %+v", l)
	}
	if res, _ := w.asked("ann", "GET", "X-Tenant", "b"); res.StatusCode != 200 {
		t.Errorf("another tenant: %d", res.StatusCode)
	}
	w.apply(w.usual(plaintext(up.address())) + rateLimit("few", spec+", burst: 700"))
	if res, _ := w.asked("ann", "GET", "X-Tenant", "a"); res.StatusCode != 429 {
		t.Errorf("after a change that does not matter: %d", res.StatusCode)
	}
	close(end)
	for range 2 {
		if status := <-ended; status != 200 {
			t.Errorf("one of two: %d", status)
		}
	}
	for range 5 { // more than two, one after the other, and some that are denied
		if res, _ := w.asked("ann", "GET", "X-Tenant", "a"); res.StatusCode != 200 {
			t.Errorf("afterwards: %d", res.StatusCode)
		}
		if res, _ := w.asked("", "GET", "X-Tenant", "a"); res.StatusCode != 401 {
			t.Errorf("without a token: %d", res.StatusCode)
		}
	}
}
