package deployments_test

import "testing"

// The resources of the text are taken, and refused, as it says. What becomes of requests
// is tried by a gateway: see dataplane/gateway.
func TestUpstreamsDocument(t *testing.T) {
	b := book{t: t}
	b.asks = func(int, string) { b.asked++ }
	b.read("docs/upstreams.md")
	if b.asked < 12 || b.refused < 1 {
		t.Errorf("%d requests and %d refusals: too few examples were found", b.asked, b.refused)
	}
}
