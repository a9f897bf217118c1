package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
)

// BenchmarkDecideAgain is what each open stream costs in a round, with the token of
// a user, twenty policies, and a condition on time.
func BenchmarkDecideAgain(b *testing.B) {
	const all, perConnection = 1000, 100
	w := newWorld(b, options{writer: file(b)})
	up := newEndless()
	upstream := newEcho(b)
	upstream.answerWith(up.serve)
	w.apply(w.usual(plaintext(upstream.address())) + morePolicies() + `
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: late}
spec: {routes: {names: [orders]}, effect: DENY, principals: [{group: shop}], when: 'signals.time > timestamp("2040-01-01T00:00:00Z")'}
`)
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var opening sync.WaitGroup
	for range all / perConnection {
		c := w.client(true, w.tls(host))
		opening.Go(func() {
			for i := range perConnection {
				r := w.request(ctx, http.MethodGet, nil)
				r.Header.Set("Authorization", "Bearer "+w.tokens.sign(map[string]any{"sub": fmt.Sprint("user-", i)}))
				res, err := c.Do(r)
				if err != nil {
					b.Error(err)
					return
				}
				b.Cleanup(func() { _ = res.Body.Close() })
			}
		})
	}
	opening.Wait()
	open := w.gateway.DecideAgain()
	if len(open) != all {
		b.Fatalf("%d are open", len(open))
	}
	var cost float64
	b.Run("each", func(b *testing.B) {
		b.ReportAllocs()
		before := cpu(b)
		for i := range b.N {
			if !open[i%all]() {
				b.Fatal("it would be closed")
			}
		}
		cost = float64((cpu(b) - before).Nanoseconds()) / float64(b.N)
	})
	fmt.Printf("figure redecide_ns %.0f ns\nfigure redecide_10000_streams %.1f ms\n", cost, cost/100)
}
