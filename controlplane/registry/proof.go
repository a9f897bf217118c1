package registry

import (
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/internal/proof"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// maxProofs bounds what is kept of a proxy. It is in its record, which is written with
// every heartbeat.
const maxProofs = 4

// proof returns what an ack proves first; nil if that is nothing, or nothing new. It
// is called without the mutex: thousands of proxies may acknowledge at the same time.
func (s *Session) proof(ack *proxyv1.Ack, enforcement adminv1.Enforcement) *adminv1.Proof {
	e := s.registry.entry(s.id)
	if e == nil || enforcement != adminv1.Enforcement_ENFORCEMENT_ENFORCED {
		return nil
	}
	return s.proofIn(e.proxy, e.proxy.GetEnvironment(), proofOf(e.proxy.GetProofs(), ack), ack)
}

// proof is that of the security lane.
func (s SecuritySession) proof(ack *proxyv1.Ack, enforcement adminv1.Enforcement) *adminv1.Proof {
	e := s.session.registry.entry(s.session.id)
	if e == nil || enforcement != adminv1.Enforcement_ENFORCEMENT_ENFORCED {
		return nil
	}
	return s.session.proofIn(e.proxy, snapshot.SecurityLane, proofOf([]*adminv1.Proof{e.proxy.GetSecurityProof()}, ack), ack)
}

// proofIn returns what an ack of a lane proves, unless old is that already.
func (s *Session) proofIn(p *adminv1.Proxy, lane string, old *adminv1.Proof, ack *proxyv1.Ack) *adminv1.Proof {
	signs := len(p.GetAckKey()) > 0
	if old != nil && (len(old.GetSignature()) > 0 || !signs) {
		return nil
	}
	now := s.registry.now()
	proven := &adminv1.Proof{Epoch: ack.GetEpoch(), Revision: ack.GetRevision(), EnforcedAt: timestamppb.New(now)}
	if !signs {
		return proven // a build of before has no key
	}
	signed, err := proof.OpenAck(p.GetAckKey(), lane, ack)
	switch {
	case err != nil:
		s.doubt(ack, err)
		if old != nil {
			return nil
		}
		return proven
	case signed.Since.Before(now): // else its clock is ahead
		proven.EnforcedAt = timestamppb.New(signed.Since)
	}
	proven.Statement, proven.Signature = ack.GetStatement(), ack.GetSignature()
	return proven
}

// doubt says once of a stream that what is acknowledged there is not signed.
func (s *Session) doubt(ack *proxyv1.Ack, err error) {
	if !s.doubted.Swap(true) {
		s.registry.log.Error("acknowledgement was not signed by the process that registered",
			"proxy", string(s.id), "revision", ack.GetRevision(), "err", err)
	}
}

// proofOf returns the proof that is there already of what an ack says; nil for none.
func proofOf(there []*adminv1.Proof, ack *proxyv1.Ack) *adminv1.Proof {
	for _, o := range there {
		if o.GetEpoch() == ack.GetEpoch() && o.GetRevision() == ack.GetRevision() {
			return o
		}
	}
	return nil
}

// keep adds a proof to what a proxy has proven, if it proves one. What lies before is
// kept while nothing came between: no other epoch, no way back, nothing but what was
// signed. It needs the mutex.
func keep(p *adminv1.Proxy, proven *adminv1.Proof) {
	switch p.GetEnforcement() {
	case adminv1.Enforcement_ENFORCEMENT_DRIFT, adminv1.Enforcement_ENFORCEMENT_ENFORCED_WITH_REJECTS:
		p.Proofs = nil
	case adminv1.Enforcement_ENFORCEMENT_ENFORCED, adminv1.Enforcement_ENFORCEMENT_UNSPECIFIED:
	}
	if proven == nil {
		return
	}
	p.Proofs = slices.DeleteFunc(slices.Clone(p.GetProofs()), func(o *adminv1.Proof) bool {
		return o.GetEpoch() != proven.GetEpoch() || o.GetRevision() >= proven.GetRevision()
	})
	p.Proofs = append(p.Proofs, proven)
	p.Proofs = p.Proofs[max(0, len(p.Proofs)-maxProofs):]
}

// keepSecurity is keep of the security lane, of which the latest proof is enough: what
// is revoked there adds up. It needs the mutex.
func keepSecurity(p *adminv1.Proxy, enforcement adminv1.Enforcement, proven *adminv1.Proof) {
	switch enforcement {
	case adminv1.Enforcement_ENFORCEMENT_DRIFT, adminv1.Enforcement_ENFORCEMENT_ENFORCED_WITH_REJECTS:
		p.SecurityProof = nil
	case adminv1.Enforcement_ENFORCEMENT_ENFORCED, adminv1.Enforcement_ENFORCEMENT_UNSPECIFIED:
	}
	if proven != nil {
		p.SecurityProof = proven
	}
}

// firstProof returns when a proxy first proved that it enforces a revision, or one
// after it, and whether it may have done so before; nil if nothing is known of that.
func firstProof(p *adminv1.Proxy, revision int64) (first *adminv1.Proof, orBefore bool) {
	for i, o := range p.GetProofs() {
		if o.GetRevision() >= revision {
			return o, i == 0 && o.GetRevision() > revision
		}
	}
	return nil, false
}
