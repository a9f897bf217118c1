package registry_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/postgres"
	"github.com/sallyport/sallyport/storage/storagetest"
)

func TestAdmit(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(
		enroll(t, "a-all", "spiffe://prod.example/proxy/aws/**", "aws", "cloud=aws", "tier=any"),
		enroll(t, "b-gold", "spiffe://prod.example/proxy/aws/gold/*", "aws", "tier=gold"),
		enroll(t, "gcp", "spiffe://prod.example/proxy/gcp/*", "gcp"),
		enroll(t, "both-1", "spiffe://prod.example/both/**", "aws"),
		enroll(t, "both-2", "spiffe://prod.example/both/torn", "gcp"),
		enroll(t, "other-domain", "spiffe://other.example/proxy/*", "aws"),
	)
	r := l.ready("a")
	type check struct {
		id, environment string
		labels          map[string]string
	}
	for _, c := range []check{
		{"spiffe://prod.example/proxy/aws/one", "aws", map[string]string{"cloud": "aws", "tier": "any"}},
		{"spiffe://prod.example/proxy/aws/gold/one", "aws", map[string]string{"cloud": "aws", "tier": "gold"}},
		{"spiffe://prod.example/proxy/gcp/one", "gcp", map[string]string{}},
		{"spiffe://prod.example/proxy/gcp/one/two", "", nil},
		{"spiffe://prod.example/proxy/gcp", "", nil},
		{"spiffe://prod.example/both/one", "aws", map[string]string{}},
		{"spiffe://prod.example/both/torn", "", nil}, // two environments claim it
		{"spiffe://other.example/proxy/one", "aws", map[string]string{}},
		{"spiffe://prod.example/Proxy/gcp/one", "", nil},
		{"spiffe://prod.example.evil/proxy/gcp/one", "", nil},
		{"", "", nil},
	} {
		a, err := r.Admit(c.id)
		if admitted := c.environment != ""; admitted != (err == nil) || !admitted && !errors.Is(err, registry.ErrNotAdmitted) {
			t.Errorf("%s: %v", c.id, err)
		}
		if a.Environment != c.environment || !maps.Equal(a.Labels, c.labels) || a.Changed == nil {
			t.Errorf("%s: got %q %v", c.id, a.Environment, a.Labels)
		}
	}
}

func TestNobodyIsAdmittedBeforeEnrollmentsAreKnown(t *testing.T) {
	t.Parallel()
	r := registry.New(registry.Config{})
	if _, err := r.Admit(one); !errors.Is(err, registry.ErrNotAdmitted) || r.Ready() {
		t.Errorf("got %v, ready %v", err, r.Ready())
	}
}

func TestAdmissionFollowsEnrollments(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	r := l.ready("a")
	l.admitted(r, one, "")
	l.commit(enroll(t, "e", "spiffe://prod.example/proxy/aws/*", "aws"))
	a := l.admitted(r, one, "aws")
	l.commit(enroll(t, "e", "spiffe://prod.example/proxy/aws/*", "gcp"))
	<-a.Changed
	a = l.admitted(r, one, "gcp")
	l.commit(storage.Change{Key: enrollmentKey("e"), Delete: true})
	<-a.Changed
	l.admitted(r, one, "")
}

func TestManyEnrollments(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var all []storage.Change
	for i := range 2100 { // more than two pages
		all = append(all, enroll(t, fmt.Sprintf("e-%04d", i), fmt.Sprintf("spiffe://prod.example/proxy/%d", i), "aws"))
	}
	l.commit(all...)
	r := l.ready("a")
	for _, i := range []int{0, 999, 1000, 1001, 2099} {
		l.admitted(r, fmt.Sprintf("spiffe://prod.example/proxy/%d", i), "aws")
	}
	l.admitted(r, "spiffe://prod.example/proxy/2100", "")
}

