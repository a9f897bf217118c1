package registry_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/internal/proof"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
	"github.com/sallyport/sallyport/storage"
)

// told is what an honest edge tells of a process that has acknowledged s.
func (l *lab) told(id, instance string, k *proof.Key, s *snapshot.Snapshot, change ...func(*registry.Told)) registry.Told {
	l.Helper()
	t := registry.Told{
		SPIFFEID: id, Instance: instance, Connected: true, Binding: l.bind(id, id, instance, k),
		Status: &adminv1.Proxy{AckKey: k.Public(), Build: "v1", ProtocolVersion: 3, StartedAt: timestamppb.New(begin)},
	}
	if s != nil {
		t.Ack = ackOf(s)
		k.Sign(t.Ack, s.Head().Environment, minute(1), minute(2))
	}
	for _, f := range change {
		f(&t)
	}
	return t
}

// knows is a replica that has those snapshots.
func knows(all ...*snapshot.Snapshot) registry.Known {
	return func(environment string, ack *proxyv1.Ack) *snapshot.Snapshot {
		for _, s := range all {
			if digest := s.Head().Digest(); s.Head().Environment == environment && slices.Equal(digest[:], ack.GetHeadDigest()) {
				return s
			}
		}
		return nil
	}
}

// Proxies of an edge are as any others: listed with where they are connected, waited
// for, counted, and named in what is proven.
func TestProxiesOfAnEdge(t *testing.T) {
	t.Parallel()
	l := newLab(t).trusting()
	l.commit(enroll(t, "aws", "spiffe://prod.example/proxy/aws/*", "aws", "tier=gold"))
	r, other := l.ready("full"), l.ready("other")
	l.admitted(r, one, "aws")
	l.admitted(other, one, "aws")
	k, s := newKey(t), at(t, 7, "a")
	approved, err := r.Report(t.Context(), "near", []registry.Told{l.told(one, "i", k, s)}, knows(s))
	if err != nil || len(approved) > 0 {
		t.Fatal(approved, err)
	}
	for _, from := range []*replica{r, other} {
		p := l.proxy(from, one, "i")
		if p.GetReplica() != "edge near" || p.GetConnection() != adminv1.Connection_CONNECTION_CONNECTED || p.GetEnvironment() != "aws" ||
			p.GetEnforcement() != adminv1.Enforcement_ENFORCEMENT_ENFORCED || p.GetRevision() != 7 || p.GetLabels()["tier"] != "gold" || p.GetBuild() != "v1" {
			t.Errorf("it is known as %v", p)
		}
		if got := l.status(from, 7); got != "1/0/0/0 [one#i since 1 signed]" {
			t.Errorf("status is %s", got)
		}
	}
	if err := other.Wait(t.Context(), map[string]snapshot.Revision{"aws": 7}, func([]*adminv1.EnvironmentProgress, bool) error { return nil }); err != nil {
		t.Error(err)
	}
	proven, others, err := other.Proven(t.Context(), "aws", 7)
	if err != nil || len(proven) != 1 || others != 0 || !slices.Equal(proven[0].GetAckKey(), k.Public()) {
		t.Errorf("proven is %v, %d others (%v)", proven, others, err)
	}
	// It is lost when nothing comes from the edge any more.
	l.clock.advance(time.Minute)
	if p := l.proxy(other, one, "i"); p.GetConnection() != adminv1.Connection_CONNECTION_LOST || p.GetReplica() != "" {
		t.Errorf("after a minute it is %s at %q", p.GetConnection(), p.GetReplica())
	}
}

