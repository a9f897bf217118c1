package trace

import (
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/dataplane/collector"
	"github.com/sallyport/sallyport/dataplane/record"
)

// maxText bounds the value of an attribute, in bytes.
const maxText = 1024

// End makes spans of a request that has ended, if it is sampled: one of it, and one of
// each attempt to send it on. They say what was asked and what became of it, and not by
// whom: that is in the record of d. o is the zero Outcome for what was not let through.
func (r *Request) End(d *record.Decision, o *record.Outcome, ended time.Time) {
	if r.attempts == nil {
		return
	}
	for i := range r.attempts.all {
		r.put(r.ofAttempt(&r.attempts.all[i], ended))
	}
	r.put(r.ofRequest(d, o, ended))
}

func (r *Request) put(s *tracev1.Span) {
	b, err := proto.Marshal(s)
	if err != nil {
		panic("trace: a span has a text that is no UTF-8")
	}
	r.tracer.queue.Put(b)
}

// ofRequest is the span of a request, by OpenTelemetry's conventions for servers of
// HTTP.
func (r *Request) ofRequest(d *record.Decision, o *record.Outcome, ended time.Time) *tracev1.Span {
	status, reason := d.Status, d.Reason
	if o.Status != 0 {
		status = o.Status
	}
	if o.Reason != "" {
		reason = o.Reason
	}
	s := r.start(d.Method, d.Route, tracev1.Span_SPAN_KIND_SERVER)
	s.SpanId, s.StartTimeUnixNano, s.EndTimeUnixNano = r.span[:], nanoseconds(d.Time), nanoseconds(ended)
	if r.parent != (SpanID{}) {
		s.ParentSpanId = r.parent[:]
		s.Flags |= uint32(tracev1.SpanFlags_SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK)
	}
	a := attributes{s.GetAttributes()}
	a.text("url.scheme", "https")
	a.text("url.path", d.Path)
	a.address(d.Host)
	a.text("network.protocol.version", version(d.Protocol))
	a.text("tls.protocol.version", d.TLSVersion)
	a.number("http.response.status_code", int64(status))
	a.number("http.response.body.size", o.Sent)
	a.number("http.request.body.size", o.Received)
	a.text("sallyport.decision_id", d.ID)
	a.text("sallyport.decision", map[bool]string{true: "allow", false: "deny"}[d.Allow])
	a.text("sallyport.reason", reason)
	a.text("sallyport.environment", d.Environment)
	a.number("sallyport.revision", d.Revision)
	a.text("sallyport.route", d.Route)
	a.text("sallyport.policy", d.Policy)
	if status >= 500 || o.Reason != "" {
		a.text("error.type", reason)
		s.Status = &tracev1.Status{Code: tracev1.Status_STATUS_CODE_ERROR}
	}
	s.Attributes = a.all
	return s
}

// ofAttempt is the span of an attempt, by OpenTelemetry's conventions for clients.
func (r *Request) ofAttempt(at *attempt, ended time.Time) *tracev1.Span {
	if !at.ended.IsZero() {
		ended = at.ended
	}
	s := r.start(at.method, "", tracev1.Span_SPAN_KIND_CLIENT)
	s.SpanId, s.ParentSpanId = at.span[:], r.span[:]
	s.StartTimeUnixNano, s.EndTimeUnixNano = nanoseconds(at.began), nanoseconds(ended)
	a := attributes{s.GetAttributes()}
	a.text("url.full", at.scheme+"://"+at.host+at.path)
	a.address(at.host)
	a.number("http.response.status_code", int64(at.status))
	switch {
	case at.reason != "":
		a.text("error.type", at.reason)
	case at.status >= 400:
		a.text("error.type", strconv.Itoa(at.status))
	default:
		s.Attributes = a.all
		return s
	}
	s.Attributes, s.Status = a.all, &tracev1.Status{Code: tracev1.Status_STATUS_CODE_ERROR}
	return s
}

// start is a span in the trace of r, with the name that the conventions give it.
func (r *Request) start(method, of string, kind tracev1.Span_SpanKind) *tracev1.Span {
	name := method
	if !slices.Contains(methods, method) {
		method, name = "_OTHER", "HTTP"
	}
	if of != "" {
		name += " " + of
	}
	return &tracev1.Span{
		TraceId: r.Trace[:], TraceState: r.attempts.state, Name: name, Kind: kind,
		Flags:      uint32(r.flags) | uint32(tracev1.SpanFlags_SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK),
		Attributes: []*commonv1.KeyValue{collector.Text("http.request.method", method)},
	}
}

// methods are those that the conventions know and a gateway meets.
var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"}

// attributes leave out what is not known.
type attributes struct{ all []*commonv1.KeyValue }

func (a *attributes) text(key, value string) {
	if value != "" {
		a.all = append(a.all, collector.Text(key, value[:min(len(value), maxText)]))
	}
}

func (a *attributes) number(key string, value int64) {
	if value != 0 {
		a.all = append(a.all, collector.Number(key, value))
	}
}

// address is host, or host:port.
func (a *attributes) address(of string) {
	host, port, err := net.SplitHostPort(of)
	if err != nil {
		host = of
	}
	a.text("server.address", host)
	if n, err := strconv.ParseUint(port, 10, 16); err == nil {
		a.number("server.port", int64(n))
	}
}

// version is 1.1 of HTTP/1.1, and 2 of HTTP/2.0.
func version(protocol string) string {
	if protocol == "HTTP/2.0" {
		return "2"
	}
	return strings.TrimPrefix(protocol, "HTTP/")
}

func nanoseconds(at time.Time) uint64 {
	return uint64(max(at.UnixNano(), 0))
}

// encode makes TracesData of spans that are encoded already. On the wire it is what
// ExportTraceServiceRequest is, whose package would link all of gRPC.
func (t *Tracer) encode(spans [][]byte) ([]byte, error) {
	const resourceSpans, scopeSpans, ofScope = 1, 2, 2 // the fields that repeat
	scope, err := proto.Marshal(&tracev1.ScopeSpans{Scope: &commonv1.InstrumentationScope{Name: "sallyport/requests"}})
	if err != nil {
		return nil, err
	}
	for _, s := range spans {
		scope = protowire.AppendBytes(protowire.AppendTag(scope, ofScope, protowire.BytesType), s)
	}
	of, err := proto.Marshal(&tracev1.ResourceSpans{Resource: t.resource})
	if err != nil {
		return nil, err
	}
	of = protowire.AppendBytes(protowire.AppendTag(of, scopeSpans, protowire.BytesType), scope)
	return protowire.AppendBytes(protowire.AppendTag(nil, resourceSpans, protowire.BytesType), of), nil
}