// What other commits change wakes nobody up.
func TestOtherCommitsChangeNoAdmission(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "e", "spiffe://prod.example/proxy/aws/*", "aws"))
	r := l.ready("a")
	a := l.admitted(r, one, "aws")
	e := document(t, "p")
	l.commit(storage.Change{Key: e.Key, Document: e.Document, Digest: e.Digest, Scope: storage.Scope{All: true}})
	l.commit(enroll(t, "f", "spiffe://prod.example/proxy/gcp/*", "gcp"))
	l.admitted(r, "spiffe://prod.example/proxy/gcp/one", "gcp")
	b, err := r.Admit(one)
	if err != nil {
		t.Fatal(err)
	}
	<-a.Changed
	e = document(t, "q")
	l.commit(storage.Change{Key: e.Key, Document: e.Document, Digest: e.Digest, Scope: storage.Scope{All: true}})
	l.commit(enroll(t, "e", "spiffe://prod.example/proxy/aws/*", "onprem"))
	l.admitted(r, one, "onprem")
	<-b.Changed
}

// An enrollment of which a later build says more than this one understands is
// not half understood.
func TestEnrollmentThatIsNotUnderstood(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	good := enroll(t, "good", "spiffe://prod.example/proxy/gcp/*", "gcp")
	bad := enroll(t, "bad", "spiffe://prod.example/proxy/aws/*", "aws")
	bad.Document = append(bad.Document, 0xfa, 0x3f, 1, 'x') // field 127
	bad.Digest = snapshot.DocumentDigest(bad.Document)
	l.commit(good, bad)
	r := l.ready("a")
	l.admitted(r, "spiffe://prod.example/proxy/gcp/one", "gcp")
	l.admitted(r, one, "")
	if r.log.count("enrollment was left out") != 1 {
		t.Errorf("log: %s", r.log)
	}
	l.commit(enroll(t, "bad", "spiffe://prod.example/proxy/aws/*", "aws"))
	l.admitted(r, one, "aws")
}

func TestRegister(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	r := l.ready("a")
	reg := registry.Registration{SPIFFEID: one, Instance: "i-1", Build: "1.0", ProtocolVersion: 1}
	if _, err := r.Register(reg); !errors.Is(err, registry.ErrNotAdmitted) {
		t.Fatalf("got %v", err)
	}
	p := l.proxy(r, one, "i-1")
	if p.GetConnection() != adminv1.Connection_CONNECTION_PENDING || p.GetEnvironment() != "" || p.GetBuild() != "1.0" {
		t.Errorf("pending: %v", p)
	}
	if _, err := r.Register(reg); err == nil {
		t.Fatal("admitted")
	}
	if n := r.log.count("proxy is pending"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
	l.commit(enroll(t, "e", "spiffe://prod.example/proxy/aws/*", "aws", "cloud=aws"))
	l.admitted(r, one, "aws")
	reg.Build = "1.1"
	a, err := r.Register(reg)
	if err != nil || a.Environment != "aws" {
		t.Fatalf("got %v, %v", a, err)
	}
	p = l.proxy(r, one, "i-1")
	if p.GetConnection() != adminv1.Connection_CONNECTION_UNSPECIFIED || p.GetEnvironment() != "aws" ||
		p.GetBuild() != "1.1" || p.GetLabels()["cloud"] != "aws" {
		t.Errorf("admitted: %v", p)
	}
}

func TestInstanceNames(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "e", "spiffe://prod.example/proxy/aws/*", "aws"))
	r := l.ready("a")
	a := l.admitted(r, one, "aws")
	for name, ok := range map[string]bool{
		"i-1": true, "a": true, "A.b_c-9": true, strings.Repeat("x", 253): true,
		"": false, "-a": false, "a-": false, ".": false, "a b": false, "a#b": false, "a/b": false, "a\x00": false,
		"a\nb": false, "\u00e4": false, "a\xff": false, strings.Repeat("x", 254): false,
	} {
		reg := registry.Registration{SPIFFEID: one, Instance: name}
		_, err := r.Register(reg)
		s, errOpen := r.Open(reg, a)
		if ok != (err == nil) || ok != (errOpen == nil) || !ok && (!errors.Is(err, registry.ErrInstance) || !errors.Is(errOpen, registry.ErrInstance)) {
			t.Errorf("%q: %v, %v", name, err, errOpen)
		}
		if errOpen == nil {
			s.Close()
		}
	}
}