// What an edge tells comes late, and later or less late the next time: what it tells last
// of its proxies counts, by whatever clock they seem to have been heard of before.
func TestEdgesTellInOrder(t *testing.T) {
	t.Parallel()
	l := newLab(t).trusting()
	l.commit(enroll(t, "aws", "spiffe://prod.example/proxy/aws/*", "aws"))
	r := l.ready("full")
	l.admitted(r, one, "aws")
	k, s := newKey(t), at(t, 7, "a")
	gone := func(t *registry.Told) { t.Connected, t.SilentFor = false, time.Second }
	for _, by := range []string{"near", "far"} { // it goes to another edge a minute later
		if _, err := r.Report(t.Context(), by, []registry.Told{l.told(one, "i", k, s)}, knows(s)); err != nil {
			t.Fatal(err)
		}
		if p := l.proxy(r, one, "i"); p.GetReplica() != "edge "+by {
			t.Errorf("it is known as %v", p)
		}
		l.clock.advance(time.Minute)
	}
	l.clock.advance(-time.Minute)
	if _, err := r.Report(t.Context(), "near", []registry.Told{l.told(one, "i", k, s, gone)}, knows(s)); err != nil {
		t.Fatal(err)
	}
	if p := l.proxy(r, one, "i"); p.GetReplica() != "edge far" {
		t.Errorf("after it has left the edge where it was before it is known as %v", p)
	}
	if _, err := r.Report(t.Context(), "far", []registry.Told{l.told(one, "i", k, s, gone)}, knows(s)); err != nil {
		t.Fatal(err)
	}
	if p := l.proxy(r, one, "i"); p.GetReplica() != "" || p.GetConnection() == adminv1.Connection_CONNECTION_CONNECTED {
		t.Errorf("after it has left it is known as %v", p)
	}
}

// An edge can say nothing that a proxy would have had to sign.
func TestEdgesAreNotBelieved(t *testing.T) {
	t.Parallel()
	l := newLab(t).trusting()
	l.commit(enroll(t, "aws", "spiffe://prod.example/proxy/aws/*", "aws"))
	r := l.ready("full")
	l.admitted(r, one, "aws")
	k, s, next := newKey(t), at(t, 7, "a"), at(t, 8, "b")
	const enforced, drift, unknown = adminv1.Enforcement_ENFORCEMENT_ENFORCED, adminv1.Enforcement_ENFORCEMENT_DRIFT, adminv1.Enforcement_ENFORCEMENT_UNSPECIFIED
	for name, c := range map[string]struct {
		change func(*registry.Told)
		want   adminv1.Enforcement
		alarm  bool
	}{
		"honest":             {func(*registry.Told) {}, enforced, false},
		"not signed":         {func(t *registry.Told) { t.Ack.Signature = nil }, unknown, true},
		"a later revision":   {func(t *registry.Told) { t.Ack.Revision = 8 }, unknown, true},
		"of another process": {func(t *registry.Told) { t.Ack = l.told(one, "x", newKey(l), s).Ack }, unknown, true},
		"another environment": {func(told *registry.Told) {
			k.Sign(told.Ack, "gcp", minute(1), minute(1))
		}, unknown, true},
		"without the key": {func(t *registry.Told) { t.Status.AckKey = nil }, unknown, false},
		"says that it enforces": {func(t *registry.Told) {
			t.Ack, t.Status.Enforcement, t.Status.Revision = nil, enforced, 8
		}, unknown, false},
		"something else is enforced": {func(told *registry.Told) {
			told.Ack = ackOf(s, func(a *proxyv1.Ack) { a.EnforcedRoot = make([]byte, 32) })
			k.Sign(told.Ack, "aws", minute(1), minute(1))
		}, drift, false},
		"not known here": {func(told *registry.Told) {
			told.Ack = ackOf(at(l, 9, "c"))
			k.Sign(told.Ack, "aws", minute(1), minute(1))
		}, unknown, false},
		"forged proofs": {func(t *registry.Told) {
			t.Status.Proofs = []*adminv1.Proof{
				{Epoch: 1, Revision: 8, EnforcedAt: timestamppb.New(begin)},
				{Epoch: 1, Revision: 8, Statement: t.Ack.GetStatement(), Signature: t.Ack.GetSignature()},
			}
		}, enforced, false},
	} {
		before := r.log.count("an edge told of acknowledgements")
		instance := strings.ReplaceAll(name, " ", "-")
		if _, err := r.Report(t.Context(), "near", []registry.Told{l.told(one, instance, k, s, c.change)}, knows(s, next)); err != nil {
			t.Fatal(err)
		}
		p := l.proxy(r, one, instance)
		if p.GetEnforcement() != c.want {
			t.Errorf("%s: %s at revision %d", name, p.GetEnforcement(), p.GetRevision())
		}
		if alarm := r.log.count("an edge told of acknowledgements") > before; alarm != c.alarm {
			t.Errorf("%s: there is an alarm: %v", name, alarm)
		}
		for _, o := range p.GetProofs() {
			if said, err := proof.Open(k.Public(), o.GetStatement(), o.GetSignature()); err != nil || said.Revision != snapshot.Revision(o.GetRevision()) {
				t.Errorf("%s: %v is kept as a proof (%v)", name, o, err)
			}
		}
	}
}

