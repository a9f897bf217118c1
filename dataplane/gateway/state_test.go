package gateway_test

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/dataplane/gateway"
	"github.com/sallyport/sallyport/internal/compile"
)

// One revision explains one answer, however fast they follow each other: odd
// revisions send to one upstream, even ones to another, and every third denies.
func TestOneRevisionPerRequest(t *testing.T) {
	w := newWorld(t, options{})
	var upstreams [2]*echo
	for i := range upstreams {
		upstreams[i] = newEcho(t)
		upstreams[i].answerWith(func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, "upstream ", i) })
	}
	spec := func(revision int) string {
		spec := w.usual(plaintext(upstreams[revision%2].address()))
		if revision%3 == 0 {
			spec = strings.Replace(spec, "effect: ALLOW", "effect: DENY", 1)
		}
		return spec
	}
	expected := func(revision int) string {
		if revision%3 == 0 {
			return "denied_by_policy"
		}
		return fmt.Sprint("upstream ", revision%2)
	}
	w.apply(spec(1))
	var stop atomic.Bool
	var asking sync.WaitGroup
	var asked atomic.Int64
	for _, http2 := range []bool{false, true, false, true} {
		c := w.client(http2, w.tls(host))
		asking.Go(func() {
			for !stop.Load() {
				res, err := c.Do(w.request(t.Context(), "GET", nil))
				if err != nil {
					t.Error(err)
					return
				}
				body := w.read(res)
				if res.StatusCode == http.StatusForbidden {
					body = w.problem(body).Reason
				}
				revision, _ := strconv.Atoi(res.Header.Get("Sallyport-Revision"))
				if body != expected(revision) {
					t.Errorf("revision %d answered %q, want %q", revision, body, expected(revision))
				}
				d := w.records.of(t, "decision", res.Header.Get("Sallyport-Decision-Id"))
				if d.Revision != revision || d.Allow != (revision%3 != 0) {
					t.Errorf("revision %d answered, recorded was %+v", revision, d)
				}
				asked.Add(1)
			}
		})
	}
	for revision := 2; revision < 200; revision++ {
		w.apply(spec(revision))
		// What begins after Apply is decided by it.
		if revision%10 == 0 {
			res, err := w.client(false, w.tls(host)).Do(w.request(t.Context(), "GET", nil))
			w.must(err)
			_ = w.read(res)
			if got := res.Header.Get("Sallyport-Revision"); got != strconv.Itoa(revision) {
				t.Errorf("revision %s answers after %d was applied", got, revision)
			}
		}
	}
	stop.Store(true)
	asking.Wait()
	if asked.Load() < 100 {
		t.Errorf("only %d requests were made", asked.Load())
	}
}

func TestStaleness(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	rule := func(action string) string {
		return w.usual(plaintext(up.address())) + `
---
apiVersion: sallyport/v1
kind: Environment
metadata: {name: aws}
spec: {configurationAge: {limit: 60s, action: ` + action + `}}
`
	}
	for _, step := range []struct {
		action string
		age    time.Duration
		known  bool
		status int
	}{
		{"DENY", 60 * time.Second, true, 200},
		{"DENY", 61 * time.Second, true, 503},
		{"DENY", time.Second, true, 200},
		{"DENY", 0, false, 503},
		{"SERVE", 61 * time.Second, true, 200},
		{"SERVE", 0, false, 200},
	} {
		w.apply(rule(step.action))
		w.set(func() { w.age, w.known = step.age, step.known })
		res, body := w.ask(w.client(false, w.tls(host)), "GET", "/v1/orders", nil)
		if res.StatusCode != step.status || step.status == 503 && w.problem(body).Reason != "configuration_stale" {
			t.Errorf("%+v: %d %s", step, res.StatusCode, body)
		}
	}
}