func TestInstancesAreBounded(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "e", "spiffe://prod.example/proxy/aws/*", "aws"))
	r := l.ready("a")
	a := l.admitted(r, one, "aws")
	reg := func(i int) registry.Registration {
		return registry.Registration{SPIFFEID: one, Instance: fmt.Sprint("i-", i)}
	}
	kept, err := r.Open(reg(0), a)
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	for i := range 999 {
		if _, err := r.Register(reg(i + 1)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Register(reg(1000)); !errors.Is(err, registry.ErrTooMany) {
		t.Errorf("register one more: %v", err)
	}
	if _, err := r.Open(reg(1000), a); !errors.Is(err, registry.ErrTooMany) {
		t.Errorf("open one more: %v", err)
	}
	if _, err := r.Register(reg(7)); err != nil {
		t.Errorf("one that is known: %v", err)
	}
	if _, err := r.Register(registry.Registration{SPIFFEID: two, Instance: "i-1"}); err != nil {
		t.Errorf("another SPIFFE ID: %v", err)
	}
	// What is in the database, and was not heard of for a while, is forgotten:
	// processes come and go.
	eventually(t, "all are saved", func() bool {
		all, err := l.store.Proxies(t.Context(), "", storage.Proxy{}, 2000)
		return err == nil && len(all) == 1001
	})
	l.clock.advance(registry.LostAfter + time.Second)
	if _, err := r.Register(registry.Registration{SPIFFEID: two, Instance: "i-1"}); err != nil { // something to save
		t.Fatal(err)
	}
	eventually(t, "only those with a stream are kept", func() bool { return r.Known() == 2 })
	if _, err := r.Open(reg(1000), a); err != nil {
		t.Errorf("another one: %v", err)
	}
	if p := l.proxy(r, one, "i-7"); p.GetInstance() != "i-7" {
		t.Errorf("one that is not in memory: %v", p)
	}
	if p := l.proxy(r, one, "i-0"); p.GetConnection() != adminv1.Connection_CONNECTION_CONNECTED {
		t.Errorf("the one with a stream: %v", p)
	}
}

func TestSessions(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "e", "spiffe://prod.example/proxy/aws/*", "aws"))
	r := l.ready("a")
	l.admitted(r, one, "aws")
	if _, err := r.Register(registry.Registration{SPIFFEID: one, Instance: "i", Build: "1.0"}); err != nil {
		t.Fatal(err)
	}
	connection := func() adminv1.Connection { return l.proxy(r, one, "i").GetConnection() }
	first := open(t, r, one, "i")
	if connection() != adminv1.Connection_CONNECTION_CONNECTED || l.proxy(r, one, "i").GetBuild() != "1.0" {
		t.Errorf("connected: %v", l.proxy(r, one, "i"))
	}
	snap := at(t, 7, "p")
	if got := first.Acked(ackOf(snap), snap); got != adminv1.Enforcement_ENFORCEMENT_ENFORCED {
		t.Errorf("got %v", got)
	}

	second := open(t, r, one, "i")
	<-first.Replaced()
	first.Acked(ackOf(at(t, 3, "p")), nil)
	first.Refused(&proxyv1.Refusal{Reason: "late"})
	first.Beat(&proxyv1.Heartbeat{Listeners: []*proxyv1.ListenerStatus{{Name: "late"}}})
	first.Judged(ackOf(snap), nil)
	first.Admitted(registry.Admission{Environment: "late"})
	first.Close()
	p := l.proxy(r, one, "i")
	if p.GetConnection() != adminv1.Connection_CONNECTION_CONNECTED || p.GetRevision() != 0 || p.GetRefusal() != "" ||
		len(p.GetListeners()) > 0 || p.GetEnvironment() != "aws" || p.GetEnforcement() != adminv1.Enforcement_ENFORCEMENT_UNSPECIFIED {
		t.Errorf("what the earlier stream said counts: %v", p)
	}
	select {
	case <-second.Replaced():
		t.Error("the later one was replaced")
	default:
	}
	second.Close()
	if connection() != adminv1.Connection_CONNECTION_LOST {
		t.Errorf("closed, it is %v", connection())
	}
	second.Close()
	if _, err := r.Register(registry.Registration{SPIFFEID: one, Instance: "i"}); err != nil || connection() != adminv1.Connection_CONNECTION_LOST {
		t.Errorf("registered again, it is %v, %v", connection(), err)
	}
	third := open(t, r, one, "i")
	defer third.Close()
	if connection() != adminv1.Connection_CONNECTION_CONNECTED {
		t.Errorf("back, it is %v", connection())
	}
	l.commit(storage.Change{Key: enrollmentKey("e"), Delete: true})
	l.admitted(r, one, "")
	if _, err := r.Register(registry.Registration{SPIFFEID: one, Instance: "i"}); err == nil || connection() != adminv1.Connection_CONNECTION_CONNECTED {
		t.Errorf("refused, but with a stream, it is %v, %v", connection(), err)
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	snap, other := at(t, 7, "p", "q", "r"), at(t, 7, "p", "q")
	root := func(s *snapshot.Snapshot) []byte { r := s.Head().Root; return r[:] }
	ack := func(change ...func(*proxyv1.Ack)) *proxyv1.Ack { return ackOf(snap, change...) }
	const (
		enforced    = adminv1.Enforcement_ENFORCEMENT_ENFORCED
		withRejects = adminv1.Enforcement_ENFORCEMENT_ENFORCED_WITH_REJECTS
		drift       = adminv1.Enforcement_ENFORCEMENT_DRIFT
		unknown     = adminv1.Enforcement_ENFORCEMENT_UNSPECIFIED
	)
	for what, c := range map[string]struct {
		ack   *proxyv1.Ack
		known *snapshot.Snapshot
		want  adminv1.Enforcement
	}{
		"all of it":                         {ack(), snap, enforced},
		"a snapshot that is not known here": {ack(), nil, unknown},
		"another received root":             {ack(func(a *proxyv1.Ack) { a.ReceivedRoot = root(other) }), snap, drift},
		"another enforced root":             {ack(func(a *proxyv1.Ack) { a.EnforcedRoot = root(other) }), snap, drift},
		"no received root":                  {ack(func(a *proxyv1.Ack) { a.ReceivedRoot = nil }), snap, drift},
		"no enforced root":                  {ack(func(a *proxyv1.Ack) { a.EnforcedRoot = nil }), snap, drift},
		"half an enforced root":             {ack(func(a *proxyv1.Ack) { a.EnforcedRoot = a.GetEnforcedRoot()[:16] }), snap, drift},
		"another revision":                  {ack(func(a *proxyv1.Ack) { a.Revision = 8 }), snap, drift},
		"another epoch":                     {ack(func(a *proxyv1.Ack) { a.Epoch = 2 }), snap, drift},
		"another head":                      {ack(func(a *proxyv1.Ack) { a.HeadDigest = root(other) }), snap, drift},
		"no head":                           {ack(func(a *proxyv1.Ack) { a.HeadDigest = nil }), snap, drift},
		"another snapshot there":            {ackOf(other), snap, drift},
		"a reject":                          {ack(rejecting(snap, "q")), snap, withRejects},
		"all rejected":                      {ack(rejecting(snap, "p", "q", "r")), snap, withRejects},
		"a reject, named twice":             {ack(rejecting(snap, "q", "q")), snap, withRejects},
		"a reject that is not there":        {ack(rejecting(snap, "made-up")), snap, drift},
		"a reject, and one that is not":     {ack(rejecting(snap, "q", "made-up")), snap, drift},
		"rejects that it enforces": {ack(rejecting(snap, "q"), func(a *proxyv1.Ack) {
			a.EnforcedRoot = root(snap)
		}), snap, drift},
		"fewer rejects than it lacks": {ack(rejecting(snap, "q", "r"), func(a *proxyv1.Ack) { a.Rejects = a.GetRejects()[:1] }), snap, drift},
		"a document is missing":       {ack(rejecting(snap, "q"), func(a *proxyv1.Ack) { a.Rejects = nil }), snap, drift},
		"a reject without a key":      {ack(func(a *proxyv1.Ack) { a.Rejects = []*proxyv1.Reject{{}} }), snap, drift},
		"nothing":                     {&proxyv1.Ack{}, snap, drift},
	} {
		if got := registry.Judge(c.ack, c.known); got != c.want {
			t.Errorf("%s: %v, want %v", what, got, c.want)
		}
	}
}

