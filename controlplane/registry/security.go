package registry

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// SecuritySession records what a proxy says of the security lane, as its Session
// does of its environment. It is safe for concurrent use.
type SecuritySession struct{ session *Session }

// Security returns the session's part for the security lane.
func (s *Session) Security() SecuritySession { return SecuritySession{s} }

// Acked is Session.Acked.
func (s SecuritySession) Acked(ack *proxyv1.Ack, known *snapshot.Snapshot) adminv1.Enforcement {
	enforcement := Judge(ack, known)
	s.session.keepAck(securityLane, ack)
	proven := s.proof(ack, enforcement)
	t := turn{lane: securityLane, after: enforcement, at: ack.GetRevision()}
	s.session.heard(func(p *adminv1.Proxy, _ time.Time) {
		before := p.GetSecurity()
		t.before = before.GetEnforcement()
		p.Security = &adminv1.SecurityLane{
			Sequence: ack.GetRevision(), Enforcement: enforcement, Rejects: rejectsOf(ack),
			PersistedSequence: ack.GetPersistedRevision(), Age: before.GetAge(),
		}
		if before.GetSequence() == ack.GetRevision() {
			p.Security.Refusal = before.GetRefusal() // this is said again, or is on disk now
		}
		keepSecurity(p, enforcement, proven)
	})
	s.session.alarm(t)
	return enforcement
}

// Judged is Session.Judged.
func (s SecuritySession) Judged(ack *proxyv1.Ack, known *snapshot.Snapshot) adminv1.Enforcement {
	enforcement := Judge(ack, known)
	proven := s.proof(ack, enforcement)
	t := turn{lane: securityLane, after: enforcement, at: ack.GetRevision()}
	s.session.revise(func(p *adminv1.Proxy) {
		if p.GetSecurity() != nil {
			t.before, p.Security = p.GetSecurity().GetEnforcement(), proto.CloneOf(p.GetSecurity())
			p.Security.Enforcement = enforcement
		}
		keepSecurity(p, enforcement, proven)
	}, s.session)
	s.session.alarm(t)
	return enforcement
}

// Refused is Session.Refused.
func (s SecuritySession) Refused(refusal *proxyv1.Refusal) {
	s.session.heard(func(p *adminv1.Proxy, _ time.Time) {
		if p.Security = proto.CloneOf(p.GetSecurity()); p.Security == nil {
			p.Security = &adminv1.SecurityLane{}
		}
		p.Security.Refusal = refusalOf(refusal)
	})
}
