package record_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/dataplane/record"
	"github.com/sallyport/sallyport/internal/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// disk is a writer that can be full, slow, or short of breath.
type disk struct {
	mu      sync.Mutex
	written bytes.Buffer
	full    error
	most    int           // bytes that one write takes, when not zero
	stuck   chan struct{} // writes wait for it, when not nil
}

func (d *disk) Write(p []byte) (int, error) {
	d.mu.Lock()
	stuck := d.stuck
	d.mu.Unlock()
	if stuck != nil {
		<-stuck
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.full != nil {
		return 0, d.full
	}
	if d.most > 0 && len(p) > d.most {
		n, _ := d.written.Write(p[:d.most])
		return n, errors.New("out of breath")
	}
	return d.written.Write(p)
}

func (d *disk) set(change func(d *disk)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d)
}

// ids returns the decision IDs of the written lines, which all have to be whole.
func (d *disk) ids(t *testing.T) []string {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	var ids []string
	for text := range strings.Lines(d.written.String()) {
		var l struct {
			ID string `json:"decision_id"`
		}
		if err := json.Unmarshal([]byte(text), &l); err != nil || !strings.HasSuffix(text, "\n") {
			t.Fatalf("%v in line %q", err, text)
		}
		ids = append(ids, l.ID)
	}
	return ids
}