func TestJudgedLater(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "e", "spiffe://prod.example/proxy/aws/*", "aws"))
	r := l.ready("a")
	l.admitted(r, one, "aws")
	s := open(t, r, one, "i")
	defer s.Close()
	snap := at(t, 7, "p")
	s.Acked(ackOf(snap), nil)
	heard := l.proxy(r, one, "i").GetLastSeenAt()
	l.clock.advance(time.Second)
	s.Judged(ackOf(snap), snap)
	p := l.proxy(r, one, "i")
	if p.GetEnforcement() != adminv1.Enforcement_ENFORCEMENT_ENFORCED || !proto.Equal(p.GetLastSeenAt(), heard) {
		t.Errorf("got %v", p)
	}
}

// What a hostile proxy says of itself is bounded, and breaks no listing.
func TestHostileWords(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "e", "spiffe://prod.example/proxy/aws/*", "aws"))
	r := l.ready("a")
	l.admitted(r, one, "aws")
	if _, err := r.Register(registry.Registration{SPIFFEID: one, Instance: "i", Build: strings.Repeat("\u00e4", 1000)}); err != nil {
		t.Fatal(err)
	}
	s := open(t, r, one, "i")
	defer s.Close()
	long := strings.Repeat("\u00e4", 100_000)
	ack := ackOf(at(t, 7, "p"))
	for range 20_000 {
		ack.Rejects = append(ack.Rejects, &proxyv1.Reject{
			Key: &proxyv1.DocumentKey{Kind: long, Namespace: long, Name: long}, Reason: long,
		})
	}
	s.Acked(ack, nil)
	s.Refused(&proxyv1.Refusal{Reason: long, Detail: long})
	beat := &proxyv1.Heartbeat{
		SentAt:            &timestamppb.Timestamp{Seconds: 1 << 60},
		ConfigurationAge:  &durationpb.Duration{Seconds: 1, Nanos: -1},
		IdentityExpiresAt: &timestamppb.Timestamp{Nanos: -1},
	}
	for range 1000 {
		beat.Listeners = append(beat.Listeners, &proxyv1.ListenerStatus{Namespace: long, Name: long, Address: long, Error: long})
	}
	s.Beat(beat)
	p := l.proxy(r, one, "i")
	if _, err := protojson.Marshal(p); err != nil {
		t.Errorf("as JSON: %v", err)
	}
	if size := proto.Size(p); size > 4<<20 {
		t.Errorf("the status takes %d bytes", size)
	}
	if p.GetClockSkew() != nil || p.GetConfigurationAge() != nil || p.GetIdentityExpiresAt() != nil {
		t.Errorf("times: %v %v %v", p.GetClockSkew(), p.GetConfigurationAge(), p.GetIdentityExpiresAt())
	}
	p.Replica = "" // the record has that by itself
	eventually(t, "it is saved", func() bool {
		record, err := l.store.Proxy(t.Context(), registry.ProxyID(one, "i"))
		return err == nil && len(record.Status) == proto.Size(p)
	})
}

