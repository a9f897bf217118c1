package stream_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sallyport/sallyport/controlplane/stream"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// secured takes an update of the security lane, without answering it.
func (p *proxy) secured(sequence snapshot.Revision, base *snapshot.Snapshot) *snapshot.Snapshot {
	p.Helper()
	u := p.next().GetSecurity()
	if u == nil {
		p.Fatal("not an update of the security lane")
	}
	next, err := p.lane.Add(ours.Verifier(), base, u)
	if err != nil || next == nil || next.Head().Revision != sequence || next.Head().Environment != snapshot.SecurityLane {
		p.Fatalf("the update leads to %v (%v)", next.Head().Statement, err)
	}
	return next
}

func (p *proxy) ackLane(s *snapshot.Snapshot, change ...func(*proxyv1.Ack)) {
	p.Helper()
	p.say(&proxyv1.StreamRequest{Message: &proxyv1.StreamRequest_SecurityAck{SecurityAck: ackOf(s, change...)}})
}

func (p *proxy) refuseLane(sequence snapshot.Revision) {
	p.Helper()
	p.say(&proxyv1.StreamRequest{Message: &proxyv1.StreamRequest_SecurityRefusal{SecurityRefusal: &proxyv1.Refusal{
		Epoch: 1, Revision: int64(sequence), Reason: "fork", Detail: "test",
	}}})
}

// lane waits until the registry says so of a proxy's security lane.
func (l *lab) lane(instance, what string, is func(*adminv1.SecurityLane) bool) {
	l.Helper()
	eventually(l, what, func() bool { return is(l.known(awsID, instance).GetSecurity()) })
}

// A proxy that has nothing is sent the security lane first, and nothing at all
// while that is not known.
func TestSecurityLaneComesFirst(t *testing.T) {
	t.Parallel()
	l := build(t)
	l.enroll("aws", "spiffe://prod.example/proxy/aws/*", "aws")
	patient(l.service)
	l.follow()
	l.serve()
	run(t, l.registry.Run)
	eventually(t, "enrollments are known", l.registry.Ready)
	first := aws(t, 1, documents{"a": "1"})
	l.publish(first)
	l.served("aws", 1)
	p := l.begin(l.client(awsID, time.Hour), &proxyv1.Hello{Instance: "i"}, nil)
	old := l.begin(l.client(awsID, time.Hour), &proxyv1.Hello{Instance: "old", Security: ackOf(security(t, 1, nil))}, nil)
	old.updated(1, nil) // it has a state of the lane
	lane := security(t, 1, nil)
	l.publish(lane)
	p.secured(1, nil)
	p.updated(1, nil) // at once: the order is what matters
	p.ackLane(lane)
	p.ack()
	l.lane("i", "it is enforced", func(s *adminv1.SecurityLane) bool {
		return s.GetSequence() == 1 && s.GetEnforcement() == adminv1.Enforcement_ENFORCEMENT_ENFORCED
	})
	l.enforcement(awsID, "i", adminv1.Enforcement_ENFORCEMENT_ENFORCED)
	l.lane("old", "that of the other one can be judged now", func(s *adminv1.SecurityLane) bool {
		return s.GetEnforcement() == adminv1.Enforcement_ENFORCEMENT_ENFORCED
	})
}

// Each lane has its own push under way, and its own answers.
func TestLanesAreApart(t *testing.T) {
	t.Parallel()
	l := newLab(t, patient)
	first := aws(t, 1, documents{"a": "1"})
	l.publish(first)
	p := l.connect(awsID, "i", nil)
	p.updated(1, nil) // which it does not answer

	one, two, three := security(t, 1, nil), security(t, 2, documents{"r": "1"}), security(t, 3, documents{"r": "1", "s": "1"})
	l.publish(two)
	p.secured(2, one)
	l.publish(three)
	l.served(snapshot.SecurityLane, 3)
	p.beat()
	eventually(t, "it was heard", func() bool { return l.known(awsID, "i").GetLastSeenAt() != nil })
	p.ackLane(two)
	p.secured(3, two)
	l.lane("i", "the second is enforced", func(s *adminv1.SecurityLane) bool { return s.GetSequence() == 2 })
	if known := l.known(awsID, "i"); known.GetRevision() != 0 {
		t.Errorf("what was not acknowledged is known as %v", known)
	}

	// A refusal is answered by the whole lane, and not by the snapshot.
	p.refuseLane(3)
	p.secured(3, nil)
	l.lane("i", "the refusal is known", func(s *adminv1.SecurityLane) bool { return s.GetRefusal() == "fork: test" })
	p.ackLane(three)
	l.lane("i", "the third is enforced", func(s *adminv1.SecurityLane) bool {
		return s.GetSequence() == 3 && s.GetRefusal() == "" && s.GetEnforcement() == adminv1.Enforcement_ENFORCEMENT_ENFORCED
	})
	p.ack()
	l.enforcement(awsID, "i", adminv1.Enforcement_ENFORCEMENT_ENFORCED)
	if known := l.known(awsID, "i"); known.GetRefusal() != "" || known.GetRevision() != 1 {
		t.Errorf("the snapshot is %v", known)
	}
	p.ackLane(three, func(a *proxyv1.Ack) { a.EnforcedRoot = make([]byte, 32) })
	l.lane("i", "it drifts", func(s *adminv1.SecurityLane) bool { return s.GetEnforcement() == adminv1.Enforcement_ENFORCEMENT_DRIFT })
	p.refuseLane(3)
	p.over(connect.CodeFailedPrecondition, "nothing was sent that could be refused")
}

