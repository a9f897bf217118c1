package courier_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/dataplane/courier"
	"github.com/sallyport/sallyport/dataplane/record"
	"github.com/sallyport/sallyport/internal/policy"
	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
)

// What is written field by field is the message that protobuf reads.
func TestRecordsAreMessages(t *testing.T) {
	for name, long := range map[string]string{
		"nothing": "", "a length of one byte": "x", "the longest of it": strings.Repeat("x", 127), "the shortest of two": strings.Repeat("x", 128),
		"all that is kept": strings.Repeat("x", 2048), "more": strings.Repeat("é", 10_000), "no text": "a\xff\xfeb\xc3",
	} {
		d, o, want, ended := sample(long)
		got := read(t, courier.Encode(d)[0])
		if !proto.Equal(got, want) {
			t.Errorf("%s: got\n%v\nwant\n%v", name, got, want)
		}
		if got := read(t, courier.EncodeEndings(o)[0]); !proto.Equal(got, ended) {
			t.Errorf("%s: got\n%v\nwant\n%v", name, got, ended)
		}
	}
	if got := read(t, courier.Encode(&record.Decision{Time: time.Unix(0, 0)})[0]); !proto.Equal(got, &decisionv1.Decision{
		Time: &timestamppb.Timestamp{}, Count: 1, Request: &decisionv1.Request{}, Signals: &decisionv1.Signals{},
		Timings: &decisionv1.Timings{Decided: &durationpb.Duration{}},
	}) {
		t.Errorf("of nothing: %v", got)
	}
}

// A record is of no use with a name in it that is not text: none is made.
func TestNamesOfRecords(t *testing.T) {
	for name, change := range map[string]func(*record.Decision){
		"route":  func(d *record.Decision) { d.Route = "\xff" },
		"reason": func(d *record.Decision) { d.Reason = "\xff" },
		"policy": func(d *record.Decision) { d.Policy = "\xff" },
		"shadow": func(d *record.Decision) { d.Shadow = policy.Shadow{Policy: "\xff"} },
		"step":   func(d *record.Decision) { d.Explanation.Steps = []policy.Step{{Policy: "\xff"}} },
	} {
		d := *allows
		change(&d)
		if b := courier.Encode(&d)[0]; len(b) > 0 {
			t.Errorf("%s: a record of %d bytes", name, len(b))
		}
	}
	if b := courier.EncodeEndings(&record.Outcome{Reason: "\xff"})[0]; len(b) > 0 {
		t.Errorf("an ending of %d bytes", len(b))
	}
}

func read(t *testing.T, b []byte) *decisionv1.Decision {
	t.Helper()
	var m decisionv1.Decision
	if err := proto.Unmarshal(b, &m); err != nil || len(m.ProtoReflect().GetUnknown()) > 0 {
		t.Fatalf("%v, %x is unknown", err, m.ProtoReflect().GetUnknown())
	}
	return &m
}

// sample is a record with text wherever clients have a say, what it is to be, and the
// same of how the request ended.
func sample(text string) (*record.Decision, *record.Outcome, *decisionv1.Decision, *decisionv1.Decision) {
	at := time.Unix(1_800_000_000, 999_999_999)
	d := &record.Decision{
		Time: at, ID: allows.ID, Allow: true, Reason: "allowed_by_policy", Status: 403, Detail: text, Epoch: -1, Revision: 1 << 40,
		Listener: "edge/public", ClientIP: netip.MustParseAddr("2001:db8::7%eth0"), ClientIPSource: "direct", ClientIPUnknown: "why",
		PeerIP: netip.MustParseAddr("192.0.2.1"), TLSVersion: "1.3", ServerName: text, ALPN: "h2", Protocol: "HTTP/2.0",
		Method: text, Host: text, Path: text, Route: "shop/orders", Policy: "shop/reads", RawQuery: "a%20b=1&&=x&c", Trace: [16]byte{1, 15: 0xfe},
		Header: map[string][]string{"User-Agent": {text, "other"}}, Values: slices.Repeat([]record.Value{{Field: "f", Value: text}}, 100),
		Place: &policy.Place{Country: "DE"}, Shadow: policy.Shadow{Policy: "shop/next", Reason: "no_policy"}, Closes: "other",
		Authenticated: 1500 * time.Millisecond, Took: -time.Nanosecond,
	}
	want := &decisionv1.Decision{
		Time: timestamppb.New(at), Id: d.ID, Allow: true, Reason: d.Reason, Status: 403, Detail: clip(text, 1024), Epoch: -1, Revision: 1 << 40,
		Listener: d.Listener, Route: d.Route, Policy: d.Policy, Count: 1, Closes: d.Closes, TraceId: "010000000000000000000000000000fe",
		Request: &decisionv1.Request{
			Protocol: d.Protocol, Method: clip(text, 128), Host: clip(text, 256), Path: clip(text, 2048), QueryNames: []string{"a b", "c"},
			Headers: []*decisionv1.Header{{Name: "User-Agent", Value: clip(text, 256)}}, Values: slices.Repeat([]*decisionv1.Value{{Field: "f", Value: clip(text, 256)}}, 100),
		},
		Signals: &decisionv1.Signals{
			Ip:  &decisionv1.Address{Address: "2001:db8::7", Source: "direct", Unknown: "why", Peer: "192.0.2.1"},
			Tls: &decisionv1.TLS{Version: "1.3", Sni: clip(text, 256), Alpn: "h2"}, Geo: &decisionv1.Geo{Country: "DE"},
		},
		Shadow:  &decisionv1.Shadow{Policy: "shop/next", Reason: "no_policy"},
		Timings: &decisionv1.Timings{Authenticated: durationpb.New(d.Authenticated), Decided: durationpb.New(d.Took)},
	}
	o := &record.Outcome{
		Time: at, ID: d.ID, Reason: "client_gone", ClosedBy: "other", Target: text, Upstream: "shop/next", Endpoint: text, Attempts: 101,
		Status: 499, Sent: 1 << 40, Received: 7, Took: time.Hour + 1,
	}
	ended := &decisionv1.Decision{Id: d.ID, Outcome: &decisionv1.Outcome{
		Time: timestamppb.New(at), Reason: o.Reason, ClosedBy: o.ClosedBy, Target: clip(text, 2048), Upstream: o.Upstream, Endpoint: clip(text, 261),
		Attempts: proto.Int32(100), Status: 499, Sent: o.Sent, Received: 7, Took: durationpb.New(o.Took),
	}}
	return d, o, want, ended
}

func clip(s string, n int) string { return strings.ToValidUTF8(s[:min(len(s), n)], "\ufffd") }