func TestHeartbeat(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "e", "spiffe://prod.example/proxy/aws/*", "aws"))
	r := l.ready("a")
	l.admitted(r, one, "aws")
	s := open(t, r, one, "i")
	defer s.Close()
	expires := timestamppb.New(time.Now().Add(time.Hour))
	s.Beat(&proxyv1.Heartbeat{
		SentAt: timestamppb.New(l.clock.now().Add(-time.Minute)), ConfigurationAge: durationpb.New(3 * time.Second), IdentityExpiresAt: expires,
		Listeners: []*proxyv1.ListenerStatus{{Namespace: "shop", Name: "public", Address: ":443"}, {Namespace: "shop", Name: "taken", Error: "in use"}},
	})
	p := l.proxy(r, one, "i")
	skew := p.GetClockSkew().AsDuration()
	if skew > -time.Minute || skew < -2*time.Minute || p.GetConfigurationAge().AsDuration() != 3*time.Second ||
		!proto.Equal(p.GetIdentityExpiresAt(), expires) || len(p.GetListeners()) != 2 || p.GetListeners()[1].GetError() != "in use" {
		t.Errorf("got %v", p)
	}
	s.Beat(&proxyv1.Heartbeat{})
	if p := l.proxy(r, one, "i"); p.GetConfigurationAge() != nil || p.GetIdentityExpiresAt() != nil || p.GetClockSkew() != nil || len(p.GetListeners()) > 0 {
		t.Errorf("what is not known any more is still said: %v", p)
	}
}

