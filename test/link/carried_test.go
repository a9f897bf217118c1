package link_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"
)

// carried sends all to the one of two upstreams whose first endpoint is away.
const carried = `
apiVersion: sallyport/v1
kind: Upstream
metadata: {namespace: shop, name: pair}
spec: {endpoints: [%q, %q], plaintext: {}}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: orders}
spec:
  hosts: [api.example]
  paths: ["/v1/**"]
  rewrite: {host: orders.internal, path: "/v2/**"}
  split: {shares: [{upstream: pair, weight: 1}, {upstream: orders, weight: 0}]}
  authentication: {client_certificates: true}
  record: {mode: ALL}
`

// A whole proxy tells the control plane which trace a request was in, and how it was
// carried: where it went, by which share of the route, to which endpoint, and how
// often it was tried.
func TestHowRequestsWereCarriedIsKept(t *testing.T) {
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	g := newGate(t, "ALL")
	alive := lean(t)
	p := &proxy{id: "spiffe://prod.example/proxy/aws/1", instance: "one"}
	g.replica.enforced(p, g.commit(fmt.Sprintf(carried, free(t), alive)), enforced)
	client := &http.Client{Timeout: patience, Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, g.listener)
		},
		TLSClientConfig: g.tls,
	}}
	defer client.CloseIdleConnections()
	const requests = 4
	for range requests {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://api.example/v1/orders/7?page=2", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Traceparent", "00-"+trace+"-00f067aa0ba902b7-00")
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Fatal(res.Status)
		}
	}
	var attempts []int32
	eventually(t, "all ends are kept", func() bool {
		attempts = nil
		for _, d := range g.fleet.kept() {
			m := g.read(d)
			o := m.GetOutcome()
			if o.GetTarget() == "orders.internal/v2/orders/7" && o.GetUpstream() == "shop/pair" && o.GetEndpoint() == alive && m.GetTraceId() == trace {
				attempts = append(attempts, o.GetAttempts())
			}
		}
		return len(attempts) == requests
	})
	if slices.Sort(attempts); attempts[0] != 1 || attempts[requests-1] != 2 {
		t.Errorf("the requests were tried %v times", attempts)
	}
}
