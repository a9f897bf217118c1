package gateway_test

import (
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sallyport/sallyport/dataplane/courier"
	"github.com/sallyport/sallyport/dataplane/record"
)

// afar are the decisions that a remote was given.
type afar struct {
	record.Remote

	ended chan record.Outcome

	mu  sync.Mutex
	all []record.Decision
}

func (r *afar) Decide(d *record.Decision) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	kept := *d
	kept.Header = d.Header.Clone() // that of another request soon
	r.all = append(r.all, kept)
	return d.Rule.Mode == record.All
}

func (r *afar) Finish(o *record.Outcome) { r.ended <- *o }

// A route whose records are required lets through what is safe on the disk, and denies
// the rest: for as long as the control plane is away and the spool is full.
func TestRequiredRecordsComeFirst(t *testing.T) {
	spool := filepath.Join(t.TempDir(), "records")
	w := newWorld(t, options{})
	far, err := courier.New(courier.Config{
		ControlPlanes: []string{"https://127.0.0.1:1"}, ControlPlaneID: "spiffe://prod.example/controlplane",
		Identity: w.identified(self), Instance: "one", SpoolDirectory: spool, SpoolLimit: 4 << 10, Log: quiet(),
	})
	w.must(err)
	w.must(far.Load())
	w = newWorld(t, options{remote: far})
	w.run(far.Run)
	up := newEcho(t)
	w.apply(strings.ReplaceAll(w.usual(plaintext(up.address())), "authentication: {identityProviders", "record: {mode: REQUIRED}, authentication: {identityProviders"))
	c := w.client(false, w.as(w.tls(host), "spiffe://prod.example/ns/shop/web"))
	allowed := int64(0)
	for {
		res, body := w.ask(c, "GET", "/v1/orders", nil)
		if res.StatusCode == http.StatusServiceUnavailable {
			if got := w.problem(body).Reason; got != "record_unavailable" {
				t.Errorf("the reason is %s", got)
			}
			break
		}
		if allowed++; res.StatusCode != http.StatusOK || allowed > 100 {
			t.Fatalf("request %d: %d %s", allowed, res.StatusCode, body)
		}
	}
	if allowed == 0 || up.requests.Load() != allowed {
		t.Errorf("%d requests were allowed, and %d let through", allowed, up.requests.Load())
	}
}

// Which allowed requests are for the control plane is said by the route, else by the
// environment.
func TestRecordRules(t *testing.T) {
	far := &afar{ended: make(chan record.Outcome, 10)}
	w := newWorld(t, options{remote: far})
	up := newEcho(t)
	w.apply(w.usual(plaintext(up.address())))
	c := w.client(false, w.as(w.tls(host), "spiffe://prod.example/ns/shop/web"))
	for _, want := range []struct {
		route string
		mode  record.Mode
		rate  int64
	}{
		{"", record.Sampled, 10},
		{"record: {}, ", record.Sampled, 10},
		{"record: {allowRate: 0}, ", record.Sampled, 0},
		{"record: {mode: SAMPLED, allowRate: 7}, ", record.Sampled, 7},
		{"record: {mode: ALL}, ", record.All, 10},
	} {
		w.apply(strings.ReplaceAll(w.usual(plaintext(up.address())), "authentication: {identityProviders", want.route+"authentication: {identityProviders"))
		if res, body := w.ask(c, "GET", "/v1/orders?page=2", nil); res.StatusCode != http.StatusOK {
			t.Fatalf("%q: %d %s", want.route, res.StatusCode, body)
		}
		far.mu.Lock()
		d := far.all[len(far.all)-1]
		far.mu.Unlock()
		if d.Rule.Mode != want.mode || d.Rule.Rate != want.rate {
			t.Errorf("%q: mode %d, rate %d", want.route, d.Rule.Mode, d.Rule.Rate)
		}
		if d.RawQuery != "page=2" || d.Authenticated <= 0 || d.Authenticated > d.Took || d.Header.Get("User-Agent") == "" {
			t.Errorf("the decision is %+v", d)
		}
	}
	// The control plane is told the end of what it was told the beginning of.
	last := far.all[len(far.all)-1]
	if o := <-far.ended; o.ID != last.ID || o.Status != http.StatusOK || o.Sent == 0 || o.Endpoint != up.address() || o.Took < last.Took {
		t.Errorf("the outcome is %+v", o)
	}
}

const looks = `
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: looks}
spec:
  routes: {names: [orders]}
  effect: DENY
  when: >-
    request.headers["x-tenant"] == "theirs" || request.params["page"] == "0" || request.headers["authorization"] == "x" ||
    request.headers["x-session-token"] == "y" || request.params["access_token"] == "z" || request.params["none"] == ""
`

// Records hold of header and query what conditions of the route look at by name, and
// never a credential.
func TestRecordedValues(t *testing.T) {
	far := &afar{ended: make(chan record.Outcome, 10)}
	w := newWorld(t, options{remote: far})
	up := newEcho(t)
	w.apply(w.usual(plaintext(up.address())) + looks)
	c := w.client(false, w.as(w.tls(host), "spiffe://prod.example/ns/shop/web"))
	req, err := http.NewRequest("GET", "https://"+host+"/v1/orders?page=2&access_token=s&other=o", nil)
	w.must(err)
	for _, name := range []string{"X-Tenant", "X-Session-Token", "X-Other"} {
		req.Header.Set(name, "ours")
	}
	res, err := c.Do(req)
	w.must(err)
	w.read(res)
	far.mu.Lock()
	defer far.mu.Unlock()
	want := []record.Value{{Field: `request.headers["x-tenant"]`, Value: "ours"}, {Field: `request.params["page"]`, Value: "2"}}
	if got := far.all[len(far.all)-1].Values; !slices.Equal(got, want) {
		t.Errorf("recorded are %v", got)
	}
}
