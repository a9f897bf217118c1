package stream_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/controlplane/stream"
	"github.com/sallyport/sallyport/internal/identity/issuer"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
)

// patient makes a service that waits for everyone.
func patient(s *stream.Service) { s.Limits(patience, patience, patience) }

func TestStrangers(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	other, err := issuer.New(issuer.Config{DevelopmentOnly: true, TrustDomain: domain, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	forged, err := other.Issue(awsID, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for name, certificates := range map[string][]tls.Certificate{"without a certificate": nil, "with one of another authority": {forged}} {
		c := l.clientWith(&tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: certificates}, l.address)
		if _, err := c.Register(t.Context(), connect.NewRequest(&proxyv1.RegisterRequest{Instance: "i", ProtocolVersion: 1})); err == nil {
			t.Errorf("%s: registered", name)
		}
	}
}

// A listener that asks for no certificate lets nobody in either.
func TestWithoutAnIdentity(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	certificate, err := l.issuer.IssueServerCertificate([]string{"127.0.0.1"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(l.service.Handler())
	address := l.listen(mux, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2", "http/1.1"}})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(l.issuer.ServerCAPEM())
	c := l.clientWith(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots}, address)
	for path, body := range map[string]string{
		"/sallyport.proxy.v1.ProxyService/Register": `{"instance":"i","protocolVersion":1}`,
		"/sallyport.proxy.v1.ProxyService/Stream":   "",
		"/sallyport.proxy.v1.ProxyService/Other":    "",
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+address+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		response, err := c.transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %s", path, response.Status)
		}
	}
}

func TestRegister(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	c := l.client(nobodyID, time.Hour)
	register := func(req *proxyv1.RegisterRequest) (*proxyv1.RegisterResponse, error) {
		t.Helper()
		res, err := c.Register(t.Context(), connect.NewRequest(req))
		if err != nil {
			return nil, err
		}
		return res.Msg, nil
	}
	good := &proxyv1.RegisterRequest{Instance: "i", Build: "1.0", ProtocolVersion: 1}
	got, err := register(good)
	if err != nil || got.GetAdmission() != proxyv1.Admission_ADMISSION_PENDING || got.GetEnvironment() != "" || got.GetRetryAfter().AsDuration() <= 0 {
		t.Errorf("not enrolled: %v, %v", got, err)
	}
	if p := l.known(nobodyID, "i"); p.GetConnection() != adminv1.Connection_CONNECTION_PENDING {
		t.Errorf("it is known as %v", p)
	}
	l.enroll("nobody", string(nobodyID), "aws")
	eventually(t, "it is admitted", func() bool {
		got, err = register(good)
		return err == nil && got.GetAdmission() == proxyv1.Admission_ADMISSION_ADMITTED && got.GetEnvironment() == "aws"
	})
	if got.GetProtocolVersion() != 1 || len(l.known(nobodyID, "i").GetLacks()) == 0 {
		t.Errorf("of protocol 1: %v, known as %v", got, l.known(nobodyID, "i"))
	}
	for name, bad := range map[string]*proxyv1.RegisterRequest{
		"no instance":         {ProtocolVersion: 1},
		"instance with a #":   {Instance: "a#b", ProtocolVersion: 1},
		"instance with a NUL": {Instance: "a\x00", ProtocolVersion: 1},
		"long instance":       {Instance: strings.Repeat("a", 254), ProtocolVersion: 1},
		"long build":          {Instance: "i", Build: strings.Repeat("a", 257), ProtocolVersion: 1},
		"no protocol version": {Instance: "i"},
	} {
		if _, err := register(bad); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := register(&proxyv1.RegisterRequest{Instance: "i", Build: strings.Repeat("a", 5<<20), ProtocolVersion: 1}); connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("5 MiB: %v", err)
	}
}

func TestBeforeEnrollmentsAreKnown(t *testing.T) {
	t.Parallel()
	l := build(t)
	l.serve()
	c := l.client(awsID, time.Hour)
	_, err := c.Register(t.Context(), connect.NewRequest(&proxyv1.RegisterRequest{Instance: "i", ProtocolVersion: 1}))
	if connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("register: %v", err)
	}
	l.stream(c, "i", nil).over(connect.CodeUnavailable, "not known yet")
}

func TestStreamBegins(t *testing.T) {
	t.Parallel()
	l := newLab(t, patient)
	l.publish(aws(t, 1, documents{"a": "1"}))
	l.served("aws", 1)
	l.connect(nobodyID, "i", nil).over(connect.CodePermissionDenied, "no enrollment")
	for name, first := range map[string]*proxyv1.StreamRequest{
		"nothing said":      {},
		"not a hello":       {Message: &proxyv1.StreamRequest_Ack{Ack: &proxyv1.Ack{}}},
		"no instance":       {Message: &proxyv1.StreamRequest_Hello{Hello: &proxyv1.Hello{}}},
		"instance with a #": {Message: &proxyv1.StreamRequest_Hello{Hello: &proxyv1.Hello{Instance: "a#b"}}},
		"a bad statement": {Message: &proxyv1.StreamRequest_Hello{Hello: &proxyv1.Hello{
			Instance: "i", Current: &proxyv1.Ack{HeadDigest: make([]byte, 33)},
		}}},
	} {
		p := l.dial(l.client(awsID, time.Hour))
		p.say(first)
		go p.receive()
		p.over(connect.CodeInvalidArgument, "")
		if t.Failed() {
			t.Fatalf("with %s", name)
		}
	}
	p := l.connect(awsID, "i", nil)
	p.updated(1, nil)
	p.say(&proxyv1.StreamRequest{Message: &proxyv1.StreamRequest_Hello{Hello: &proxyv1.Hello{Instance: "i"}}})
	p.over(connect.CodeInvalidArgument, "second hello")
	p = l.connect(awsID, "i", nil)
	p.updated(1, nil)
	p.ack(func(a *proxyv1.Ack) { a.ReceivedRoot = make([]byte, 33) })
	p.over(connect.CodeInvalidArgument, "received_root")
}

func TestFullSnapshotThenDeltas(t *testing.T) {
	t.Parallel()
	l := newLab(t, patient)
	d := documents{}
	for i := range 3000 {
		d[fmt.Sprint("d-", i)] = strings.Repeat("x", 500) // more than one part
	}
	first := aws(t, 1, d)
	l.publish(first)
	p := l.connect(awsID, "i", nil)
	if n := p.updated(1, nil); n != 3000 {
		t.Errorf("%d documents came", n)
	}
	p.ack()
	l.enforcement(awsID, "i", adminv1.Enforcement_ENFORCEMENT_ENFORCED)
	d["d-7"] = "changed"
	delete(d, "d-8")
	second := aws(t, 4, d)
	l.publish(second)
	if n := p.updated(4, first); n != 1 {
		t.Errorf("%d documents came", n)
	}
	if p.current.Set().Root() != second.Set().Root() {
		t.Error("the update leads elsewhere")
	}
	p.ack()
	eventually(t, "it is acknowledged", func() bool { return l.known(awsID, "i").GetRevision() == 4 })

	// One that is current is sent nothing: the next thing it hears of is news.
	current := l.connect(awsID, "current", second)
	l.enforcement(awsID, "current", adminv1.Enforcement_ENFORCEMENT_ENFORCED)
	// One that is behind, but not far, is sent what changed.
	behind := l.connect(awsID, "behind", first)
	behind.updated(4, first)
	// One of which nothing is known is sent everything.
	stranger := l.connect(awsID, "stranger", statement{"aws", 2, signer(2)}.of(t, d))
	stranger.current = nil
	stranger.updated(4, nil)
	third := aws(t, 5, documents{"d-1": "alone"})
	l.publish(third)
	current.updated(5, second)
	p.updated(5, second)
	for name, want := range map[string]adminv1.Enforcement{"i": adminv1.Enforcement_ENFORCEMENT_ENFORCED, "current": adminv1.Enforcement_ENFORCEMENT_ENFORCED, "stranger": adminv1.Enforcement_ENFORCEMENT_UNSPECIFIED} {
		l.enforcement(awsID, name, want)
	}
}

func TestOnePushAtATime(t *testing.T) {
	t.Parallel()
	l := newLab(t, patient)
	first := aws(t, 1, documents{"a": "1"})
	l.publish(first)
	p := l.connect(awsID, "i", nil)
	p.updated(1, nil)
	for r := range snapshot.Revision(5) {
		l.publish(aws(t, r+2, documents{"a": fmt.Sprint(r + 2)}))
		l.served("aws", r+2)
	}
	// An ack of what was before is no answer.
	p.say(&proxyv1.StreamRequest{Message: &proxyv1.StreamRequest_Ack{Ack: ackOf(statement{"aws", 0, ours}.of(t, nil))}})
	p.beat()
	eventually(t, "the ack was heard", func() bool { return l.log.count("environment=aws revision=0 enforcement=") == 1 })
	if l.log.count("update pushed") != 1 {
		t.Errorf("pushed before the last was acknowledged: %s", l.log)
	}
	p.ack()
	p.updated(6, first)
	p.ack()
	l.enforcement(awsID, "i", adminv1.Enforcement_ENFORCEMENT_ENFORCED)
	if n := l.log.count("update pushed"); n != 2 {
		t.Errorf("%d pushes", n)
	}
}

func TestRefusal(t *testing.T) {
	t.Parallel()
	l := newLab(t, patient)
	second := aws(t, 2, documents{"a": "2", "b": "1"})
	l.publish(second)
	l.served("aws", 2)
	l.publish(aws(t, 3, documents{"a": "3", "b": "1"}))
	p := l.connect(awsID, "i", second)
	p.updated(3, second)
	p.current = second
	p.refuse(3)
	// It says once more what it has, since that is on disk now: no delta from
	// that comes of it.
	p.ack(func(a *proxyv1.Ack) { a.PersistedRevision = 2 })
	p.current = nil
	p.updated(3, nil)
	p.current = second
	eventually(t, "the refusal is known", func() bool { return strings.Contains(l.known(awsID, "i").GetRefusal(), "root_mismatch") })
	p.ack(func(a *proxyv1.Ack) { a.PersistedRevision = 2 })
	p.refuse(3)
	p.over(connect.CodeFailedPrecondition, "a full snapshot was refused")

	// After one that it takes, deltas are sent again.
	p = l.connect(awsID, "i", second)
	p.updated(3, second)
	p.refuse(3)
	p.current = nil
	p.updated(3, nil)
	p.ack()
	l.enforcement(awsID, "i", adminv1.Enforcement_ENFORCEMENT_ENFORCED)
	third := p.current
	l.publish(aws(t, 4, documents{"a": "4", "b": "1"}))
	p.updated(4, third)
	p.ack()
	eventually(t, "it is known", func() bool { return l.known(awsID, "i").GetRevision() == 4 })
	p.refuse(4)
	p.over(connect.CodeFailedPrecondition, "nothing was sent")

	// What was sent whole from the beginning need not be sent whole again.
	p = l.connect(awsID, "other", nil)
	p.updated(4, nil)
	p.refuse(4)
	p.over(connect.CodeFailedPrecondition, "a full snapshot was refused")
}

func TestEnvironmentsAreApart(t *testing.T) {
	t.Parallel()
	l := newLab(t, patient)
	gcp := func(r snapshot.Revision, d documents) *snapshot.Snapshot { return statement{"gcp", r, ours}.of(t, d) }
	l.publish(gcp(1, documents{"gcp-only": "1"}))
	l.served("gcp", 1)
	a := l.connect(awsID, "i", nil)
	g := l.connect(gcpID, "i", nil)
	g.updated(1, nil)
	g.ack()
	l.publish(gcp(2, documents{"gcp-only": "2"}))
	l.served("gcp", 2)
	l.publish(aws(t, 3, documents{"aws-only": "1"}))
	a.updated(3, nil)
	a.ack()
	g.updated(2, g.current)
	g.ack()
	// Whoever can write to etcd cannot mix them either.
	l.publishRaw("aws", l.published("gcp"))
	l.publish(gcp(9, documents{"gcp-only": "9"}))
	g.updated(9, g.current)
	l.publishRaw("aws", l.published("gcp"))
	eventually(t, "it was refused", func() bool { return l.log.count("it is of environment gcp") == 2 })
	if err := l.etcd.Publish(t.Context(), ours.Verifier(), aws(t, 10, documents{"aws-only": "2"})); err != nil {
		t.Fatal(err)
	}
	a.updated(10, a.current)
	for e := range a.current.Set().All() {
		if e.Key.Name != "aws-only" {
			t.Errorf("the proxy of aws got %s", e.Key)
		}
	}
}

func TestDrain(t *testing.T) {
	t.Parallel()
	l := newLab(t, patient)
	l.publish(aws(t, 1, documents{"a": "1"}))
	p := l.connect(awsID, "i", nil)
	p.updated(1, nil)
	l.service.Drain()
	l.service.Drain()
	if p.next().GetDirective().GetReconnect().GetWithin().AsDuration() <= 0 {
		t.Error("no directive to reconnect")
	}
	p.over(connect.CodeUnavailable, "this replica is ending")
	eventually(t, "it is lost", func() bool { return l.known(awsID, "i").GetConnection() == adminv1.Connection_CONNECTION_LOST })
	late := l.connect(awsID, "late", nil)
	late.over(connect.CodeUnavailable, "this replica is ending")
}

func TestSlowReceiverIsCutOff(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(s *stream.Service) { s.Limits(patience, 4*time.Second, patience) })
	d := documents{}
	for i := range 100 {
		d[fmt.Sprint("d-", i)] = strings.Repeat("x", 100<<10)
	}
	l.publish(aws(t, 1, d))
	l.served("aws", 1)
	c := l.client(awsID, time.Hour, func(t *http.Transport) { t.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10} })
	slow := func(instance string) {
		t.Helper()
		p := l.dial(c)
		p.say(&proxyv1.StreamRequest{Message: &proxyv1.StreamRequest_Hello{Hello: &proxyv1.Hello{Instance: instance}}})
	}
	lost := func(instance string) {
		t.Helper()
		eventually(t, instance+" is lost", func() bool {
			return l.known(awsID, instance).GetConnection() == adminv1.Connection_CONNECTION_LOST
		})
	}
	slow("slow")
	// Others are not held up meanwhile.
	quick := l.connect(awsID, "quick", nil)
	quick.updated(1, nil)
	quick.ack()
	lost("slow")
	l.enforcement(awsID, "quick", adminv1.Enforcement_ENFORCEMENT_ENFORCED)
	slow("another")
	lost("another")
	l.publish(aws(t, 2, documents{"a": "1"}))
	quick.updated(2, quick.current)
}