func TestOtherReplicasReadTheRecords(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "e", "spiffe://prod.example/proxy/aws/*", "aws", "cloud=aws"))
	a, b := l.ready("a"), l.ready("b")
	l.admitted(a, one, "aws")
	if _, err := a.Register(registry.Registration{SPIFFEID: one, Instance: "i", Build: "1.0"}); err != nil {
		t.Fatal(err)
	}
	s := open(t, a, one, "i")
	snap := at(t, 7, "p")
	s.Acked(ackOf(snap), snap)
	want := l.proxy(a, one, "i")
	eventually(t, "the other replica knows it", func() bool { return proto.Equal(withoutRegistration(l.proxy(b, one, "i")), withoutRegistration(want)) })
	listed, err := b.Proxies(t.Context(), "aws", storage.Proxy{}, 10)
	if err != nil || len(listed) != 1 || !proto.Equal(withoutRegistration(listed[0]), withoutRegistration(want)) {
		t.Errorf("listed: %v, %v", listed, err)
	}
	if listed, err := b.Proxies(t.Context(), "gcp", storage.Proxy{}, 10); err != nil || len(listed) != 0 {
		t.Errorf("listed in another environment: %v, %v", listed, err)
	}
	if _, err := b.Proxy(t.Context(), "nobody#i"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}

	// A replica that is gone says nothing any more of its proxies.
	l.clock.advance(registry.LostAfter - time.Second)
	if l.proxy(b, one, "i").GetConnection() != adminv1.Connection_CONNECTION_CONNECTED {
		t.Error("lost too early")
	}
	l.clock.advance(2 * time.Second)
	if l.proxy(b, one, "i").GetConnection() != adminv1.Connection_CONNECTION_LOST {
		t.Error("still connected")
	}
	s.Beat(&proxyv1.Heartbeat{})
	eventually(t, "it is heard of again", func() bool { return l.proxy(b, one, "i").GetConnection() == adminv1.Connection_CONNECTION_CONNECTED })

	// It goes over to the other replica, and the first one hears of it later.
	there := open(t, b, one, "i")
	defer there.Close()
	eventually(t, "the first knows that it is elsewhere", func() bool {
		p := l.proxy(a, one, "i")
		return p.GetConnection() == adminv1.Connection_CONNECTION_CONNECTED && p.GetLastSeenAt().AsTime().Equal(l.proxy(b, one, "i").GetLastSeenAt().AsTime())
	})
	s.Close()
	there.Beat(&proxyv1.Heartbeat{})
	for _, r := range []*replica{a, b} {
		eventually(t, "it is connected", func() bool { return l.proxy(r, one, "i").GetConnection() == adminv1.Connection_CONNECTION_CONNECTED })
	}
}