// What an edge says of the keys of assertions would be believed by upstreams, and what
// it says of the security lane by whoever waits for a revocation.
func TestEdgesVouchForNoKeysAndNoRevocations(t *testing.T) {
	t.Parallel()
	l := newLab(t).trusting()
	l.commit(enroll(t, "aws", "spiffe://prod.example/proxy/aws/*", "aws"))
	r := l.ready("full")
	l.admitted(r, one, "aws")
	k, lane := newKey(t), of(t, snapshot.SecurityLane, 3, "x")
	report := func(instance string, change func(*registry.Told)) *adminv1.Proxy {
		t.Helper()
		if _, err := r.Report(t.Context(), "near", []registry.Told{l.told(one, instance, k, nil, change)}, knows(lane)); err != nil {
			t.Fatal(err)
		}
		return l.proxy(r, one, instance)
	}
	p := report("a", func(t *registry.Told) { t.Status.AssertionKeys = [][]byte{make([]byte, 65)} })
	if keys, err := r.AssertionKeys(t.Context(), "aws"); err != nil || len(keys) > 0 || len(p.GetAssertionKeys()) > 0 {
		t.Errorf("keys %v, %v (%v)", keys, p.GetAssertionKeys(), err)
	}
	signed := func(t *registry.Told) {
		t.SecurityAck = ackOf(lane)
		k.Sign(t.SecurityAck, snapshot.SecurityLane, minute(1), minute(1))
		t.SecurityAck.PersistedRevision = 3
	}
	if p := report("b", signed); p.GetSecurity().GetEnforcement() != adminv1.Enforcement_ENFORCEMENT_ENFORCED || p.GetSecurity().GetPersistedSequence() != 3 {
		t.Errorf("signed: %v", p.GetSecurity())
	} else if o := p.GetSecurityProof(); o.GetRevision() != 3 || len(o.GetSignature()) == 0 {
		t.Errorf("signed, and proven is %v", o)
	}
	p = report("c", func(t *registry.Told) { signed(t); t.SecurityAck.Statement = nil })
	if p.GetSecurity().GetEnforcement() != adminv1.Enforcement_ENFORCEMENT_UNSPECIFIED {
		t.Errorf("not signed: %v", p.GetSecurity())
	}
	if p.GetSecurityProof() != nil {
		t.Errorf("not signed, and proven is %v", p.GetSecurityProof())
	}
}