// transcript is a log as it was written.
type transcript struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write implements io.Writer.
func (s *transcript) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *transcript) all() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// An age that crosses its limit is alarmed once, and so is the way back, whatever the
// environment has done with requests meanwhile. Each clock has its own.
func TestStalenessIsAlarmed(t *testing.T) {
	for _, c := range []struct{ name, spec, action string }{
		{"by rule", "{configurationAge: {limit: 900s, action: DENY}, securityAge: {limit: 300s, action: DENY}}", "DENY"},
		{"by default", "{}", "SERVE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var said transcript
			w := newWorld(t, options{log: slog.New(slog.NewTextHandler(&said, nil))})
			w.apply(w.usual(plaintext(newEcho(t).address())) + "\n---\n{apiVersion: sallyport/v1, kind: Environment, metadata: {name: aws}, spec: " + c.spec + "}\n")
			for _, step := range []struct {
				configuration, security time.Duration
				stale                   string // of both
			}{
				{time.Minute, time.Minute, "0 0"},
				{15*time.Minute + 1, 5 * time.Minute, "1 0"},
				{time.Hour, time.Hour, "1 1"},
				{0, time.Hour, "0 1"},
				{0, 0, "0 0"},
			} {
				w.set(func() { w.age, w.since = step.configuration, step.security })
				w.gateway.WatchAges()
				w.gateway.WatchAges()
				if got := w.metric(`sallyport_stale{clock="configuration"}`) + " " + w.metric(`sallyport_stale{clock="security"}`); got != step.stale {
					t.Errorf("%+v: stale are %s", step, got)
				}
			}
			if limit := w.metric(`sallyport_age_limit_seconds{action="` + c.action + `",clock="security"}`); limit != "300" {
				t.Errorf("the limit is %q", limit)
			}
			for text, want := range map[string]int{
				`msg="staleness limit exceeded" clock=configuration age=15m0s limit=15m0s action=` + c.action: 1,
				`msg="staleness limit exceeded" clock=security age=1h0m0s limit=5m0s action=` + c.action:      1,
				"staleness limit exceeded": 2, "level=ERROR": 2, "staleness ended": 2,
			} {
				if n := strings.Count(said.all(), text); n != want {
					t.Errorf("%d times %q in\n%s", n, text, said.all())
				}
			}
		})
	}
}

// Records have the ages by which a request was decided.
func TestAgesAreRecorded(t *testing.T) {
	w := newWorld(t, options{})
	w.apply(w.usual(plaintext(newEcho(t).address())))
	w.set(func() { w.age, w.since = 7*time.Second, 1500*time.Millisecond })
	res, _ := w.ask(w.client(false, w.tls(host)), "GET", "/v1/orders", nil)
	d := w.records.of(t, "decision", res.Header.Get("Sallyport-Decision-Id"))
	if d.ConfigurationAge == nil || *d.ConfigurationAge != 7000 || d.SecurityAge == nil || *d.SecurityAge != 1500 {
		t.Errorf("%v, %v", d.ConfigurationAge, d.SecurityAge)
	}
}

// Without a table there is no listener; what reaches the gateway all the same
// is denied.
func TestNothingInForce(t *testing.T) {
	w := newWorld(t, options{})
	for range 2 {
		r := httptest.NewRequest("GET", "https://127.0.0.1/v1/orders", nil)
		r.ProtoMinor, r.RequestURI = 1, "/v1/orders"
		answer := httptest.NewRecorder()
		w.gateway.ServeHTTP(answer, r)
		if answer.Code != 503 || w.problem(answer.Body.String()).Reason != "no_snapshot" {
			t.Errorf("%d %s", answer.Code, answer.Body)
		}
		if w.gateway.Current() != nil || len(w.gateway.Listeners()) != 0 {
			t.Error("something is in force")
		}
		w.gateway.Apply(nil)
	}
	w.apply(w.usual(plaintext("127.0.0.1:1")))
	w.gateway.Apply((*compile.Table)(nil))
	if len(w.gateway.Listeners()) != 0 {
		t.Error("without a table there is a listener")
	}
}

