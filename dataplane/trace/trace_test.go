package trace_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/dataplane/collector"
	"github.com/sallyport/sallyport/dataplane/record"
	"github.com/sallyport/sallyport/dataplane/trace"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	id     = "0af7651916cd43dd8448eb211c80319c"
	span   = "b7ad6b7169203331"
	parent = "00-" + id + "-" + span + "-01"
)

var stranger, friend = netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("10.1.2.3")

// receiver is a collector of traces, as the protocol has it.
type receiver struct {
	*httptest.Server

	mu    sync.Mutex
	spans []*tracev1.Span
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		var m collectorv1.ExportTraceServiceRequest
		if err != nil || proto.Unmarshal(body, &m) != nil {
			t.Errorf("%s %s is no export (%v)", req.Method, req.URL, err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, of := range m.GetResourceSpans() {
			if name := of.GetResource().GetAttributes()[0].GetValue().GetStringValue(); name != "sallyport-proxy" {
				t.Errorf("the resource is %q", name)
			}
			for _, scope := range of.GetScopeSpans() {
				r.spans = append(r.spans, scope.GetSpans()...)
			}
		}
	}))
	t.Cleanup(r.Close)
	return r
}

// tracer runs until the returned function, after which all spans have come.
func (r *receiver) tracer(t *testing.T, c trace.Config) (*trace.Tracer, func() []*tracev1.Span) {
	t.Helper()
	c.Address, c.Instance, c.Log = collector.Address{Endpoint: r.URL + "/v1/traces"}, "one", slog.New(slog.DiscardHandler)
	tracer, err := trace.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- tracer.Run(ctx) }()
	return tracer, func() []*tracev1.Span {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.spans
	}
}

func header(parents ...string) http.Header {
	h := http.Header{"Tracestate": {"vendor=value"}}
	if len(parents) > 0 {
		h["Traceparent"] = parents
	}
	return h
}

func list(value string) []string { return []string{value} }

// next is what of h is passed on.
func next(r *trace.Request, h http.Header) (parent, state string) {
	out := maps.Clone(h)
	r.Tell(out, list)
	return strings.Join(out["Traceparent"], " "), strings.Join(out["Tracestate"], ",")
}

func TestTracesAreJoined(t *testing.T) {
	tracer, stop := newReceiver(t).tracer(t, trace.Config{})
	defer stop()
	for name, c := range map[string]struct {
		parents []string
		joined  bool
	}{
		"as it should be":         {[]string{parent}, true},
		"a later version":         {[]string{"01" + parent[2:] + "-what-will-be"}, true},
		"a later one of the same": {[]string{"cc" + parent[2:]}, true},
		"none":                    {nil, false},
		"two":                     {[]string{parent, parent}, false},
		"no version":              {[]string{"ff" + parent[2:]}, false},
		"more than this has":      {[]string{parent + "-x"}, false},
		"longer":                  {[]string{"01" + parent[2:] + "x"}, false},
		"shorter":                 {[]string{parent[:54]}, false},
		"upper case":              {[]string{strings.ToUpper(parent)}, false},
		"no digits":               {[]string{strings.Replace(parent, "0af7", "0ag7", 1)}, false},
		"no trace":                {[]string{"00-" + strings.Repeat("0", 32) + "-" + span + "-01"}, false},
		"no span":                 {[]string{"00-" + id + "-" + strings.Repeat("0", 16) + "-01"}, false},
		"no hyphens":              {[]string{strings.Replace(parent, "-", "_", 1)}, false},
		"spaces":                  {[]string{" " + parent}, false},
		"empty":                   {[]string{""}, false},
	} {
		h := header(c.parents...)
		r := tracer.Begin(h, stranger)
		told, state := next(&r, h)
		if got := r.Trace.String() == id; got != c.joined || (state != "") != c.joined {
			t.Errorf("%s: it is in %s, with the state %q", name, r.Trace, state)
		}
		if len(told) != len(parent) || told[3:35] != r.Trace.String() || strings.Contains(told, span) || !strings.HasPrefix(told, "00-") {
			t.Errorf("%s: passed on is %q", name, told)
		}
		// Without a tracer nothing of it is touched.
		r = (*trace.Tracer)(nil).Begin(h, stranger)
		if told, state := next(&r, h); told != strings.Join(c.parents, " ") || state != "vendor=value" || (r.Trace.String() == id) != c.joined || !c.joined && r.Trace != (trace.ID{}) {
			t.Errorf("%s: without a tracer %q and %q are passed on, in trace %q", name, told, state, r.Trace)
		}
	}
}