func TestSilentProxyIsCutOff(t *testing.T) {
	t.Parallel()
	const silence = 5 * time.Second
	l := newLab(t, func(s *stream.Service) { s.Limits(silence, patience, patience) })
	began := time.Now()
	silent, p := l.connect(awsID, "silent", nil), l.connect(awsID, "i", nil)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		silent.over(connect.CodeUnavailable, "fell silent")
	}()
	for done := false; !done; {
		p.beat()
		select {
		case <-gone:
			done = true
		case <-time.After(silence / 50):
		}
	}
	if took := time.Since(began); took < silence {
		t.Errorf("it was cut off after %s", took)
	}
	p.beat()
	if l.known(awsID, "i").GetConnection() != adminv1.Connection_CONNECTION_CONNECTED {
		t.Error("one that speaks is lost")
	}
}

// Who opens a stream, or sends a request, and says nothing holds nothing.
func TestSilentFromTheBeginning(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(s *stream.Service) { s.Limits(patience, 200*time.Millisecond, patience) })
	p := l.dial(l.client(awsID, time.Hour))
	if err := p.stream.Send(nil); err != nil { // headers alone
		t.Fatal(err)
	}
	go p.receive()
	p.over(connect.CodeUnavailable, "fell silent")
}

func TestUpdateThatIsNeverAcknowledged(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(s *stream.Service) { s.Limits(patience, patience, 3*time.Second) })
	idle := l.connect(awsID, "idle", nil) // nothing to acknowledge, nothing overdue
	eventually(t, "it is connected", func() bool { return l.known(awsID, "idle") != nil })
	l.publish(statement{"gcp", 1, ours}.of(t, documents{"a": "1"}))
	p := l.connect(gcpID, "i", nil)
	p.updated(1, nil)
	p.over(connect.CodeUnavailable, "not acknowledged in time")
	if l.known(awsID, "idle").GetConnection() != adminv1.Connection_CONNECTION_CONNECTED {
		t.Error("the idle one is lost")
	}
	// One that answers in time stays, however long it was idle before.
	p = l.connect(gcpID, "i", nil)
	p.updated(1, nil)
	p.ack()
	l.enforcement(gcpID, "i", adminv1.Enforcement_ENFORCEMENT_ENFORCED)
	l.publish(aws(t, 1, documents{"a": "1"}))
	idle.updated(1, nil)
	idle.over(connect.CodeUnavailable, "not acknowledged in time")
	if l.known(gcpID, "i").GetConnection() != adminv1.Connection_CONNECTION_CONNECTED {
		t.Error("one that has answered is lost")
	}
}