// A control that this build does not understand denies on its routes, whoever
// asks.
func TestRejectedControl(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	table := w.compile(w.usual(plaintext(up.address())) + `
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: tomorrow}
spec: {routes: {names: [orders]}, effect: DENY, when: "signals.weather == 'rain'"}
`)
	if len(table.Rejects()) != 1 {
		t.Fatalf("rejected is %v", table.Rejects())
	}
	w.gateway.Apply(table)
	res, body := w.ask(w.client(false, w.tls(host)), "GET", "/v1/orders", nil)
	d := w.records.of(t, "decision", res.Header.Get("Sallyport-Decision-Id"))
	if res.StatusCode != 403 || w.problem(body).Reason != "control_unavailable" || !strings.Contains(d.Detail, "shop/tomorrow") || up.requests.Load() != 0 {
		t.Errorf("%d %s, recorded %+v", res.StatusCode, body, d)
	}
	if strings.Contains(body, "tomorrow") {
		t.Errorf("the answer names the policy: %s", body)
	}
}

// full is a disk without room.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

// What cannot be recorded does not happen.
func TestUnrecordedRequestsAreDenied(t *testing.T) {
	w := newWorld(t, options{writer: full{}, queue: 16 << 10})
	up := newEcho(t)
	w.apply(w.usual(plaintext(up.address())))
	c := w.client(false, w.tls(host))
	var body string
	until(t, "a denial", func() bool {
		var res *http.Response
		res, body = w.ask(c, "GET", "/v1/orders", nil)
		return res.StatusCode == http.StatusServiceUnavailable
	})
	if got := w.problem(body).Reason; got != "record_unavailable" {
		t.Errorf("the reason is %s", got)
	}
	before := up.requests.Load()
	for range 5 {
		if res, body := w.ask(c, "GET", "/v1/orders", nil); res.StatusCode != 503 {
			t.Errorf("%d %s", res.StatusCode, body)
		}
	}
	if up.requests.Load() != before {
		t.Error("the upstream saw what is not recorded")
	}
}

// When an upstream sees a request, its decision has been taken for the record.
func TestRecordComesFirst(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	up.answerWith(func(rw http.ResponseWriter, r *http.Request) {
		if d := w.records.of(t, "decision", r.Header.Get("Sallyport-Decision-Id")); !d.Allow {
			t.Errorf("recorded is %+v", d)
		}
	})
	w.apply(w.usual(plaintext(up.address())))
	if res, body := w.ask(w.client(false, w.tls(host)), "GET", "/v1/orders", nil); res.StatusCode != 200 {
		t.Errorf("%d %s", res.StatusCode, body)
	}
}

func TestFailures(t *testing.T) {
	w := newWorld(t, options{})
	slow, switches := newEcho(t), newEcho(t)
	slow.answerWith(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	switches.answerWith(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Connection", "Upgrade")
		rw.Header().Set("Upgrade", "evil")
		rw.WriteHeader(http.StatusSwitchingProtocols)
	})
	quick := func(yaml string) string {
		return strings.Replace(yaml, "upstream: orders,", "timeout: 0.1s, upstream: orders,", 1)
	}
	for _, c := range []struct {
		name, spec string
		status     int
		reason     string
	}{
		{"nobody there", w.usual(plaintext("127.0.0.1:1")), 502, "upstream_unreachable"},
		{"no answer", quick(w.usual(plaintext(slow.address()))), 504, "upstream_timeout"},
		{"another protocol", w.usual(plaintext(switches.address())), 502, "upstream_switched"},
		{"no CA file", w.usual(`tls: {caFile: "/does/not/exist"}, endpoints: ["127.0.0.1:1"]`), 502, "upstream_misconfigured"},
	} {
		w.apply(c.spec)
		for _, http2 := range []bool{false, true} {
			for _, method := range []string{"GET", "POST"} {
				var sends io.Reader
				if method == "POST" {
					sends = strings.NewReader("body")
				}
				res, body := w.ask(w.client(http2, w.tls(host)), method, "/v1/orders", sends)
				o := w.records.of(t, "outcome", res.Header.Get("Sallyport-Decision-Id"))
				if res.StatusCode != c.status || w.problem(body).Reason != c.reason || o.Reason != c.reason || o.Status != c.status {
					t.Errorf("%s, %s, HTTP/2 %t: %d %s, recorded %+v", c.name, method, http2, res.StatusCode, body, o)
				}
			}
		}
		if got := w.metric(`sallyport_request_failures_total{reason="` + c.reason + `",route="shop/orders"}`); got != "4" {
			t.Errorf("%s: %q are counted", c.name, got)
		}
	}
}