func TestSecurityLaneIsConfirmed(t *testing.T) {
	t.Parallel()
	l := newLab(t, patient)
	lane, at := security(t, 1, nil), time.Now()
	p := l.connect(awsID, "i", nil)
	if err := l.etcd.PublishFreshness(t.Context(), snapshot.SecurityLane, freshness(t, lane, at)); err != nil {
		t.Fatal(err)
	}
	f, err := ours.Verifier().VerifyFreshness(p.next().GetFreshness())
	if err != nil || f.Environment != snapshot.SecurityLane || f.HeadDigest != lane.Head().Digest() {
		t.Errorf("got %+v, %v", f, err)
	}
	p.say(&proxyv1.StreamRequest{Message: &proxyv1.StreamRequest_Heartbeat{Heartbeat: &proxyv1.Heartbeat{
		SecurityAge: durationpb.New(7 * time.Second),
	}}})
	l.lane("i", "its age is known", func(s *adminv1.SecurityLane) bool { return s.GetAge().AsDuration() == 7*time.Second })
}

// A proxy that leaves one lane unanswered is cut off, whatever it says of the
// other.
func TestSecurityLaneHasToBeAcknowledged(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(s *stream.Service) { s.Limits(patience, patience, 300*time.Millisecond) })
	p := l.connect(awsID, "i", nil)
	l.publish(security(t, 2, documents{"r": "1"}))
	p.secured(2, security(t, 1, nil))
	late := time.After(patience)
	for r := snapshot.Revision(1); ; r++ {
		l.publish(aws(t, r, documents{"a": fmt.Sprint(r)}))
		select {
		case m, open := <-p.heard:
			if !open {
				p.over(connect.CodeUnavailable, "the last update was not acknowledged in time")
				return
			}
			next, err := p.assembly.Add(ours.Verifier(), p.current, m.GetUpdate())
			if err != nil {
				t.Fatal(err)
			}
			p.current = next
			_ = p.stream.Send(&proxyv1.StreamRequest{Message: &proxyv1.StreamRequest_Ack{Ack: ackOf(next)}}) // it may end just now
		case <-late:
			t.Fatal("the stream goes on")
		}
	}
}

// A revocation does not wait until a large snapshot has been sent.
func TestRevocationsOvertakeSnapshots(t *testing.T) {
	t.Parallel()
	l := newLab(t, patient)
	d := documents{}
	for i := range 150 {
		d[fmt.Sprint("d-", i)] = strings.Repeat("x", 200<<10)
	}
	l.publish(aws(t, 1, d))
	l.served("aws", 1)
	p := l.dial(l.client(awsID, time.Hour))
	p.say(&proxyv1.StreamRequest{Message: &proxyv1.StreamRequest_Hello{Hello: &proxyv1.Hello{
		Instance: "i", Security: ackOf(security(t, 1, nil)),
	}}})
	if m, err := p.stream.Receive(); err != nil || m.GetUpdate() == nil {
		t.Fatalf("%v, %v", m, err) // the sender is under way, and has to wait for us
	}
	l.publish(security(t, 2, documents{"r": "1"}))
	l.served(snapshot.SecurityLane, 2)
	go p.receive()
	for parts := 1; ; parts++ {
		m := p.next()
		switch {
		case m.GetSecurity() != nil:
			return
		case m.GetUpdate().GetHead() != nil: // far more than any buffer on the way holds
			t.Fatalf("the snapshot came first, in %d parts", parts)
		}
	}
}