func TestCertificateExpires(t *testing.T) {
	t.Parallel()
	l := newLab(t, patient)
	l.publish(aws(t, 1, documents{"a": "1"}))
	short := l.client(awsID, 10*time.Second)
	p := l.stream(short, "i", nil)
	p.updated(1, nil)
	p.ack()
	l.enforcement(awsID, "i", adminv1.Enforcement_ENFORCEMENT_ENFORCED)
	p.over(connect.CodeUnavailable, "certificate has expired")
	if _, err := short.Register(t.Context(), connect.NewRequest(&proxyv1.RegisterRequest{Instance: "i", ProtocolVersion: 1})); err == nil {
		t.Error("registered by a connection whose certificate has expired")
	}
}

func TestEnrollmentIsWithdrawn(t *testing.T) {
	t.Parallel()
	l := newLab(t, patient)
	l.publish(aws(t, 1, documents{"a": "1"}))
	a, g := l.connect(awsID, "i", nil), l.connect(gcpID, "i", nil)
	a.updated(1, nil)
	a.ack()
	l.enroll("aws", "spiffe://prod.example/proxy/aws/*", "aws", "tier=gold")
	eventually(t, "its labels are known", func() bool { return l.known(awsID, "i").GetLabels()["tier"] == "gold" })
	l.enroll("aws", "spiffe://prod.example/proxy/aws/*", "gcp")
	a.over(connect.CodeUnavailable, "now belongs to environment gcp")
	moved := l.connect(awsID, "i", nil)
	eventually(t, "it is in gcp", func() bool { return l.known(awsID, "i").GetEnvironment() == "gcp" })
	l.commit(storage.Change{Key: enrollmentKey("aws"), Delete: true})
	moved.over(connect.CodePermissionDenied, "no enrollment")
	l.enroll("conflict", string(gcpID), "aws")
	g.over(connect.CodePermissionDenied, "enrollments name aws and gcp")
}

