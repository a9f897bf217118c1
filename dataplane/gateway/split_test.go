package gateway_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// Who sends a request stays with one upstream, by weight, and the assertion and the
// record name it.
func TestSplit(t *testing.T) {
	w := newWorld(t, options{})
	up, canary := newEcho(t), newEcho(t)
	resources := w.usual(plaintext(up.address())) + `
---
apiVersion: sallyport/v1
kind: Upstream
metadata: {namespace: shop, name: canary}
spec: {` + plaintext(canary.address()) + `}
`
	split := strings.NewReplacer("upstream: orders, ", `split: {shares: [{upstream: canary, weight: 1}, {upstream: orders, weight: 3}], STICKY}, `).Replace(resources)
	w.apply(strings.Replace(split, "STICKY", "principal: true", 1))
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
		if res.StatusCode != 200 {
			t.Fatalf("%s: %d", subject, res.StatusCode)
		}
		return w.records.of(t, "outcome", res.Header.Get("Sallyport-Decision-Id")).Upstream
	}
	at := map[string]int{}
	for i := range 40 {
		person := fmt.Sprint("person-", i)
		first := ask(person, nil)
		if second := ask(person, nil); first != second {
			t.Errorf("%s is at %s, then at %s", person, first, second)
		}
		at[first]++
	}
	if at["shop/canary"] == 0 || at["shop/orders"] <= at["shop/canary"] || len(at) != 2 || canary.requests.Load() != int64(2*at["shop/canary"]) {
		t.Errorf("people are at %v, and the canary was asked %d times", at, canary.requests.Load())
	}

	w.apply(strings.Replace(split, "STICKY", "header: X-Visitor", 1))
	for i := range 8 {
		visitor := http.Header{"X-Visitor": {fmt.Sprint(i)}}
		if first, second := ask("alice", visitor), ask("bob", visitor); first != second {
			t.Errorf("visitor %d is at %s, then at %s", i, first, second)
		}
	}

	w.apply(strings.Replace(split, ", STICKY", "", 1))
	at = map[string]int{}
	for range 60 {
		at[ask("alice", nil)]++
	}
	if len(at) != 2 {
		t.Errorf("by chance alice is at %v", at)
	}
}
