package gateway_test

import (
	"encoding/hex"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/dataplane/collector"
	"github.com/sallyport/sallyport/dataplane/trace"
)

// spans is a collector of traces.
type spans struct {
	*httptest.Server
	come chan *tracev1.Span
}

func newSpans(t *testing.T) *spans {
	t.Helper()
	s := &spans{come: make(chan *tracev1.Span, 100)}
	s.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		var m collectorv1.ExportTraceServiceRequest
		if err != nil || proto.Unmarshal(b, &m) != nil {
			t.Errorf("no export: %v", err)
		}
		for _, span := range m.GetResourceSpans()[0].GetScopeSpans()[0].GetSpans() {
			s.come <- span
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *spans) tracer(t *testing.T) *trace.Tracer {
	t.Helper()
	tracer, err := trace.New(trace.Config{
		Address: collector.Address{Endpoint: s.URL + "/v1/traces"}, Instance: "one", Log: slog.New(slog.DiscardHandler),
		Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	})
	if err != nil {
		t.Fatal(err)
	}
	return tracer
}

// next waits for a span, and returns it with its attributes.
func (s *spans) next(t *testing.T) (*tracev1.Span, map[string]string) {
	t.Helper()
	select {
	case span := <-s.come:
		all := map[string]string{}
		for _, kv := range span.GetAttributes() {
			all[kv.GetKey()] = kv.GetValue().GetStringValue()
			if n := kv.GetValue().GetIntValue(); n != 0 {
				all[kv.GetKey()] = itoa(int(n))
			}
		}
		return span, all
	case <-time.After(30 * time.Second):
		t.Fatal("no span comes")
		return nil, nil
	}
}

const traceID = "0af7651916cd43dd8448eb211c80319c"

// traced asks with a traceparent that has the flags.
func (w *world) traced(http2 bool, path, flags string) *http.Response {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, "https://"+host+path, nil)
	w.must(err)
	r.Header.Set("Authorization", "Bearer "+w.tokens.sign(nil))
	r.Header.Set("Traceparent", "00-"+traceID+"-b7ad6b7169203331-"+flags)
	r.Header.Set("Tracestate", "vendor=value")
	res, err := w.client(http2, w.tls(host)).Do(r)
	w.must(err)
	w.read(res)
	return res
}

// overheard is what an upstream was sent last.
type overheard struct {
	mu     sync.Mutex
	header http.Header
}

func (a *overheard) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.header = r.Header.Clone()
}

func (a *overheard) get(name string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.header.Get(name)
}

func TestRequestsAreTraced(t *testing.T) {
	collected := newSpans(t)
	tracer := collected.tracer(t)
	w := newWorld(t, options{trace: tracer})
	w.run(tracer.Run)
	up, saw := newEcho(t), &overheard{}
	up.answerWith(saw.ServeHTTP)
	dead := newEcho(t)
	dead.Close()
	w.apply(w.usual(plaintext(up.address(), dead.address())))
	for i, http2 := range []bool{false, true, false, true} { // so that each endpoint comes first
		res := w.traced(http2, "/v1/orders?secret=x", "01")
		id := res.Header.Get("Sallyport-Decision-Id")
		var attempts []*tracev1.Span
		span, all := collected.next(t)
		for ; span.GetKind() == tracev1.Span_SPAN_KIND_CLIENT; span, all = collected.next(t) {
			if len(attempts) > 0 && attempts[0].GetStatus().GetCode() != tracev1.Status_STATUS_CODE_ERROR {
				t.Error("another attempt follows one that was answered")
			}
			attempts = append(attempts, span)
			if string(span.GetParentSpanId()) == "" || strings.Contains(span.String(), "secret") {
				t.Errorf("request %d: an attempt is %v", i, span)
			}
		}
		if all["sallyport.decision_id"] != id || all["http.response.status_code"] != "200" || all["url.path"] != "/v1/orders" || strings.Contains(span.String(), "secret") {
			t.Errorf("request %d: the span is %v", i, span)
		}
		if hex.EncodeToString(span.GetTraceId()) != traceID || hex.EncodeToString(span.GetParentSpanId()) != "b7ad6b7169203331" || len(attempts) == 0 {
			t.Errorf("request %d: it is not in its trace: %v", i, span)
			continue
		}
		last := attempts[len(attempts)-1]
		if want := "00-" + traceID + "-" + hex.EncodeToString(last.GetSpanId()) + "-01"; saw.get("Traceparent") != want || saw.get("Tracestate") != "vendor=value" {
			t.Errorf("request %d: the upstream was told %q and %q, want %q", i, saw.get("Traceparent"), saw.get("Tracestate"), want)
		}
		if string(last.GetParentSpanId()) != string(span.GetSpanId()) {
			t.Errorf("request %d: the attempt is none of it", i)
		}
		if d := w.records.of(t, "decision", id); d.TraceID != traceID {
			t.Errorf("request %d: the record is of trace %q", i, d.TraceID)
		}
	}
	if text := w.scrape(acceptsOpenMetrics).Body.String(); !strings.Contains(text, `trace_id="`+traceID+`"`) {
		t.Error("no exemplar has the trace")
	}
	denied := w.traced(false, "/v2/orders", "01")
	if span, all := collected.next(t); all["sallyport.reason"] != "no_route" || all["sallyport.decision_id"] != denied.Header.Get("Sallyport-Decision-Id") || all["http.response.status_code"] != "404" {
		t.Errorf("the span of a denial is %v", span)
	}
	w.traced(false, "/v1/orders", "00")
	if told := saw.get("Traceparent"); !strings.HasPrefix(told, "00-"+traceID) || !strings.HasSuffix(told, "-00") || strings.Contains(told, "b7ad6b7169203331") {
		t.Errorf("of what is not sampled the upstream was told %q", told)
	}
}

// Without a collector what requests say goes on as it is, be it what it may. A route
// may have its upstream be told nothing, with and without.
func TestTracesOfOthers(t *testing.T) {
	for _, with := range []bool{false, true} {
		var o options
		if with {
			o.trace = newSpans(t).tracer(t)
		}
		w := newWorld(t, o)
		up, saw := newEcho(t), &overheard{}
		up.answerWith(saw.ServeHTTP)
		w.apply(w.usual(plaintext(up.address())))
		res := w.traced(false, "/v1/orders", "00")
		if told := saw.get("Traceparent"); (told == "00-"+traceID+"-b7ad6b7169203331-00") == with {
			t.Errorf("with a collector %t: the upstream was told %q", with, told)
		}
		if d := w.records.of(t, "decision", res.Header.Get("Sallyport-Decision-Id")); d.TraceID != traceID {
			t.Errorf("with a collector %t: the record is of trace %q", with, d.TraceID)
		}
		w.apply(strings.Replace(w.usual(plaintext(up.address())), "upstream: orders,", "upstream: orders, requestHeaders: {remove: [traceparent]},", 1))
		w.traced(false, "/v1/orders", "00")
		if told := saw.get("Traceparent"); told != "" {
			t.Errorf("with a collector %t: the upstream that should be told nothing was told %q", with, told)
		}
	}
}
