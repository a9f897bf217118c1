package gateway_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/policy"
)

// rateLimit is the RateLimit shop/NAME of the usual route.
func rateLimit(name, spec string) string {
	return fmt.Sprintf(`
---
apiVersion: sallyport/v1
kind: RateLimit
metadata: {namespace: shop, name: %s}
spec: {routes: {names: [orders]}, %s}
`, name, spec)
}

// limited is a gateway whose clock stands still, with limits.
func limited(t testing.TB, limits ...string) (*world, *echo) {
	w, up := newWorld(t, options{}), newEcho(t)
	w.stopClock()
	w.apply(w.usual(plaintext(up.address())) + strings.Join(limits, ""))
	return w, up
}

// stopClock has the gateway's time pass only when a test says so.
func (w *world) stopClock() {
	at := time.Now()
	w.set(func() { w.clock = func() time.Time { return at.Add(w.ahead) } })
}

func (w *world) pass(d time.Duration) { w.set(func() { w.ahead += d }) }

// asked sends a request of a user, and returns the status and the answer.
func (w *world) asked(user, method string, header ...string) (*http.Response, string) {
	w.t.Helper()
	r := w.request(w.t.Context(), method, nil)
	r.Header.Del("Authorization")
	if user != "" {
		r.Header.Set("Authorization", "Bearer "+w.tokens.sign(map[string]any{"sub": user, "exp": w.now().Add(time.Minute).Unix()}))
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	res, err := w.client(false, w.tls(host)).Do(r)
	w.must(err)
	return res, w.read(res)
}

// A limit is used up, says so in every way, and comes back.
func TestRateLimit(t *testing.T) {
	w, up := limited(t, rateLimit("per-client", "key: [{clientAddress: {}}], requests: 2, period: 10s"))
	for _, c := range []struct {
		pass                        time.Duration
		status                      int
		limit, retry                string
		remaining, reset, forwarded int
	}{
		{0, 200, `"per-client";r=1;t=5`, "", 1, 5, 1},
		{0, 200, `"per-client";r=0;t=10`, "", 0, 10, 2},
		{0, 429, `"per-client";r=0;t=10`, "5", 0, 10, 2},
		{4 * time.Second, 429, `"per-client";r=0;t=6`, "1", 0, 6, 2},
		{time.Second, 200, `"per-client";r=0;t=10`, "", 0, 10, 3},
	} {
		w.pass(c.pass)
		res, body := w.asked("ann", "GET")
		got := [...]string{res.Header.Get("Ratelimit"), res.Header.Get("Ratelimit-Policy"), res.Header.Get("Retry-After")}
		if want := [...]string{c.limit, `"per-client";q=2;w=10`, c.retry}; res.StatusCode != c.status || got != want {
			t.Errorf("got %d %q, want %d %q", res.StatusCode, got, c.status, want)
		}
		if n := int(up.requests.Load()); n != c.forwarded {
			t.Errorf("%d requests were forwarded, want %d", n, c.forwarded)
		}
		if c.status == 200 {
			continue
		}
		p := w.problem(body)
		if p.Reason != "rate_limited" || p.Status != 429 || p.Type != "urn:sallyport:problem:rate_limited" || strings.Contains(body, "per-client") {
			t.Errorf("problem %s", body)
		}
		l := w.records.of(t, "decision", p.DecisionID)
		if l.Allow || l.Reason != "rate_limited" || l.Status != 429 || l.Policy != "RateLimit/shop/per-client" || l.Detail != "more than 2 in 10s" || l.Route != "shop/orders" {
			t.Errorf("recorded %+v", l)
		}
	}
	for series, want := range map[string]string{
		`sallyport_rate_limited_total{limit="shop/per-client",mode="enforce"}`:                      "2",
		`sallyport_requests_total{decision="deny",reason="rate_limited",route="shop/orders"}`:       "2",
		`sallyport_requests_total{decision="allow",reason="allowed_by_policy",route="shop/orders"}`: "3",
	} {
		if got := w.metric(series); got != want {
			t.Errorf("%s is %q, want %s", series, got, want)
		}
	}
}

// Limits that need no principal come before authentication, and count what does not
// pass it. Others count what does.
func TestRateLimitsBeforeAndAfterAuthentication(t *testing.T) {
	for _, c := range []struct {
		name, limit string
		asks        string // who asks; "-" is nobody
		want        string
	}{
		{"by address", "key: [{clientAddress: {}}], requests: 2, period: 10s", "- ann - bob", "401 200 429 429"},
		{"all together", "requests: 2, period: 10s", "- ann - bob", "401 200 429 429"},
		{"by principal", "key: [{principal: true}], requests: 1, period: 10s", "- - ann bob ann bob", "401 401 200 200 429 429"},
		{"by issuer", "key: [{issuer: true}], requests: 2, period: 10s", "- ann bob ann", "401 200 200 429"},
		{"by expression", `key: [{expression: "principal.id"}], requests: 1, period: 10s`, "- ann bob ann", "401 200 200 429"},
		{"when it is ann", `requests: 1, period: 10s, when: 'principal.id == "ann"'`, "ann bob bob ann", "200 200 200 429"},
		{"when it cannot be told", `requests: 1, period: 10s, when: 'request.headers["x-a"] == "b"'`, "ann ann", "200 429"},
		{"in shadow", "requests: 1, period: 10s, mode: SHADOW", "ann ann", "200 200"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, _ := limited(t, rateLimit("a", c.limit))
			var got []string
			for user := range strings.FieldsSeq(c.asks) {
				res, _ := w.asked(strings.TrimPrefix(user, "-"), "GET")
				got = append(got, fmt.Sprint(res.StatusCode))
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("%s: got %s, want %s", c.asks, got, c.want)
			}
		})
	}
}

