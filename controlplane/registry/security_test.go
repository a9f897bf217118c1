package registry_test

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/internal/proof"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// persisted is the ack after the write.
func persisted(a *proxyv1.Ack) { a.PersistedRevision = a.GetRevision() }

func lane(t testing.TB, sequence snapshot.Revision, names ...string) *snapshot.Snapshot {
	t.Helper()
	return of(t, snapshot.SecurityLane, sequence, names...)
}

// What is said of one lane changes nothing of the other.
func TestSecurityLaneIsRecordedApart(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "aws", "spiffe://prod.example/proxy/aws/*", "aws"))
	r := l.ready("a")
	l.admitted(r, one, "aws")
	s := open(t, r, one, "a")
	defer s.Close()
	if p := l.proxy(r, one, "a"); p.GetSecurity() != nil {
		t.Errorf("at first it is %v", p.GetSecurity())
	}
	s.Beat(&proxyv1.Heartbeat{SecurityAge: durationpb.New(time.Second)})
	if p := l.proxy(r, one, "a"); p.GetSecurity() != nil {
		t.Errorf("before anything is acknowledged it is %v", p.GetSecurity())
	}

	seven, three, four := at(t, 7, "p"), lane(t, 3, "a"), lane(t, 4, "a", "b")
	s.Acked(ackOf(seven), seven)
	s.Security().Acked(ackOf(three, func(a *proxyv1.Ack) { a.PersistedRevision = 2 }), three)
	s.Beat(&proxyv1.Heartbeat{ConfigurationAge: durationpb.New(time.Minute), SecurityAge: durationpb.New(time.Second)})
	p := l.proxy(r, one, "a")
	if p.GetRevision() != 7 || p.GetEnforcement() != adminv1.Enforcement_ENFORCEMENT_ENFORCED || p.GetConfigurationAge().AsDuration() != time.Minute {
		t.Errorf("of its environment it is %v", p)
	}
	if is := p.GetSecurity(); is.GetSequence() != 3 || is.GetPersistedSequence() != 2 || is.GetEnforcement() != adminv1.Enforcement_ENFORCEMENT_ENFORCED ||
		is.GetAge().AsDuration() != time.Second {
		t.Errorf("of the lane it is %v", is)
	}

	s.Security().Refused(&proxyv1.Refusal{Reason: "fork", Detail: "4"})
	s.Security().Acked(ackOf(three), three) // it is on disk now: the refusal stands
	if p := l.proxy(r, one, "a"); p.GetRefusal() != "" || p.GetSecurity().GetRefusal() != "fork: 4" {
		t.Errorf("after a refusal: %q, of the lane %q", p.GetRefusal(), p.GetSecurity().GetRefusal())
	}
	s.Security().Acked(ackOf(four, rejecting(four, "b")), nil)
	is := l.proxy(r, one, "a").GetSecurity()
	if is.GetRefusal() != "" || is.GetEnforcement() != adminv1.Enforcement_ENFORCEMENT_UNSPECIFIED || len(is.GetRejects()) != 1 {
		t.Errorf("after the next: %v", is)
	}
	s.Security().Judged(ackOf(four, rejecting(four, "b")), four)
	if got := l.proxy(r, one, "a"); got.GetSecurity().GetEnforcement() != adminv1.Enforcement_ENFORCEMENT_ENFORCED_WITH_REJECTS || len(got.GetRejects()) != 0 {
		t.Errorf("once it is known: %v", got)
	}
	s.Security().Acked(ackOf(four, func(a *proxyv1.Ack) { a.EnforcedRoot = make([]byte, 32) }), four)
	if got := l.proxy(r, one, "a").GetSecurity().GetEnforcement(); got != adminv1.Enforcement_ENFORCEMENT_DRIFT {
		t.Errorf("with another root: %v", got)
	}
	s.Security().Acked(ackOf(seven), four) // a statement of the other lane
	if got := l.proxy(r, one, "a").GetSecurity().GetEnforcement(); got != adminv1.Enforcement_ENFORCEMENT_DRIFT {
		t.Errorf("with the other lane's roots: %v", got)
	}
}

func TestWaitSecurity(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "aws", "spiffe://prod.example/proxy/aws/*", "aws"), enroll(t, "gcp", "spiffe://prod.example/proxy/gcp/*", "gcp"))
	r, elsewhere := l.ready("a"), l.ready("b")
	l.admitted(r, one, "aws")
	l.admitted(elsewhere, two, "aws")
	a, b := open(t, r, one, "a"), open(t, elsewhere, two, "b")
	defer a.Close()
	defer b.Close()
	eventually(t, "the other one is recorded", func() bool { return l.proxy(r, two, "b") != nil })
	seven, two2, three, four := at(t, 7, "p"), lane(t, 2), lane(t, 3, "p"), lane(t, 4, "p", "q")
	a.Acked(ackOf(seven), seven) // which says nothing of the lane

	w := l.waitSecurity(r, 3, "aws", "gcp")
	w.until("aws@3 0/2 [one#a has not acknowledged anything yet] [two#b has not acknowledged anything yet]; gcp@3 0/0")
	a.Security().Acked(ackOf(two2), two2)
	w.until("aws@3 0/2 [one#a is at sequence 2] [two#b has not acknowledged anything yet]; gcp@3 0/0")
	a.Security().Acked(ackOf(three, rejecting(three, "p")), three)
	w.until("aws@3 0/2 [one#a rejected 1 resources, the first is Policy/shop/p: too new] [two#b has not acknowledged anything yet]; gcp@3 0/0")
	a.Security().Acked(ackOf(three), three)
	w.until("aws@3 0/2 [one#a enforces it, but does not have it on disk yet] [two#b has not acknowledged anything yet]; gcp@3 0/0")
	a.Security().Acked(ackOf(three, persisted), three)
	b.Security().Acked(ackOf(four, persisted), four) // one after it will do
	w.until("aws@3 2/2; gcp@3 0/0")
	w.over()
}