func TestStates(t *testing.T) {
	tracer, stop := newReceiver(t).tracer(t, trace.Config{})
	defer stop()
	for state, good := range map[string]bool{
		"":                                      true,
		"a=b":                                   true,
		"a=b, c@d=e f,, 0_-*/=x":                true,
		strings.Repeat("a=b,", 32):              true,
		strings.Repeat("a=b,", 33):              false,
		"a=" + strings.Repeat("b", 510):         true,
		"a=" + strings.Repeat("b", 511):         false,
		"a":                                     false,
		"=b":                                    false,
		"a=":                                    false,
		"A=b":                                   false,
		"a=b=c":                                 false,
		"_a=b":                                  false,
		"a=\u00e9":                              false,
		"a=b,c=" + string(rune(0x7f)) + ",d=ee": false,
	} {
		h := header(parent)
		h["Tracestate"] = []string{state}
		r := tracer.Begin(h, stranger)
		if _, told := next(&r, h); (told == state) != good {
			t.Errorf("%q: passed on is %q", state, told)
		}
	}
}

// Strangers do not get to say of which requests there are spans.
func TestWhoDecidesOnSpans(t *testing.T) {
	notSampled := strings.TrimSuffix(parent, "01") + "00"
	for _, c := range []struct {
		name   string
		ratio  float64
		client netip.Addr
		parent []string
		spans  bool
	}{
		{"a stranger with the flag", 0, stranger, []string{parent}, false},
		{"a stranger without it", 1, stranger, []string{notSampled}, true},
		{"a friend with the flag", 0, friend, []string{parent}, true},
		{"a friend without it", 1, friend, []string{notSampled}, false},
		{"a friend who says nothing, of none", 0, friend, nil, false},
		{"a friend who says nothing, of all", 1, friend, nil, true},
		{"somebody unknown", 0, netip.Addr{}, []string{parent}, false},
	} {
		tracer, stop := newReceiver(t).tracer(t, trace.Config{Ratio: c.ratio, Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
		h := header(c.parent...)
		r := tracer.Begin(h, c.client)
		told, _ := next(&r, h)
		if flag := strings.HasSuffix(told, "-01"); flag != c.spans || (r.Attempts() != nil) != c.spans {
			t.Errorf("%s: passed on is %q, and there are to be spans: %t", c.name, told, r.Attempts() != nil)
		}
		r.End(&record.Decision{Method: "GET"}, &record.Outcome{}, time.Now())
		if spans := stop(); (len(spans) == 1) != c.spans {
			t.Errorf("%s: there are %d spans", c.name, len(spans))
		}
	}
}

func TestRatio(t *testing.T) {
	tracer, stop := newReceiver(t).tracer(t, trace.Config{Ratio: 0.25})
	defer stop()
	sampled := 0
	for range 10_000 {
		// Whatever trace a client may choose.
		if r := tracer.Begin(header("00-00000000000000000000000000000001-"+span+"-01"), stranger); r.Attempts() != nil {
			sampled++
		}
	}
	if sampled < 2_200 || sampled > 2_800 {
		t.Errorf("of 10,000 requests %d are sampled", sampled)
	}
}

// told is a span in a line.
func told(s *tracev1.Span) string {
	var all []string
	for _, kv := range s.GetAttributes() {
		value := kv.GetValue().GetStringValue()
		if n := kv.GetValue().GetIntValue(); n != 0 {
			value = strconv.FormatInt(n, 10)
		}
		all = append(all, kv.GetKey()+"="+value)
	}
	return fmt.Sprintf("%s %s %dms..%dms %s %s", s.GetKind(), s.GetName(), s.GetStartTimeUnixNano()/1e6, s.GetEndTimeUnixNano()/1e6, s.GetStatus().GetCode(), strings.Join(all, " "))
}

func TestSpans(t *testing.T) {
	now := time.UnixMilli(1000)
	tracer, stop := newReceiver(t).tracer(t, trace.Config{Ratio: 1, Now: func() time.Time { return now }})
	h := header(parent)
	r := tracer.Begin(h, stranger)
	r.Tell(h, list)
	var sent []string
	attempt := func(endpoint string, status int, reason string) {
		out := &http.Request{Method: "POST", Header: maps.Clone(h), URL: &url.URL{Scheme: "https", Host: endpoint, Opaque: "/v1/orders?secret=x"}}
		now = now.Add(time.Millisecond)
		r.Attempts().Begin(out)
		sent = append(sent, out.Header.Get("Traceparent")[36:52])
		now = now.Add(time.Millisecond)
		r.Attempts().End(status, reason)
	}
	attempt("10.0.0.1:8443", 0, "upstream_unreachable")
	attempt("[::1]:8443", 404, "")
	r.End(&record.Decision{
		Time: time.UnixMilli(1000), ID: "one", Allow: true, Reason: "allowed_by_policy", Environment: "aws", Revision: 7, TLSVersion: "1.3",
		Protocol: "HTTP/2.0", Method: "POST", Host: "shop.example:8443", Path: "/orders", Route: "shop/orders", Policy: "shop/writes", RawQuery: "secret=x", ClientIP: stranger,
	}, &record.Outcome{Status: 404, Sent: 10, Received: 20}, time.UnixMilli(1100))
	none := tracer.Begin(nil, stranger)
	none.End(&record.Decision{Time: now, ID: "two", Reason: "no_snapshot", Status: 503, Protocol: "HTTP/1.1", Method: "BREW"}, &record.Outcome{}, now)
	spans := stop()
	if len(spans) != 4 {
		t.Fatalf("there are %d spans", len(spans))
	}
	for i, want := range []string{
		"SPAN_KIND_CLIENT POST 1001ms..1002ms STATUS_CODE_ERROR http.request.method=POST url.full=https://10.0.0.1:8443/v1/orders server.address=10.0.0.1 server.port=8443 error.type=upstream_unreachable",
		"SPAN_KIND_CLIENT POST 1003ms..1100ms STATUS_CODE_ERROR http.request.method=POST url.full=https://[::1]:8443/v1/orders server.address=::1 server.port=8443 http.response.status_code=404 error.type=404",
		"SPAN_KIND_SERVER POST shop/orders 1000ms..1100ms STATUS_CODE_UNSET http.request.method=POST url.scheme=https url.path=/orders server.address=shop.example server.port=8443 network.protocol.version=2 tls.protocol.version=1.3 " +
			"http.response.status_code=404 http.response.body.size=10 http.request.body.size=20 " +
			"sallyport.decision_id=one sallyport.decision=allow sallyport.reason=allowed_by_policy sallyport.environment=aws sallyport.revision=7 sallyport.route=shop/orders sallyport.policy=shop/writes",
		"SPAN_KIND_SERVER HTTP 1004ms..1004ms STATUS_CODE_ERROR http.request.method=_OTHER url.scheme=https network.protocol.version=1.1 http.response.status_code=503 " +
			"sallyport.decision_id=two sallyport.decision=deny sallyport.reason=no_snapshot error.type=no_snapshot",
	} {
		if got := told(spans[i]); got != want {
			t.Errorf("span %d is\n%s, want\n%s", i, got, want)
		}
	}
	request := spans[2]
	if hex.EncodeToString(request.GetParentSpanId()) != span || hex.EncodeToString(request.GetTraceId()) != id || request.GetTraceState() != "vendor=value" {
		t.Errorf("the request is %v", request)
	}
	for i, s := range spans[:2] {
		if hex.EncodeToString(s.GetSpanId()) != sent[i] || string(s.GetParentSpanId()) != string(request.GetSpanId()) || s.GetTraceState() != "vendor=value" {
			t.Errorf("attempt %d is %v, and the endpoint was told of %s", i, s, sent[i])
		}
	}
	if spans[3].GetParentSpanId() != nil {
		t.Error("a trace that begins here has a parent")
	}
}

func TestConfig(t *testing.T) {
	for name, c := range map[string]trace.Config{
		"no instance":  {Log: slog.New(slog.DiscardHandler), Address: collector.Address{Endpoint: "http://127.0.0.1:1/"}},
		"no logger":    {Instance: "one", Address: collector.Address{Endpoint: "http://127.0.0.1:1/"}},
		"no endpoint":  {Instance: "one", Log: slog.New(slog.DiscardHandler)},
		"ratio":        {Instance: "one", Log: slog.New(slog.DiscardHandler), Address: collector.Address{Endpoint: "http://127.0.0.1:1/"}, Ratio: 2},
		"not verified": {Instance: "one", Log: slog.New(slog.DiscardHandler), Address: collector.Address{Endpoint: "https://c.example/", CAFile: "/nowhere"}},
	} {
		if _, err := trace.New(c); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is not sampled costs next to nothing.
func BenchmarkRequest(b *testing.B) {
	tracer, err := trace.New(trace.Config{Instance: "one", Log: slog.New(slog.DiscardHandler), Address: collector.Address{Endpoint: "http://127.0.0.1:1/"}})
	if err != nil {
		b.Fatal(err)
	}
	for name, h := range map[string]http.Header{"joined": header(parent), "begun": header()} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			out, room := http.Header{"Traceparent": nil}, [1]string{}
			one := func(value string) []string { return append(room[:0], value) }
			var r trace.Request // as part of something else
			for b.Loop() {
				r = tracer.Begin(h, stranger)
				r.Tell(out, one)
				r.End(nil, nil, time.Time{})
			}
		})
	}
}

// Whatever comes, what is passed on can be read by the next.
func FuzzParent(f *testing.F) {
	f.Add(parent, "vendor=value")
	f.Add("01"+parent[2:]+"-x", "a=b,c=d")
	tracer, err := trace.New(trace.Config{Instance: "one", Log: slog.New(slog.DiscardHandler), Address: collector.Address{Endpoint: "http://127.0.0.1:1/"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, parent, state string) {
		h := http.Header{"Traceparent": {parent}, "Tracestate": {state}}
		r := tracer.Begin(h, stranger)
		r.Tell(h, list)
		again := tracer.Begin(h, stranger)
		if again.Trace != r.Trace || again.Trace == (trace.ID{}) {
			t.Errorf("%q is passed on as %q", parent, h["Traceparent"])
		}
		if kept := slices.Equal(h["Tracestate"], []string{state}); !kept && h["Tracestate"] != nil {
			t.Errorf("%q is passed on as %q", state, h["Tracestate"])
		}
	})
}