// withoutRegistration returns p without the time of registration, which the
// database keeps to the microsecond.
func withoutRegistration(p *adminv1.Proxy) *adminv1.Proxy {
	if p == nil {
		return nil
	}
	p = proto.CloneOf(p)
	p.RegisteredAt = nil
	return p
}

func TestReplicaComesBack(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "e", "spiffe://prod.example/proxy/aws/*", "aws"))
	a, b := l.ready("a"), l.ready("b")
	l.admitted(a, one, "aws")
	l.admitted(b, two, "aws")
	first := open(t, a, one, "i")
	elsewhere := open(t, b, two, "i")
	defer elsewhere.Close()
	first.Acked(ackOf(at(t, 7, "p")), at(t, 7, "p"))
	for _, id := range []string{one, two} {
		eventually(t, id+" is saved", func() bool {
			p, err := l.store.Proxy(t.Context(), registry.ProxyID(id, "i"))
			return err == nil && p.Replica != ""
		})
	}
	registered := l.proxy(b, one, "i").GetRegisteredAt()
	a.stop() // as if it was killed: its sessions are not closed
	a = l.ready("a")
	for _, r := range []*replica{a, b} {
		if p := l.proxy(r, one, "i"); p.GetConnection() != adminv1.Connection_CONNECTION_LOST || p.GetRevision() != 7 {
			t.Errorf("of the former process: %v", p)
		}
		if p := l.proxy(r, two, "i"); p.GetConnection() != adminv1.Connection_CONNECTION_CONNECTED {
			t.Errorf("of another replica: %v", p)
		}
	}
	l.clock.advance(time.Second)
	again := open(t, a, one, "i")
	defer again.Close()
	eventually(t, "it is connected again", func() bool {
		p := l.proxy(b, one, "i")
		return p.GetConnection() == adminv1.Connection_CONNECTION_CONNECTED && proto.Equal(p.GetRegisteredAt(), registered)
	})
	if p := l.proxy(a, one, "i"); !proto.Equal(p.GetRegisteredAt(), registered) {
		t.Errorf("it was registered at %v", p.GetRegisteredAt().AsTime())
	}
}

func TestLastWordsAreSaved(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "e", "spiffe://prod.example/proxy/aws/*", "aws"))
	a := l.ready("a")
	l.admitted(a, one, "aws")
	s := open(t, a, one, "i")
	eventually(t, "it is saved", func() bool {
		_, err := l.store.Proxy(t.Context(), registry.ProxyID(one, "i"))
		return err == nil
	})
	s.Close()
	a.stop()
	p, err := l.store.Proxy(t.Context(), registry.ProxyID(one, "i"))
	if err != nil || p.Replica != "" {
		t.Errorf("after the end: %q, %v", p.Replica, err)
	}
}