// Who is lost may still let through what is revoked: it is named, as long as
// its identity is good, and not waited for.
func TestWaitSecurityNamesWhoIsNotReached(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "aws", "spiffe://prod.example/proxy/aws/*", "aws"))
	r := l.ready("a")
	l.admitted(r, one, "aws")
	two2, three := lane(t, 2), lane(t, 3, "p")
	stay, leave, old := open(t, r, one, "stays"), open(t, r, one, "leaves"), open(t, r, one, "retired")
	defer stay.Close()
	for _, s := range []*registry.Session{stay, leave, old} {
		s.Security().Acked(ackOf(two2), two2)
	}
	leave.Beat(&proxyv1.Heartbeat{IdentityExpiresAt: timestamppb.New(l.clock.now().Add(time.Hour))})
	old.Beat(&proxyv1.Heartbeat{IdentityExpiresAt: timestamppb.New(l.clock.now().Add(-time.Second))})
	old.Close()

	w := l.waitSecurity(r, 3, "aws")
	w.until("aws@3 0/2 [one#leaves is at sequence 2] [one#stays is at sequence 2]")
	leave.Close()
	w.until("aws@3 0/1 [one#stays is at sequence 2] [one#leaves is not connected: it is not reached]")
	stay.Security().Acked(ackOf(three, persisted), three)
	w.until("aws@3 1/1 [one#leaves is not connected: it is not reached]")
	w.over()

	// Another replica knows of it by its record.
	other := l.ready("b")
	eventually(t, "both are recorded", func() bool {
		left := l.proxy(other, one, "leaves")
		return l.proxy(other, one, "stays").GetSecurity().GetSequence() == 3 && left != nil && left.GetConnection() != adminv1.Connection_CONNECTION_CONNECTED
	})
	w = l.waitSecurity(other, 3, "aws")
	w.until("aws@3 1/1 [one#leaves is not connected: it is not reached]")
	w.over()

	// When nobody is connected, nothing is proven.
	w = l.waitSecurity(r, 4, "aws")
	w.until("aws@4 0/1 [one#stays is at sequence 3] [one#leaves is not connected: it is not reached]")
	stay.Close()
	w.until("aws@4 0/0 [one#leaves is not connected: it is not reached] [one#stays is not connected: it is not reached]")
	back := open(t, r, one, "leaves")
	defer back.Close()
	w.until("aws@4 0/1 [one#leaves has not acknowledged anything yet] [one#stays is not connected: it is not reached]")
	four := lane(t, 4, "p")
	back.Security().Acked(ackOf(four, persisted), four)
	w.until("aws@4 1/1 [one#stays is not connected: it is not reached]")
	w.over()
}

// What a proxy has signed last of the lane is kept, with since when, until it is not so
// any more, or the process is another.
func TestSecurityProof(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "aws", "spiffe://prod.example/proxy/aws/*", "aws"))
	r := l.ready("a")
	l.admitted(r, one, "aws")
	k, err := proof.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	register := func(k *proof.Key) *registry.Session {
		if _, err := r.Register(registry.Registration{SPIFFEID: one, Instance: "a", AckKey: k.Public()}); err != nil {
			t.Fatal(err)
		}
		return open(t, r, one, "a")
	}
	s := register(k)
	since := time.Now().Add(-time.Hour).UTC()
	say := func(seq *snapshot.Snapshot, as string, change ...func(*proxyv1.Ack)) {
		a := ackOf(seq, change...)
		k.Sign(a, as, since, since)
		s.Security().Acked(a, seq)
	}
	want := func(when string, sequence int64, signed bool) {
		t.Helper()
		p := l.proxy(r, one, "a")
		got := p.GetSecurityProof()
		if got.GetRevision() != sequence || (len(got.GetSignature()) > 0) != signed {
			t.Errorf("%s: proven is %v, want sequence %d, signed %t", when, got, sequence, signed)
		}
		if signed && !got.GetEnforcedAt().AsTime().Equal(since) {
			t.Errorf("%s: since %s, want %s", when, got.GetEnforcedAt().AsTime(), since)
		}
	}
	three, four := lane(t, 3, "a"), lane(t, 4, "a", "b")
	want("at first", 0, false)
	say(three, snapshot.SecurityLane)
	want("when it has signed", 3, true)
	s.Security().Acked(ackOf(four), nil)
	want("when it speaks of what is not known here", 3, true)
	say(four, "aws")
	want("when it has signed something else", 4, false)
	say(four, snapshot.SecurityLane)
	want("when it has signed that as well", 4, true)
	s.Close()
	s = register(k)
	defer s.Close()
	want("on its next stream", 4, true)
	say(four, snapshot.SecurityLane, rejecting(four, "b"))
	want("when it rejects something", 0, false)
	say(four, snapshot.SecurityLane)
	if k, err = proof.NewKey(); err != nil {
		t.Fatal(err)
	}
	s = register(k)
	want("when it was started anew", 0, false)
}
