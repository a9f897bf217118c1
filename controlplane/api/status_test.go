package api_test

import (
	"fmt"
	"strings"
	"testing"

	"connectrpc.com/connect"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

func lost(p *adminv1.Proxy) { p.Connection = adminv1.Connection_CONNECTION_LOST }

// progress is "environment@revision enforcing/late/away" and the names of proxies.
func progress(m *adminv1.StatusResponse) string {
	var all []string
	for _, e := range m.GetEnvironments() {
		text := fmt.Sprintf("%s@%d %d/%d/%d", e.GetEnvironment(), e.GetRevision(), e.GetEnforcing(), e.GetLate(), e.GetAway())
		for _, p := range e.GetProxies() {
			text += p.GetId()[strings.IndexByte(p.GetId(), '#'):]
		}
		all = append(all, text)
	}
	return fmt.Sprintf("%d: %s", m.GetRevision(), strings.Join(all, "; "))
}

func TestStatus(t *testing.T) {
	w := newWorld(t)
	w.apply(t, shop)
	w.apply(t, upstream("only", "aws"))
	w.proxy(t, "aws", "at1", 1, adminv1.Enforcement_ENFORCEMENT_ENFORCED, func(p *adminv1.Proxy) { p.Proofs = []*adminv1.Proof{{Epoch: 1, Revision: 1}} })
	w.proxy(t, "aws", "at2", 2, adminv1.Enforcement_ENFORCEMENT_ENFORCED)
	w.proxy(t, "aws", "gone", 2, adminv1.Enforcement_ENFORCEMENT_ENFORCED, lost)
	w.proxy(t, "gcp", "one", 1, adminv1.Enforcement_ENFORCEMENT_ENFORCED)
	for name, c := range map[string]struct {
		req  *adminv1.StatusRequest
		code connect.Code // 0: none
		want string
	}{
		"the newest":          {&adminv1.StatusRequest{}, 0, "2: aws@2 1/1/1#at1#gone#at2; gcp@1 1/0/0#one"},
		"an older one":        {&adminv1.StatusRequest{Revision: 1}, 0, "1: aws@1 2/0/1#gone#at1#at2; gcp@1 1/0/0#one"},
		"one environment":     {&adminv1.StatusRequest{Environments: []string{"gcp"}}, 0, "2: gcp@1 1/0/0#one"},
		"not yet":             {&adminv1.StatusRequest{Revision: 3}, connect.CodeNotFound, ""},
		"no such environment": {&adminv1.StatusRequest{Environments: []string{"azure"}}, connect.CodeNotFound, ""},
		"named twice":         {&adminv1.StatusRequest{Environments: []string{"aws", "aws"}}, connect.CodeInvalidArgument, ""},
	} {
		t.Run(name, func(t *testing.T) {
			res, err := w.fleet(t, viewer).Status(t.Context(), connect.NewRequest(c.req))
			if err != nil {
				if connect.CodeOf(err) != c.code {
					t.Error(err)
				}
				return
			}
			if got := progress(res.Msg); got != c.want || c.code != 0 {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
	if res := must(w.fleet(t, viewer).ListProxies(t.Context(), connect.NewRequest(&adminv1.ListProxiesRequest{}))); len(res.Msg.GetProxies()[0].GetProofs()) > 0 {
		t.Error("a listing has proofs in it")
	}
}