func TestPostgresDown(t *testing.T) {
	t.Parallel()
	server := storagetest.NewPostgres(t)
	if err := server.CreateDatabase(t.Context(), "fleet", ""); err != nil {
		t.Fatal(err)
	}
	if err := postgres.Migrate(t.Context(), server.DSN("fleet")); err != nil {
		t.Fatal(err)
	}
	l := labAt(t, server.DSN("fleet"))
	l.commit(enroll(t, "e", "spiffe://prod.example/proxy/aws/*", "aws"))
	r := l.ready("a")
	a := l.admitted(r, one, "aws")
	before := open(t, r, one, "before")
	defer before.Close()
	eventually(t, "it is saved", func() bool {
		_, err := l.store.Proxy(t.Context(), registry.ProxyID(one, "before"))
		return err == nil
	})
	down := time.Now()
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}

	// Streams go on, and new ones are admitted.
	if _, err := r.Register(registry.Registration{SPIFFEID: one, Instance: "quiet"}); err != nil {
		t.Error(err)
	}
	eventually(t, "it was not saved", func() bool { return r.log.count("fleet was not saved") >= 1 })
	if _, err := r.Register(registry.Registration{SPIFFEID: one, Instance: "after"}); err != nil {
		t.Error(err)
	}
	after := open(t, r, one, "after")
	defer after.Close()
	snap := at(t, 7, "p")
	began := time.Now()
	for time.Since(began) < time.Second {
		before.Acked(ackOf(snap), snap)
		after.Acked(ackOf(snap), snap)
	}
	if p, err := r.Proxy(t.Context(), registry.ProxyID(one, "after")); err != nil || p.GetRevision() != 7 {
		t.Errorf("got %v, %v", p, err)
	}
	if _, err := r.Proxies(t.Context(), "", storage.Proxy{}, 10); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("a listing: %v", err)
	}
	if n, took := r.log.count("fleet was not saved"), time.Since(down); n > 3+int(took/(5*time.Second)) {
		t.Errorf("it was tried %d times in %s", n, took)
	}
	select {
	case <-a.Changed:
		t.Error("the enrollments have changed")
	default:
	}

	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for instance, replica := range map[string]string{"before": "a", "after": "a", "quiet": ""} {
		eventually(t, instance+" is saved", func() bool {
			p, err := l.store.Proxy(t.Context(), registry.ProxyID(one, instance))
			return err == nil && p.Replica == replica
		})
	}
	l.commit(storage.Change{Key: enrollmentKey("e"), Delete: true})
	l.admitted(r, one, "")
}

// Everything at once, for the race detector.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "e", "spiffe://prod.example/proxy/aws/*", "aws"))
	r := l.ready("a")
	l.admitted(r, one, "aws")
	snap := at(t, 7, "p")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				reg := registry.Registration{SPIFFEID: one, Instance: fmt.Sprint("i-", (n+i)%5)}
				a, err := r.Register(reg)
				if err != nil {
					continue // not enrolled for a moment
				}
				s, err := r.Open(reg, a)
				if err != nil {
					t.Error(err)
					return
				}
				s.Acked(ackOf(snap), snap)
				s.Beat(&proxyv1.Heartbeat{})
				s.Admitted(a)
				s.Refused(&proxyv1.Refusal{Reason: "x"})
				s.Judged(ackOf(snap), snap)
				s.Close()
			}
		})
	}
	all.Go(func() {
		for ctx.Err() == nil {
			_, _ = r.Proxies(ctx, "", storage.Proxy{}, 100)
			_, _ = r.Proxy(ctx, registry.ProxyID(one, "i-1"))
		}
	})
	all.Go(func() {
		for ctx.Err() == nil {
			waiting, stop := context.WithTimeout(ctx, 10*time.Millisecond)
			_ = r.Wait(waiting, map[string]snapshot.Revision{"aws": 8}, func([]*adminv1.EnvironmentProgress, bool) error { return nil })
			stop()
		}
	})
	for range 3 {
		l.commit(enroll(t, "e", "spiffe://prod.example/nobody", "aws"))
		l.commit(enroll(t, "e", "spiffe://prod.example/proxy/aws/*", "aws"))
	}
	all.Wait()
}