// With the Workload API away, hops over SPIFFE fail with a reason of their own
// once our identity has expired, and all others go on.
func TestOurIdentityExpires(t *testing.T) {
	w := newWorld(t, options{})
	plain := newEcho(t)
	upstreams := w.upstreams(func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "orders") })
	w.apply(w.usual(upstreams["HTTP/2"]) + w.route("plain", "plain.wild.example", plaintext(plain.address())))
	c := w.client(false, w.tls(host))
	if res, body := w.ask(c, "GET", "/v1/orders", nil); body != "orders" {
		t.Fatalf("%d %s", res.StatusCode, body)
	}
	w.set(func() { w.ahead = 2 * time.Hour })
	long := w.tokens.sign(map[string]any{"exp": time.Now().Add(3 * time.Hour).Unix()})
	ask := func(host string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+host+"/v1/orders", nil)
		w.must(err)
		r.Header.Set("Authorization", "Bearer "+long)
		res, err := w.client(false, w.tls(host)).Do(r)
		w.must(err)
		return res.StatusCode, w.read(res)
	}
	if status, body := ask(host); status != 503 || w.problem(body).Reason != "identity_expired" {
		t.Errorf("over SPIFFE: %d %s", status, body)
	}
	if status, body := ask("plain.wild.example"); status != 200 {
		t.Errorf("in plain text: %d %s", status, body)
	}
}

func TestMetrics(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	w.apply(w.usual(plaintext(up.address())) + w.route("other", "other.wild.example", plaintext(up.address())))
	c := w.client(false, w.tls(host))
	for range 3 {
		w.ask(c, "GET", "/v1/orders", nil)
	}
	w.ask(c, "DELETE", "/v1/orders", nil)
	w.ask(c, "GET", "/v2", nil)
	w.raw("nonsense\r\n\r\n")
	for series, want := range map[string]string{
		`sallyport_requests_total{decision="allow",reason="allowed_by_policy",route="shop/orders"}`: "3",
		`sallyport_requests_total{decision="deny",reason="no_matching_policy",route="shop/orders"}`: "1",
		`sallyport_requests_total{decision="deny",reason="no_route",route=""}`:                      "1",
		`sallyport_requests_total{decision="deny",reason="request_line",route=""}`:                  "1",
		`sallyport_decision_duration_seconds_count`:                                                 "6",
		`sallyport_upstream_duration_seconds_count`:                                                 "3",
		`sallyport_listener_up{listener="edge/public"}`:                                             "1",
	} {
		if got := w.metric(series); got != want {
			t.Errorf("%s is %q, want %s", series, got, want)
		}
	}
	w.apply(w.listener() + w.login() + w.route("other", "other.wild.example", plaintext(up.address())))
	if got := w.metric(`sallyport_requests_total{decision="allow",reason="allowed_by_policy",route="shop/orders"}`); got != "" {
		t.Errorf("a route that is gone has the count %s", got)
	}
}

// A denial explains itself in its record, unless there are too many.
func TestExplanations(t *testing.T) {
	w := newWorld(t, options{})
	w.apply(w.usual(plaintext("127.0.0.1:1")))
	c := w.client(true, w.tls(host))
	explained, denied := 0, 0
	for range 120 {
		res, _ := w.ask(c, "DELETE", "/v1/orders", nil)
		d := w.records.of(t, "decision", res.Header.Get("Sallyport-Decision-Id"))
		if !strings.Contains(d.Detail, "shop/orders-allow") {
			t.Fatalf("recorded is %+v", d)
		}
		denied++
		if len(d.Explanation) == 1 && d.Explanation[0].Policy == "shop/orders-allow" && d.Explanation[0].Miss == "method" {
			explained++
		}
	}
	if explained == 0 {
		t.Errorf("%d of %d denials are explained", explained, denied)
	}
}

func TestConfig(t *testing.T) {
	if _, err := gateway.New(gateway.Config{}); err == nil {
		t.Error("a gateway without anything was made")
	}
}