// A request costs what an expression says, by its own burst.
func TestCostOfRequests(t *testing.T) {
	w, _ := limited(t, rateLimit("writes", `requests: 10, period: 10s, cost: 'request.method == "POST" ? 4 : int(request.headers["x-cost"])'`))
	for _, c := range []struct {
		method, cost string
		status       int
		limit        string
	}{
		{"POST", "", 200, `"writes";r=6;t=4`},
		{"GET", "0", 200, `"writes";r=6;t=4`},
		{"GET", "2", 200, `"writes";r=4;t=6`},
		{"GET", "5", 429, `"writes";r=0;t=6`},
		{"GET", "a", 429, `"writes";r=0;t=6`}, // cannot be told
		{"GET", "9223372036854775807", 429, `"writes";r=0;t=6`},
		{"POST", "", 200, `"writes";r=0;t=10`},
	} {
		res, _ := w.asked("ann", c.method, "X-Cost", c.cost)
		if got := res.Header.Get("Ratelimit"); res.StatusCode != c.status || got != c.limit {
			t.Errorf("%s %s: got %d %s, want %d %s", c.method, c.cost, res.StatusCode, got, c.status, c.limit)
		}
	}
}

// Of several limits all hold, and what one refuses costs nothing of the others.
func TestSeveralRateLimits(t *testing.T) {
	w, up := limited(t,
		rateLimit("all", "requests: 4, period: 100s"),
		rateLimit("tenant", "key: [{header: X-Tenant}], requests: 1, period: 10s"))
	up.answerWith(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("RateLimit", `"upstream";r=7`) })
	for _, c := range []struct {
		tenant string
		status int
		limit  string
	}{
		{"a", 200, `"upstream";r=7|"all";r=3;t=25, "tenant";r=0;t=10`},
		{"a", 429, `"tenant";r=0;t=10`},
		{"a", 429, `"tenant";r=0;t=10`},
		{"b", 200, `"upstream";r=7|"all";r=2;t=50, "tenant";r=0;t=10`},
		{"c", 200, `"upstream";r=7|"all";r=1;t=75, "tenant";r=0;t=10`},
		{"d", 200, `"upstream";r=7|"all";r=0;t=100, "tenant";r=0;t=10`},
		{"e", 429, `"all";r=0;t=100`},
	} {
		res, _ := w.asked("ann", "GET", "X-Tenant", c.tenant)
		if got := strings.Join(res.Header["Ratelimit"], "|"); res.StatusCode != c.status || got != c.limit {
			t.Errorf("%s: got %d %s, want %d %s", c.tenant, res.StatusCode, got, c.status, c.limit)
		}
	}
}