// Where a proxy belongs, and whether it may be anywhere, is not for an edge to say.
func TestEdgesAdmitNobody(t *testing.T) {
	t.Parallel()
	l := newLab(t).trusting()
	l.commit(
		enroll(t, "aws", one, "aws"),
		enrollWith(t, "manual", &resourcev1.Enrollment{SpiffeId: two, Environment: "gcp", Approval: resourcev1.Approval_APPROVAL_MANUAL}),
	)
	r := l.ready("full")
	l.admitted(r, one, "aws")
	k := newKey(t)
	const stranger = "spiffe://prod.example/stranger"
	say := func(all ...registry.Told) []string {
		t.Helper()
		approved, err := r.Report(t.Context(), "near", all, knows())
		if err != nil {
			t.Fatal(err)
		}
		return approved
	}
	elsewhere := func(t *registry.Told) {
		t.Status.Environment, t.Status.Labels = "gcp", map[string]string{"tier": "gold"}
	}
	say(l.told(one, "i", k, nil, elsewhere), l.told(two, "i", k, nil, elsewhere), l.told(stranger, "i", k, nil, elsewhere))
	for id, want := range map[string]string{one: "aws CONNECTION_CONNECTED", two: " CONNECTION_PENDING", stranger: " CONNECTION_PENDING"} {
		p := l.proxy(r, id, "i")
		if got := p.GetEnvironment() + " " + p.GetConnection().String(); got != want || len(p.GetLabels()) > 0 {
			t.Errorf("%s is %q with labels %v", id, got, p.GetLabels())
		}
	}
	ruled := func(id string, revise func(*storage.Ruling)) {
		t.Helper()
		e := storage.AuditEntry{Caller: "test", Action: "/Rule", Allowed: true}
		if err := r.Rule(t.Context(), id, e, func(of storage.Ruling, _ int) (storage.Ruling, error) { revise(&of); return of, nil }); err != nil {
			t.Fatal(err)
		}
	}
	ruled(two, func(of *storage.Ruling) { of.Approval = storage.Approved })
	if approved := say(l.told(one, "i", k, nil), l.told(two, "i", k, nil)); !slices.Equal(approved, []string{two}) {
		t.Errorf("approved are %q", approved)
	}
	if p := l.proxy(r, two, "i"); p.GetConnection() != adminv1.Connection_CONNECTION_CONNECTED || p.GetEnvironment() != "gcp" {
		t.Errorf("once it is approved it is %v", p)
	}
	ruled(two, func(of *storage.Ruling) { of.Quarantined = true })
	before := l.proxy(r, two, "i")
	if approved := say(l.told(two, "i", k, nil, func(t *registry.Told) { t.Status.Build = "v2" })); len(approved) > 0 {
		t.Errorf("approved are %q", approved)
	}
	if after := l.proxy(r, two, "i"); !proto.Equal(before, after) {
		t.Errorf("what it says in quarantine is recorded: %v", after)
	}
	say(l.told(two, "i", k, nil, func(t *registry.Told) { t.Connected = false }))
	if p := l.proxy(r, two, "i"); p.GetConnection() != adminv1.Connection_CONNECTION_LOST {
		t.Errorf("when it is gone it is %s", p.GetConnection())
	}
}

// A process that has its stream here is not known better by an edge.
func TestEdgesDoNotTakeProxiesAway(t *testing.T) {
	t.Parallel()
	l := newLab(t).trusting()
	l.commit(enroll(t, "aws", "spiffe://prod.example/proxy/aws/*", "aws"))
	r := l.ready("full")
	l.admitted(r, one, "aws")
	k, s := newKey(t), at(t, 7, "a")
	mine := l.process(r, one, "i", k)
	mine.acks(s, 1)
	if _, err := r.Report(t.Context(), "near", []registry.Told{l.told(one, "i", newKey(t), nil), l.told(one, "not a name", k, nil)}, knows(s)); err != nil {
		t.Fatal(err)
	}
	if p := l.proxy(r, one, "i"); p.GetReplica() != "full" || p.GetRevision() != 7 || !slices.Equal(p.GetAckKey(), k.Public()) {
		t.Errorf("it is known as %v", p)
	}
	if p := l.proxy(r, one, "not a name"); p != nil {
		t.Errorf("%v is recorded", p)
	}
	mine.Close()
}

// While nothing can be saved, what is gone makes room.
func TestWhatCannotBeSavedIsBounded(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "aws", "spiffe://prod.example/proxy/aws/*", "aws"))
	r := l.ready("full")
	l.admitted(r, one, "aws")
	r.Bound(3)
	stays := l.process(r, one, "stays", newKey(t))
	for _, name := range []string{"a", "b", "c", "d"} {
		l.process(r, two, name, newKey(t)).Close()
	}
	if n := r.Shed(); n != 2 || r.Registry.Known() != 3 {
		t.Errorf("%d were dropped, %d are known", n, r.Registry.Known())
	}
	stays.Close()
}
