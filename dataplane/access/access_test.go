package access_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/dataplane/access"
	"github.com/sallyport/sallyport/dataplane/record"
	"github.com/sallyport/sallyport/internal/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// disk is a writer that can be full, stuck, or short of room.
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
	switch {
	case d.full != nil:
		return 0, d.full
	case d.most > 0 && len(p) > d.most:
		n, _ := d.written.Write(p[:d.most])
		return n, errors.New("no room for more")
	}
	return d.written.Write(p)
}

func (d *disk) set(change func(*disk)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d)
}

func (d *disk) text() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.written.String()
}

// start runs a log until stop.
func start(t *testing.T, c access.Config) (l *access.Log, metrics *prometheus.Registry, stop func()) {
	t.Helper()
	metrics = prometheus.NewRegistry()
	c.Log, c.Registerer = slog.New(slog.DiscardHandler), metrics
	l, err := access.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	return l, metrics, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func dropped(t *testing.T, r *prometheus.Registry) float64 {
	t.Helper()
	all, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return all[0].GetMetric()[0].GetCounter().GetValue()
}

func entry() *access.Entry {
	return &access.Entry{
		Decision: &record.Decision{
			Time: time.Date(2026, 11, 24, 10, 42, 7, 123456789, time.FixedZone("", 3600)), ID: "one", Allow: true, Reason: "allowed_by_policy",
			Environment: "aws", Revision: 7, Listener: "edge/public", ClientIP: netip.MustParseAddr("fe80::1%e\"th0"), PeerIP: netip.MustParseAddr("10.0.0.1"),
			TLSVersion: "1.3", ServerName: "shop.example", Protocol: "HTTP/2.0", Method: "GET", Host: "shop.example", Path: "/or\"ders",
			RawQuery: "token=secret&a%62=1&&=x&c", Route: "shop/orders", Policy: "shop/reads", Took: 20 * time.Microsecond, Trace: [16]byte{1, 0xff},
			Principal: &policy.Principal{Kind: policy.User, ID: "ann", Issuer: "https://id.example"}, Device: &policy.Device{ID: "laptop"},
		},
		Outcome:  &record.Outcome{Status: 502, Reason: "upstream_failed", Sent: 10, Received: 20, Endpoint: "10.0.0.2:80", Upstream: "shop/a", Target: "x/y"},
		Took:     time.Second,
		Answered: time.Millisecond,
		Said:     3,
		Request:  http.Header{"User-Agent": {"curl"}, "Referer": {"https://a.example/x?code=secret"}, "X-Tenant": {"a", "b"}},
		Response: http.Header{"Location": {"/back#secret"}},
	}
}

func TestFields(t *testing.T) {
	denied := &access.Entry{
		Decision: &record.Decision{Reason: "no_route", Status: 404}, Outcome: &record.Outcome{}, Took: time.Microsecond,
	}
	for _, c := range []struct {
		name   string
		fields []string
		of     *access.Entry
		want   string
	}{
		{"the usual", nil, entry(), `{"type":"access","time":"2026-11-24T09:42:07.123456Z","client_ip":"fe80::1","principal":"ann","method":"GET","host":"shop.example",` +
			`"path":"/or\"ders","protocol":"HTTP/2.0","tls":"1.3","status":502,"decision":"allow","reason":"upstream_failed","sent":13,"received":20,` +
			`"took_us":1000000,"upstream_us":1000,"route":"shop/orders","endpoint":"10.0.0.2:80","decision_id":"one","trace_id":"01ff0000000000000000000000000000","user_agent":"curl"}`},
		{"others", []string{
			"query_names", "principal_kind", "principal_issuer", "device", "environment", "revision", "listener", "peer_ip", "sni", "policy", "target",
			"upstream", "decision_us", "referer", "request_header.x-tenant", "request_header.none", "response_header.location",
		}, entry(), `{"type":"access","query_names":"token&ab&c","principal_kind":"user","principal_issuer":"https://id.example","device":"laptop","environment":"aws",` +
			`"revision":7,"listener":"edge/public","peer_ip":"10.0.0.1","sni":"shop.example","policy":"shop/reads","target":"x/y","upstream":"shop/a","decision_us":20,` +
			`"referer":"https://a.example/x","request_header.x-tenant":"a, b","response_header.location":"/back"}`},
		{"of nothing", nil, denied, `{"type":"access","time":"0001-01-01T00:00:00.000000Z","status":404,"decision":"deny","reason":"no_route","sent":0,"received":0,"took_us":1,"upstream_us":0}`},
		{"in another order", []string{"status", "time"}, denied, `{"type":"access","status":404,"time":"0001-01-01T00:00:00.000000Z"}`},
	} {
		var d disk
		l, _, stop := start(t, access.Config{Writer: &d, Fields: c.fields})
		l.Write(c.of)
		stop()
		if got := d.text(); got != c.want+"\n" || !json.Valid([]byte(got)) {
			t.Errorf("%s: got\n%swant\n%s", c.name, got, c.want)
		}
	}
}

func TestCheckFields(t *testing.T) {
	for name, good := range map[string]bool{
		"time": true, "request_header.x-tenant": true, "response_header.server": true,
		"": false, "when": false, "Time": false, "request_header.": false, "request_header.X-Tenant": false, "request_header.a b": false,
		"request_header.authorization": false, "request_header.cookie": false, "response_header.set-cookie": false, "request_header.x-api-key": false,
		"request_header.x-session-token": false, "header.a": false,
	} {
		if err := access.CheckFields([]string{name}); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
	}
	if access.CheckFields([]string{"time", "host", "time"}) == nil {
		t.Error("a field may be there twice")
	}
	if err := access.CheckFields(access.DefaultFields()); err != nil {
		t.Error(err)
	}
	if access.CheckFields(strings.Split(strings.Repeat("time,", 65), ",")) == nil {
		t.Error("there may be any number of fields")
	}
	for _, c := range []access.Config{{}, {Writer: io.Discard}, {Writer: io.Discard, Log: slog.New(slog.DiscardHandler), Queue: -1}} {
		if _, err := access.New(c); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
	(*access.Log)(nil).Write(entry()) // nothing happens
}

// Texts are cut, and lines are one line each.
func TestLongTexts(t *testing.T) {
	var d disk
	l, _, stop := start(t, access.Config{Writer: &d, Fields: []string{"user_agent"}})
	e := entry()
	e.Request["User-Agent"] = []string{strings.Repeat("x\n", 2000)}
	l.Write(e)
	stop()
	if got := d.text(); strings.Count(got, "\n") != 1 || !json.Valid([]byte(got)) || strings.Count(got, "x") != 1024 {
		t.Errorf("the line is %q", got)
	}
}

// Nobody waits for a pipe that is stuck: what finds no room is counted.
func TestStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := disk{stuck: make(chan struct{})}
		l, metrics, stop := start(t, access.Config{Writer: &d, Fields: []string{"status"}, Queue: 310}) // ten lines
		for range 10 {
			l.Write(entry())
		}
		<-time.After(time.Second) // Run has taken them, and is stuck
		synctest.Wait()
		for range 15 {
			l.Write(entry())
		}
		if n := dropped(t, metrics); n != 5 {
			t.Errorf("%v were dropped", n)
		}
		close(d.stuck)
		stop()
		if n := strings.Count(d.text(), "{\"type\":\"access\",\"status\":502}\n"); n != 20 || len(d.text()) != 20*31 {
			t.Errorf("%d lines were written: %q", n, d.text())
		}
		l.Write(entry())
		if n := dropped(t, metrics); n != 6 {
			t.Errorf("after the end %v were dropped", n)
		}
	})
}