// Records and metrics say what a limit in shadow would have done.
func TestRateLimitInShadow(t *testing.T) {
	w, _ := limited(t, rateLimit("tried", "requests: 1, period: 10s, mode: SHADOW"))
	w.asked("ann", "GET")
	res, _ := w.asked("ann", "GET")
	id := res.Header.Get("Sallyport-Decision-Id")
	w.records.of(t, "decision", id)
	if want := `"shadow":{"policy":"RateLimit/shop/tried","allow":false,"reason":"rate_limited"}`; !strings.Contains(w.records.all(), want) {
		t.Errorf("%s is not in %s", want, w.records.all())
	}
	if res.Header.Get("Ratelimit") != "" {
		t.Errorf("the client is told %s", res.Header.Get("Ratelimit"))
	}
	for _, series := range []string{
		`sallyport_rate_limited_total{limit="shop/tried",mode="shadow"}`,
		`sallyport_shadow_decisions_total{route="shop/orders",would_have="deny"}`,
	} {
		if got := w.metric(series); got != "1" {
			t.Errorf("%s is %q", series, got)
		}
	}
}

// What was used stays used when something else changes, or the limit itself does,
// and a raised limit helps at once.
func TestRateLimitsAcrossRevisions(t *testing.T) {
	w, up := limited(t)
	usual := w.usual(plaintext(up.address()))
	for _, c := range []struct {
		step, limit string
		want        int
	}{
		{"new", rateLimit("a", "requests: 1, period: 3600s"), 200},
		{"used up", rateLimit("a", "requests: 1, period: 3600s"), 429},
		{"beside another", rateLimit("a", "requests: 1, period: 3600s") + rateLimit("b", "requests: 9, period: 1s"), 429},
		{"raised, and used up by before", rateLimit("a", "requests: 1, period: 1s"), 429},
		{"gone", "", 200},
		{"anew", rateLimit("a", "requests: 1, period: 3600s"), 200},
		{"by something else", rateLimit("a", "requests: 1, period: 3600s, key: [{route: true}]"), 200},
	} {
		w.apply(usual + c.limit)
		if res, _ := w.asked("ann", "GET"); res.StatusCode != c.want {
			t.Errorf("%s: %d, want %d", c.step, res.StatusCode, c.want)
		}
	}
	if got := w.metric(`sallyport_rate_limited_total{limit="shop/b",mode="enforce"}`); got != "" {
		t.Errorf("a limit that is gone is counted: %s", got)
	}
}

// gRPC is told in its own words.
func TestRateLimitOfGRPC(t *testing.T) {
	w, _ := limited(t, rateLimit("a", "requests: 1, period: 10s"))
	c := w.client(true, w.tls(host))
	for _, want := range []string{"", "8"} {
		r := w.request(t.Context(), http.MethodPost, http.NoBody)
		r.Header.Set("Content-Type", "application/grpc")
		r.Header.Set("Authorization", "Bearer "+w.tokens.sign(nil))
		res, err := c.Do(r)
		w.must(err)
		w.read(res)
		if got := res.Header.Get("Grpc-Status"); got != want {
			t.Errorf("grpc-status %q, want %q", got, want)
		}
	}
}

// limitsOfBench are one of each kind that is looked at before authentication.
var limitsOfBench = rateLimit("client", "key: [{clientAddress: {}}, {route: true}], requests: 1000000, period: 1s") +
	rateLimit("tenant", `key: [{header: X-Tenant}, {serverName: true}], requests: 1000000, period: 1s, when: 'request.method != "GET" || request.path.startsWith("/v1/")'`) +
	rateLimit("expression", `key: [{expression: 'request.method'}], requests: 1000000, period: 1s, cost: 'request.method == "POST" ? 5 : 1'`)

func countOfBench(t testing.TB) func() bool {
	w, _ := limited(t, limitsOfBench)
	return w.gateway.Exhausted(policy.RouteID{Namespace: "shop", Name: "orders"}, &policy.Input{
		Method: "GET", Host: host, Path: "/v1/orders", Header: http.Header{"X-Tenant": {"gold"}},
		Route: policy.RouteID{Namespace: "shop", Name: "orders"}, ClientIP: netip.MustParseAddr("192.0.2.7"), ServerName: host, Now: time.Now(),
	})
}

func TestCountingAllocatesNothing(t *testing.T) {
	count := countOfBench(t)
	if n := testing.AllocsPerRun(1000, func() {
		if count() {
			t.Error("denied")
		}
	}); n != 0 {
		t.Errorf("%.1f allocations", n)
	}
}

func BenchmarkRateLimits(b *testing.B) {
	count := countOfBench(b)
	b.ReportAllocs()
	for b.Loop() {
		count()
	}
}
