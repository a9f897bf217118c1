package courier_test

import (
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/dataplane/courier"
	"github.com/sallyport/sallyport/dataplane/record"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/policy"
	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
)

func courierOf(t testing.TB, c courier.Config) *courier.Courier {
	t.Helper()
	source, err := identity.New(identity.Config{SocketAddr: "unix:///nowhere", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	c.ControlPlanes, c.ControlPlaneID = []string{"https://127.0.0.1:1"}, "spiffe://prod.example/controlplane"
	c.Identity, c.Instance, c.Log = source, "one", slog.New(slog.DiscardHandler)
	c.SpoolDirectory = filepath.Join(t.TempDir(), "records")
	made, err := courier.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

var allows = &record.Decision{
	Time: time.Now(), ID: "0190f7c2-7d43-7b1c-9d1e-2f6a3c4b5d6e", Allow: true, Reason: "allowed_by_policy", Environment: "aws-prod",
	Epoch: 1, Revision: 4711, Listener: "edge/public", ClientIP: netip.MustParseAddr("192.0.2.7"), TLSVersion: "1.3",
	ServerName: "api.shop.example", Protocol: "HTTP/1.1", Method: "GET", Host: "api.shop.example", ALPN: "http/1.1",
	Path: "/v1/orders/0190f7c2-7d43-7b1c-9d1e-2f6a3c4b5d6e", Route: "shop/orders", Policy: "shop/reads", RawQuery: "page=2&size=10",
	Header: map[string][]string{"Authorization": {"Bearer x"}, "Accept": {"*/*"}, "User-Agent": {"test/1.0"}, "Traceparent": {"00"}},
	Principal: &policy.Principal{
		Kind: policy.User, ID: "alice", Issuer: "https://id.example", Provider: "shop/idp", AuthenticatedBy: "jwt",
		Groups: []string{"shop", "staff"}, Claims: map[string]any{"email": "alice@shop.example", "tenant": "shop"},
	},
	Authenticated: 5 * time.Microsecond, Took: 12 * time.Microsecond, Rule: &record.Rule{Mode: record.All},
}

// A queue without anybody to take from it holds what it may, and counts the rest.
func TestTheQueueIsBounded(t *testing.T) {
	c := courierOf(t, courier.Config{Queue: 100 << 10})
	n := 0
	for ; c.Dropped() == 0; n++ {
		if n > 1000 {
			t.Fatal("the queue has no end")
		}
		c.Decide(allows)
	}
	if n < 100 {
		t.Errorf("a queue of 100 KiB has room for %d records", n-1)
	}
	for range 100 {
		c.Decide(allows)
	}
	if c.Dropped() != 101 {
		t.Errorf("%d records were dropped, want 101", c.Dropped())
	}
}

// What a record is made of may be anything; a record is made of it all the same.
func FuzzRecord(f *testing.F) {
	f.Add("plain", "a=b&c", "X-Name")
	f.Add("\xff\xc0", "%zz=1&&=;\xff", "\x00")
	c := courierOf(f, courier.Config{Queue: 1 << 30})
	f.Fuzz(func(t *testing.T, text, query, name string) {
		was := c.Dropped()
		d := &record.Decision{
			Device: &policy.Device{ID: text, OS: text, OSVersion: text, Owner: text}, Closes: allows.ID,
			Values: []record.Value{{Field: text, Value: text}},
			Place:  &policy.Place{Country: text, Continent: text, City: text, Organization: text, Databases: []policy.Database{{Type: text}}},
			ID:     allows.ID, Reason: "no_route", Host: text, Path: text, Method: text, Detail: text, ServerName: text, RawQuery: query,
			Header: map[string][]string{name: {text}, "User-Agent": {text}},
			Principal: &policy.Principal{
				ID: text, Issuer: text, SPIFFEID: text, KeyID: text, ACR: text, Groups: []string{text}, Claims: map[string]any{text: text},
			},
		}
		o := &record.Outcome{ID: allows.ID, Endpoint: text, Target: text}
		c.Decide(d)
		c.Finish(o)
		read(t, courier.Encode(d)[0])
		read(t, courier.EncodeEndings(o)[0])
		if c.Dropped() != was {
			t.Error("no record was made")
		}
	})
}

// A record has where the client is if a policy asked, and never what the one before
// had.
func TestRecordsOfPlaces(t *testing.T) {
	at := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	asked := *allows
	asked.Place = &policy.Place{
		Country: "DE", Continent: "EU", City: "Berlin", ASN: 64500, Organization: "Example AG", Anonymity: &policy.Anonymity{Any: true, VPN: true},
		Databases: []policy.Database{{Type: "GeoLite2-City", Built: at}},
	}
	all := courier.Encode(&asked, allows)
	want := &decisionv1.Geo{
		Country: "DE", Continent: "EU", City: "Berlin", Asn: 64500, AsOrganization: "Example AG",
		Anonymity: &decisionv1.Anonymity{Anonymous: true, Vpn: true},
		Databases: []*decisionv1.GeoDatabase{{Type: "GeoLite2-City", Built: timestamppb.New(at)}},
	}
	for i, want := range []*decisionv1.Geo{want, nil} {
		var got decisionv1.Decision
		if err := proto.Unmarshal(all[i], &got); err != nil {
			t.Fatal(err)
		}
		if geo := got.GetSignals().GetGeo(); !proto.Equal(geo, want) {
			t.Errorf("record %d: %v", i, geo)
		}
	}
}

// A record has the device that was proven, with what was known of it, and what it
// closes; never what the one before had.
func TestRecordsOfDevices(t *testing.T) {
	at := time.Date(2026, 3, 1, 0, 0, 0, 1, time.UTC)
	proven, bare, none := *allows, *allows, *allows
	proven.Closes = "0190f7c2-7d43-7b1c-9d1e-000000000000"
	proven.Values = []record.Value{{Field: `request.params["q"]`, Value: strings.Repeat("x", 300)}}
	proven.Device = &policy.Device{
		ID: "laptop-7", OS: "macos", OSVersion: "26.1", Owner: "alice", DiskEncrypted: policy.Yes, ScreenLock: policy.No, Compliant: policy.Yes,
		LastSeen: at, Expires: at.Add(time.Hour),
	}
	bare.Device = &policy.Device{ID: "phone-3", Managed: policy.No}
	all := courier.Encode(&proven, &bare, &none)
	for i, want := range []*decisionv1.Device{
		{
			Id: "laptop-7", Os: "macos", OsVersion: "26.1", Owner: "alice", DiskEncrypted: new(true), ScreenLock: new(false), Compliant: new(true),
			LastSeen: timestamppb.New(at), ExpiresAt: timestamppb.New(at.Add(time.Hour)),
		},
		{Id: "phone-3", Managed: new(false)},
		nil,
	} {
		var got decisionv1.Decision
		if err := proto.Unmarshal(all[i], &got); err != nil {
			t.Fatal(err)
		}
		if values := got.GetRequest().GetValues(); (len(values) == 1) != (i == 0) || i == 0 && len(values[0].GetValue()) != 256 {
			t.Errorf("record %d has the values %v", i, values)
		}
		if d := got.GetSignals().GetDevice(); !proto.Equal(d, want) || (got.GetCloses() == proven.Closes) != (i == 0) {
			t.Errorf("record %d closes %q, and is of %v", i, got.GetCloses(), d)
		}
	}
}

// How often requests were denied is recorded where a policy asked, as far as it is
// known: none is not the same.
func TestRecordsOfDenials(t *testing.T) {
	asked, nobody := *allows, *allows
	asked.Denials = policy.Denials{Asked: true, Principal: policy.Count{Known: true}, Address: policy.Count{Number: 7, Known: true}}
	nobody.Denials = policy.Denials{Asked: true}
	all := courier.Encode(&asked, &nobody, allows)
	for i, want := range []*decisionv1.Denials{{Principal: new(int64), Address: proto.Int64(7)}, {}, nil} {
		var got decisionv1.Decision
		if err := proto.Unmarshal(all[i], &got); err != nil {
			t.Fatal(err)
		}
		if d := got.GetSignals().GetDenials(); !proto.Equal(d, want) || (d == nil) != (want == nil) {
			t.Errorf("record %d: %v", i, d)
		}
	}
}

// A record has the ages by which it was decided, as far as they are known.
func TestRecordsOfAges(t *testing.T) {
	aged, fresh := *allows, *allows
	aged.Ages = policy.Ages{Security: policy.Age{Is: 90*time.Second + 1, Known: true}}
	fresh.Ages = policy.Ages{Configuration: policy.Age{Known: true}}
	all := courier.Encode(&aged, &fresh, allows)
	for i, want := range []*decisionv1.Signals{{SecurityAge: durationpb.New(90*time.Second + 1)}, {ConfigurationAge: durationpb.New(0)}, {}} {
		var got decisionv1.Decision
		if err := proto.Unmarshal(all[i], &got); err != nil {
			t.Fatal(err)
		}
		s := got.GetSignals()
		if !proto.Equal(s.GetConfigurationAge(), want.GetConfigurationAge()) || !proto.Equal(s.GetSecurityAge(), want.GetSecurityAge()) {
			t.Errorf("record %d: %v", i, s)
		}
	}
}

// A record has the trace of its request, and never that of the one before.
func TestRecordsOfTraces(t *testing.T) {
	traced := *allows
	traced.Trace = [16]byte{0: 0x0a, 15: 0xf1}
	all := courier.Encode(&traced, allows)
	for i, want := range []string{"0a0000000000000000000000000000f1", ""} {
		var got decisionv1.Decision
		if err := proto.Unmarshal(all[i], &got); err != nil {
			t.Fatal(err)
		}
		if got.GetTraceId() != want {
			t.Errorf("record %d is of the trace %q, want %q", i, got.GetTraceId(), want)
		}
	}
}

// How a request was carried is recorded within bounds; no attempt is not the same
// as a number of them that is not known.
func TestRecordsOfOutcomes(t *testing.T) {
	long := strings.Repeat("x", 3000)
	all := courier.EncodeEndings(
		&record.Outcome{ID: allows.ID, Target: "orders.internal/v2", Upstream: "shop/next", Endpoint: "10.0.0.1:443", Attempts: 2},
		&record.Outcome{ID: allows.ID, Target: long, Endpoint: long, Attempts: 1 << 40},
		&record.Outcome{ID: allows.ID},
	)
	for i, want := range []*decisionv1.Outcome{
		{Target: "orders.internal/v2", Upstream: "shop/next", Endpoint: "10.0.0.1:443", Attempts: proto.Int32(2)},
		{Target: long[:2048], Endpoint: long[:261], Attempts: proto.Int32(100)},
		{Attempts: proto.Int32(0)},
	} {
		var got decisionv1.Decision
		if err := proto.Unmarshal(all[i], &got); err != nil {
			t.Fatal(err)
		}
		o := got.GetOutcome()
		if o.Time, o.Took = nil, nil; !proto.Equal(o, want) {
			t.Errorf("record %d: %v", i, o)
		}
	}
}

// A record whose principal cannot be told is none, rather than one of nobody.
func TestNamesThatAreNotText(t *testing.T) {
	who := *allows.Principal
	who.Provider = "\xff"
	asked := *allows
	asked.Principal = &who
	for i, encoded := range courier.Encode(&asked, &asked) {
		if len(encoded) > 0 {
			t.Errorf("record %d has %d bytes", i, len(encoded))
		}
	}
}

// BenchmarkRecord measures the request's own part of being recorded: all but
// bringing it to the control plane.
func BenchmarkRecord(b *testing.B) {
	c := courierOf(b, courier.Config{Queue: 1 << 40})
	began := cpu(b)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		c.Decide(allows)
		n++
		if n%1e6 == 0 {
			c = courierOf(b, courier.Config{Queue: 1 << 40})
		}
	}
	fmt.Printf("figure record_cpu_ns %d ns\n", (cpu(b)-began).Nanoseconds()/int64(n))
}

func cpu(t testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