// A disk that is full loses lines, and no line that is written is torn.
func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		l, metrics, stop := start(t, access.Config{Writer: &d, Fields: []string{"status"}})
		write := func() {
			l.Write(entry())
			l.Write(entry())
			<-time.After(time.Second)
			synctest.Wait()
		}
		write()
		d.set(func(d *disk) { d.most = 40 }) // one and a third
		write()
		d.set(func(d *disk) { d.full = errors.New("disk is full") })
		write()
		d.set(func(d *disk) { d.full, d.most = nil, 0 })
		write()
		stop()
		const line = "{\"type\":\"access\",\"status\":502}\n"
		if want := line + line + line + line[:40-len(line)] + "\n" + line + line; d.text() != want {
			t.Errorf("written is\n%s, want\n%s", d.text(), want)
		}
		if n := dropped(t, metrics); n != 3 {
			t.Errorf("%v were dropped", n)
		}
	})
}

func BenchmarkWrite(b *testing.B) {
	l, err := access.New(access.Config{Writer: io.Discard, Log: slog.New(slog.DiscardHandler), Queue: 1}) // no room: what a line costs is making it
	if err != nil {
		b.Fatal(err)
	}
	e := entry()
	b.ReportAllocs()
	for b.Loop() {
		l.Write(e)
	}
}