func TestLaterStreamTakesThePlace(t *testing.T) {
	t.Parallel()
	l := newLab(t, patient)
	l.publish(aws(t, 1, documents{"a": "1"}))
	first := l.connect(awsID, "i", nil)
	first.updated(1, nil)
	other := l.connect(awsID, "other", nil)
	second := l.connect(awsID, "i", nil)
	first.over(connect.CodeUnavailable, "taken its place")
	second.updated(1, nil)
	second.ack()
	l.enforcement(awsID, "i", adminv1.Enforcement_ENFORCEMENT_ENFORCED)
	other.updated(1, nil)
}

// A replica that has just started is told by its proxies what they enforce
// before it has read the snapshot.
func TestAckBeforeTheSnapshot(t *testing.T) {
	t.Parallel()
	l := newLab(t, patient)
	snap := aws(t, 7, documents{"a": "1"})
	fork := aws(t, 7, documents{"a": "2"})
	p := l.connect(awsID, "i", snap)
	forked := l.connect(awsID, "forked", fork)
	eventually(t, "both are known", func() bool { return l.known(awsID, "i") != nil && l.known(awsID, "forked") != nil })
	l.publish(snap)
	l.enforcement(awsID, "i", adminv1.Enforcement_ENFORCEMENT_ENFORCED)
	l.enforcement(awsID, "forked", adminv1.Enforcement_ENFORCEMENT_DRIFT)
	// Nothing was pushed, and what comes now builds on it.
	next := aws(t, 8, documents{"a": "3"})
	l.publish(next)
	p.updated(8, snap)
	forked.current = nil
	forked.updated(8, nil)
}