func recorder(t *testing.T, c record.Config) *record.Recorder {
	t.Helper()
	c.Log = quiet()
	r, err := record.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// run runs r until the returned function, or the end of the test, stops it.
func run(t *testing.T, r *record.Recorder) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func allow(id string) *record.Decision { return &record.Decision{ID: id, Allow: true} }
func deny(id string) *record.Decision  { return &record.Decision{ID: id} }

func TestLines(t *testing.T) {
	at := time.Date(2026, 11, 24, 10, 42, 7, 123456789, time.FixedZone("", 3600))
	var d disk
	r := recorder(t, record.Config{Writer: &d})
	stop := run(t, r)
	for _, decision := range []*record.Decision{
		{
			Time: at, ID: "one", Allow: true, Reason: "allowed_by_policy", Environment: "aws-prod", Epoch: 1, Revision: 4711,
			Listener: "edge/public", ClientIP: netip.MustParseAddr("192.0.2.7"), ClientIPSource: "direct", PeerIP: netip.MustParseAddr("192.0.2.8"),
			Place: &policy.Place{
				Country: "CI", Continent: "AF", City: "Yamou\"ssoukro", ASN: 64500, Organization: "Example", Anonymity: &policy.Anonymity{Any: true, Tor: true},
				Databases: []policy.Database{{Type: "GeoLite2-City", Built: at}, {Type: "a\"b", Built: at}},
			},
			TLSVersion: "1.3", ServerName: "api.shop.example",
			Protocol: "HTTP/2.0", Method: "GET", Host: "api.shop.example", Path: "/v1/orders/7", Route: "shop/orders", Policy: "shop/reads",
			Principal: &policy.Principal{
				Kind: policy.User, ID: `al"ice`, Issuer: "https://id.example", Provider: "shop/idp", AuthenticatedBy: "jwt",
				Claims: map[string]any{"email": "alice@shop.example"},
			},
			Ages: policy.Ages{Configuration: policy.Age{Is: 7123456 * time.Microsecond, Known: true}, Security: policy.Age{Known: true}},
			Took: 1500 * time.Microsecond, Shadow: policy.Shadow{Policy: "shop/no-al\"ice", Reason: policy.ReasonDenied},
		},
		{
			Denials: policy.Denials{Asked: true, Principal: policy.Count{Known: true}},
			Time:    at, ID: "two", Place: &policy.Place{}, Reason: "no_matching_policy", Status: 403, Detail: "line\nbreak",
			ClientIP: netip.MustParseAddr("fe80::1%e\"th0"), ClientIPUnknown: "no \"address\"", Principal: &policy.Principal{Beside: []*policy.Principal{
				{Kind: policy.Key, ID: "ops", KeyName: "shop/export", KeyID: "k-1"}, {Kind: policy.User, ID: "pos-7", Provider: "shop/pos"},
			}},
			Device: &policy.Device{ID: "laptop-7", Owner: "ann"},
			Explanation: policy.Explanation{Steps: []policy.Step{
				{Policy: "shop/blocks", Effect: policy.Deny, Miss: policy.MissError, Detail: "1:2"},
				{Policy: "shop/reads", Effect: policy.Allow, Matched: true},
			}},
		},
	} {
		if err := r.Decide(t.Context(), decision); err != nil {
			t.Fatal(err)
		}
	}
	r.Finish(&record.Outcome{Time: at, ID: "one", Endpoint: "10.0.0.1:443", Status: 200, Sent: 1024, Received: 3, Took: time.Second})
	r.Finish(&record.Outcome{Time: at, ID: "one", Reason: "upstream_timeout", Status: 504})
	stop()
	want := `{"type":"decision","time":"2026-11-24T09:42:07.123456Z","decision_id":"one","allow":true,"reason":"allowed_by_policy",` +
		`"environment":"aws-prod","epoch":1,"revision":4711,"configuration_age_ms":7123,"security_age_ms":0,"listener":"edge/public","client_ip":"192.0.2.7","client_ip_source":"direct","peer_ip":"192.0.2.8",` +
		`"geo":{"databases":[{"type":"GeoLite2-City","built":"2026-11-24T09:42:07Z"},{"type":"a\"b","built":"2026-11-24T09:42:07Z"}],` +
		`"country":"CI","continent":"AF","city":"Yamou\"ssoukro","asn":64500,"as_organization":"Example",` +
		`"anonymous":true,"vpn":false,"hosting":false,"tor":true,"proxy":false},"tls":"1.3",` +
		`"sni":"api.shop.example","protocol":"HTTP/2.0","method":"GET","host":"api.shop.example","path":"/v1/orders/7",` +
		`"route":"shop/orders","policy":"shop/reads","principal":{"kind":"user","id":"al\"ice","issuer":"https://id.example",` +
		`"provider":"shop/idp","authenticated_by":"jwt"},` +
		`"shadow":{"policy":"shop/no-al\"ice","allow":false,"reason":"denied_by_policy"},"took_us":1500}
{"type":"decision","time":"2026-11-24T09:42:07.123456Z","decision_id":"two","allow":false,"reason":"no_matching_policy",` +
		`"status":403,"detail":"line\u000abreak","client_ip":"fe80::1","client_ip_unknown":"no \"address\"","geo":{"databases":[]},"denials_of_principal":0,"principal":{"kind":"anonymous"},"beside":[{"kind":"key","id":"ops","key":"shop/export","key_id":"k-1"},` +
		`{"kind":"user","id":"pos-7","provider":"shop/pos"}],"device":"laptop-7","explanation":[` +
		`{"policy":"shop/blocks","effect":"DENY","matched":false,"miss":"error","detail":"1:2"},` +
		`{"policy":"shop/reads","effect":"ALLOW","matched":true}],"took_us":0}
{"type":"outcome","time":"2026-11-24T09:42:07.123456Z","decision_id":"one","endpoint":"10.0.0.1:443","status":200,"sent":1024,"received":3,"took_us":1000000}
{"type":"outcome","time":"2026-11-24T09:42:07.123456Z","decision_id":"one","reason":"upstream_timeout","status":504,"took_us":0}
`
	if got := d.written.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	d.ids(t)
}

// Whatever a client or an identity provider puts into a field, a line is one
// JSON object that says what encoding/json would have said.
func FuzzLine(f *testing.F) {
	for _, s := range []string{"", "plain", `quo"te\`, "\x00\x1f\x7f", "caf\u00e9 \u2028", "\xff\xc0\xaf", "a\xe2\x80", "\xed\xa0\x80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var d disk
		r := recorder(t, record.Config{Writer: &d})
		stop := run(t, r)
		_ = r.Decide(t.Context(), &record.Decision{ID: "x" + s})
		stop()
		if strings.Count(d.written.String(), "\n") != 1 {
			t.Fatalf("%q", d.written.String())
		}
		quoted, _ := json.Marshal("x" + s)
		var want string
		if err := json.Unmarshal(quoted, &want); err != nil || d.ids(t)[0] != want {
			t.Errorf("%q became %q, want %q", s, d.ids(t)[0], want)
		}
	})
}

func TestAllowedRequestsWaitForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := disk{stuck: make(chan struct{})}
		r := recorder(t, record.Config{Writer: &d, Queue: 300})
		stop := run(t, r)
		for i := range 2 { // the writer takes one batch, the queue is full with another
			for j := 0; r.Decide(expired(t), allow(fmt.Sprint(i, j))) == nil; j++ {
				if j > 10 {
					t.Fatal("the queue has no end")
				}
			}
			<-time.After(50 * time.Millisecond)
			synctest.Wait()
		}
		start := time.Now()
		if err := r.Decide(t.Context(), deny("denied")); err != nil || time.Since(start) > 0 {
			t.Errorf("a denial waited %v and got %v", time.Since(start), err)
		}
		if err := r.Decide(t.Context(), allow("late")); !errors.Is(err, record.ErrUnavailable) || time.Since(start) != time.Second {
			t.Errorf("an allowed request waited %v and got %v", time.Since(start), err)
		}
		got := make(chan error)
		go func() { got <- r.Decide(t.Context(), allow("in time")) }()
		synctest.Wait()
		close(d.stuck)
		if err := <-got; err != nil {
			t.Errorf("there was room in time, and yet %v", err)
		}
		stop()
		ids := d.ids(t)
		if ids[len(ids)-1] != "in time" {
			t.Errorf("written were %q", ids)
		}
	})
}

func expired(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		d := disk{full: errors.New("no space left on device")}
		r := recorder(t, record.Config{Writer: &d, Registerer: registry, Queue: 1 << 20})
		stop := run(t, r)
		// Nobody knows yet.
		if err := r.Decide(t.Context(), allow("first")); err != nil {
			t.Fatal(err)
		}
		<-time.After(50 * time.Millisecond)
		start := time.Now()
		if err := r.Decide(t.Context(), allow("second")); !errors.Is(err, record.ErrUnavailable) || time.Since(start) > 0 {
			t.Errorf("after %v %v", time.Since(start), err)
		}
		if err := r.Decide(t.Context(), deny("third")); err != nil {
			t.Error(err)
		}
		r.Finish(&record.Outcome{ID: "first"})
		d.set(func(d *disk) { d.full = nil })
		<-time.After(2 * time.Second)
		if err := r.Decide(t.Context(), allow("fourth")); err != nil {
			t.Errorf("there is room again, and yet %v", err)
		}
		stop()
		if got := strings.Join(d.ids(t), " "); got != "first third first fourth" {
			t.Errorf("written were %s", got)
		}
		if got := metric(registry, `sallyport_records_dropped_total{kind="decision"}`); got != "1" {
			t.Errorf("%s decisions were dropped", got)
		}
		if got := metric(registry, "sallyport_record_write_failures_total"); got == "0" || got == "" {
			t.Errorf("%q failures were counted", got)
		}
	})
}

// A write that takes half of a line must not leave half a line behind.
func TestShortWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := disk{most: 37}
		r := recorder(t, record.Config{Writer: &d})
		stop := run(t, r)
		for i := range 5 {
			if err := r.Decide(t.Context(), deny(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
		<-time.After(time.Minute)
		stop()
		if got := strings.Join(d.ids(t), ""); got != "01234" {
			t.Errorf("written were %s", got)
		}
	})
}

func TestEnd(t *testing.T) {
	var d disk
	r := recorder(t, record.Config{Writer: &d, Gather: time.Hour})
	stop := run(t, r)
	for i := range 3 {
		if err := r.Decide(t.Context(), allow(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	if got := strings.Join(d.ids(t), ""); got != "012" {
		t.Errorf("when Run ended, written were %q", got)
	}
	if err := r.Decide(t.Context(), allow("late")); !errors.Is(err, record.ErrUnavailable) {
		t.Errorf("after Run has ended: %v", err)
	}
}

func TestManyAtOnce(t *testing.T) {
	const writers, each = 8, 500
	var d disk
	r := recorder(t, record.Config{Writer: &d, Queue: 64 << 10})
	stop := run(t, r)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if err := r.Decide(t.Context(), allow(fmt.Sprintf("%d-%04d", w, i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	stop()
	last := map[byte]string{}
	ids := d.ids(t)
	for _, id := range ids {
		if id <= last[id[0]] {
			t.Fatalf("%s was written after %s", id, last[id[0]])
		}
		last[id[0]] = id
	}
	if len(ids) != writers*each {
		t.Errorf("%d lines, want %d", len(ids), writers*each)
	}
}

func TestConfig(t *testing.T) {
	registry := prometheus.NewRegistry()
	recorder(t, record.Config{Writer: io.Discard, Registerer: registry})
	for name, c := range map[string]record.Config{
		"no writer":     {Log: quiet()},
		"no logger":     {Writer: io.Discard},
		"negative":      {Writer: io.Discard, Log: quiet(), Wait: -1},
		"metrics twice": {Writer: io.Discard, Log: quiet(), Registerer: registry},
	} {
		if _, err := record.New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// metric returns the value of a series as a scrape shows it, or "".
func metric(registry *prometheus.Registry, series string) string {
	w := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func BenchmarkDecide(b *testing.B) {
	r, err := record.New(record.Config{Writer: io.Discard, Log: quiet()})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error)
	go func() { ended <- r.Run(ctx) }()
	d := &record.Decision{
		Time: time.Now(), ID: "0190f7c2-7d43-7b1c-9d1e-2f6a3c4b5d6e", Allow: true, Reason: "allowed_by_policy", Environment: "aws-prod",
		Epoch: 1, Revision: 4711, Listener: "edge/public", ClientIP: netip.MustParseAddr("192.0.2.7"), TLSVersion: "1.3",
		ServerName: "api.shop.example", Protocol: "HTTP/1.1", Method: "GET", Host: "api.shop.example",
		Path: "/v1/orders/0190f7c2-7d43-7b1c-9d1e-2f6a3c4b5d6e", Route: "shop/orders", Policy: "shop/reads",
		Principal: &policy.Principal{Kind: policy.User, ID: "alice", Issuer: "https://id.example", Provider: "shop/idp", AuthenticatedBy: "jwt"},
		Took:      12 * time.Microsecond,
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Decide(ctx, d); err != nil {
			b.Fatal(err)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}