func TestDriftIsSeen(t *testing.T) {
	t.Parallel()
	l := newLab(t, patient)
	snap := aws(t, 1, documents{"a": "1", "b": "1"})
	l.publish(snap)
	p := l.connect(awsID, "i", nil)
	p.updated(1, nil)
	other := aws(t, 1, documents{"a": "1"}).Head().Root
	p.ack(func(a *proxyv1.Ack) { a.EnforcedRoot = other[:] })
	l.enforcement(awsID, "i", adminv1.Enforcement_ENFORCEMENT_DRIFT)
	p.ack()
	l.enforcement(awsID, "i", adminv1.Enforcement_ENFORCEMENT_ENFORCED)
	p.ack(func(a *proxyv1.Ack) {
		a.EnforcedRoot = other[:]
		a.Rejects = []*proxyv1.Reject{{Key: &proxyv1.DocumentKey{Kind: "Policy", Namespace: "shop", Name: "b"}, Reason: "too new"}}
	})
	l.enforcement(awsID, "i", adminv1.Enforcement_ENFORCEMENT_ENFORCED_WITH_REJECTS)
}

func TestFreshnessIsRelayed(t *testing.T) {
	t.Parallel()
	l := newLab(t, patient)
	snap := aws(t, 1, documents{"a": "1"})
	l.publish(snap)
	l.served("aws", 1)
	confirm := func(environment string, f *proxyv1.SignedFreshness) {
		t.Helper()
		if err := l.etcd.PublishFreshness(t.Context(), environment, f); err != nil {
			t.Fatal(err)
		}
	}
	at := time.Now().Truncate(time.Second)
	confirm("aws", freshness(t, snap, at))
	eventually(t, "it is known", func() bool { return l.hub.State("aws").Freshness != nil })
	p := l.connect(awsID, "i", nil)
	p.updated(1, nil) // what is urgent comes first
	heard := func() time.Time {
		t.Helper()
		f, err := ours.Verifier().VerifyFreshness(p.next().GetFreshness())
		if err != nil {
			t.Fatal(err)
		}
		return f.IssuedAt
	}
	if got := heard(); !got.Equal(at) {
		t.Errorf("issued at %s, want %s", got, at)
	}
	p.ack() // wakes the sender, which has nothing new to say
	l.enforcement(awsID, "i", adminv1.Enforcement_ENFORCEMENT_ENFORCED)
	forged := freshness(t, snap, at.Add(time.Minute))
	forged.Signature[0] ^= 1
	confirm("aws", forged)
	eventually(t, "a forged one is refused", func() bool { return l.log.count("signature does not verify") == 1 })
	confirm("aws", freshness(t, snap, at.Add(time.Hour)))
	eventually(t, "one from the future is refused", func() bool { return l.log.count("it is from the future") == 1 })
	confirm("aws", freshness(t, statement{"gcp", 1, ours}.of(t, nil), at.Add(time.Second)))
	eventually(t, "a foreign one is refused", func() bool { return l.log.count("it is of environment gcp") == 1 })
	confirm("aws", freshness(t, snap, at.Add(-time.Second)))
	confirm("aws", freshness(t, snap, at.Add(2*time.Second)))
	if got := heard(); !got.Equal(at.Add(2 * time.Second)) {
		t.Errorf("issued at %s, want %s", got, at.Add(2*time.Second))
	}
	if n := l.log.count("freshness in etcd was refused"); n != 3 {
		t.Errorf("%d refusals were said, want one each", n)
	}
}
