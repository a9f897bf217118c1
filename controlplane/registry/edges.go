package registry

import (
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/internal/proof"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
)

// AtEdge is how the edge of a name is called where a replica is named. No replica's name
// has a space in it.
func AtEdge(name string) string { return "edge " + name }

// Told is what an edge tells of a proxy process. Nothing of it is believed but what the
// process has signed, and what does not matter.
type Told struct {
	SPIFFEID, Instance string
	// Status is what the process said of itself.
	Status    *adminv1.Proxy
	SilentFor time.Duration
	Connected bool
	// Ack and SecurityAck are the last of each lane; nil for none.
	Ack, SecurityAck *proxyv1.Ack
	// Binding binds the process' key to its SVID; nil for nothing.
	Binding *proxyv1.KeyBinding
}

// Known returns the snapshot of an environment that an ack is about, or another one for
// the same place in history; nil if there is none here.
type Known func(environment string, ack *proxyv1.Ack) *snapshot.Snapshot

// Report records what the edge of a name tells of proxies, and returns those of their
// SPIFFE IDs that operators have approved. Where a proxy belongs is for the Enrollments
// to say, and what it enforces for what it has signed. Of those that operators keep out
// it is recorded only that they are gone. The errors are those of the store.
func (r *Registry) Report(ctx context.Context, edge string, told []Told, known Known) (approved []string, err error) {
	var records []storage.Proxy
	var all troubles
	for _, t := range told {
		p, trouble := r.heardOf(t, known)
		all.add(ProxyID(t.SPIFFEID, t.Instance), trouble)
		if r.approved(t.SPIFFEID) {
			approved = append(approved, t.SPIFFEID)
		}
		if p == nil {
			continue
		}
		record, err := recordOf(p)
		if err != nil {
			return nil, err
		}
		if t.Connected {
			record.Replica = AtEdge(edge)
		}
		records = append(records, record)
	}
	r.alarmOf(ctx, edge, all)
	if len(records) == 0 {
		return approved, nil
	}
	return approved, r.store.SaveProxies(ctx, AtEdge(edge), records)
}

func recordOf(p *adminv1.Proxy) (storage.Proxy, error) {
	status, err := proto.Marshal(p)
	return storage.Proxy{
		ID: storage.ProxyID(p.GetId()), SPIFFEID: p.GetSpiffeId(), Instance: p.GetInstance(), Environment: p.GetEnvironment(),
		Status: status, RegisteredAt: p.GetRegisteredAt().AsTime(), LastSeen: p.GetLastSeenAt().AsTime(),
	}, err
}

func (r *Registry) approved(spiffeID string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	ruling := r.rulings[spiffeID]
	return ruling.Approval == storage.Approved && !barred(ruling)
}

// heardOf returns the status of a process by what an edge tells; nil if nothing of it is
// recorded: the process is none, has its stream here, or is kept out and not gone.
func (r *Registry) heardOf(t Told, known Known) (p *adminv1.Proxy, _ trouble) {
	id := ProxyID(t.SPIFFEID, t.Instance)
	if e := r.entry(id); !isInstance(t.Instance) || e != nil && e.session != nil {
		return nil, trouble{}
	}
	a, err := r.Admit(t.SPIFFEID)
	if errors.Is(err, ErrBarred) {
		if t.Connected {
			return nil, trouble{}
		}
		a.Environment = clip(t.Status.GetEnvironment(), maxLabel)
	}
	seen := timestamppb.New(r.now().Add(-max(t.SilentFor, 0)))
	p = &adminv1.Proxy{
		Id: string(id), SpiffeId: t.SPIFFEID, Instance: t.Instance, RegisteredAt: seen, LastSeenAt: seen,
		Environment: a.Environment, Labels: a.Labels,
	}
	switch {
	case t.Connected && err == nil:
		p.Connection = adminv1.Connection_CONNECTION_CONNECTED
	case err != nil && !errors.Is(err, ErrBarred):
		p.Connection = adminv1.Connection_CONNECTION_PENDING
	case t.Status.GetConnection() == adminv1.Connection_CONNECTION_LOST || err != nil:
		p.Connection = adminv1.Connection_CONNECTION_LOST
	}
	describe(p, t.Status)
	doubt := r.bonds.doubt(p, t.Binding)
	if doubt != nil {
		p.AckKeyDoubt = clip(doubt.Error(), maxText)
	}
	found := trouble{unsigned: !r.enforces(p, t, known)}
	if t.Connected && t.Binding != nil { // who is gone has had an SVID, which may have expired since
		found.foreign = doubt
	}
	return p, found
}

// describe copies, within bounds, what a process said of itself that proves nothing.
// The keys of its assertions are not among it: upstreams would believe an edge.
func describe(p, said *adminv1.Proxy) {
	p.Build, p.ProtocolVersion = clip(said.GetBuild(), maxBuild), said.GetProtocolVersion()
	p.Lacks = snapshot.Protocol(said.GetProtocolVersion()).Lacks()
	p.Place = Registration{Cloud: said.GetPlace().GetCloud(), Region: said.GetPlace().GetRegion()}.claim()
	if key := said.GetAckKey(); len(key) <= maxAckKey {
		p.AckKey = key
	}
	p.StartedAt, p.IdentityExpiresAt = moment(said.GetStartedAt()), moment(said.GetIdentityExpiresAt())
	p.ConfigurationAge, p.ClockSkew = span(said.GetConfigurationAge()), span(said.GetClockSkew())
	p.RecordsDropped, p.Draining = max(said.GetRecordsDropped(), 0), said.GetDraining()
	p.Refusal = clip(said.GetRefusal(), maxText)
	if l := said.GetLoad(); l != nil {
		p.Load = &adminv1.Load{RequestsPerSecond: l.GetRequestsPerSecond(), OpenRequests: l.GetOpenRequests(), ProcessorShare: l.GetProcessorShare()}
	}
	for _, l := range said.GetListeners()[:min(len(said.GetListeners()), maxListeners)] {
		p.Listeners = append(p.Listeners, &adminv1.ListenerStatus{
			Namespace: clip(l.GetNamespace(), maxName), Name: clip(l.GetName(), maxName),
			Address: clip(l.GetAddress(), maxText), Error: clip(l.GetError(), maxText),
		})
	}
	if s := said.GetSecurity(); s != nil {
		p.Security = &adminv1.SecurityLane{Age: span(s.GetAge()), Refusal: clip(s.GetRefusal(), maxText)}
	}
}

// maxAckKey is the length of an Ed25519 key, in bytes.
const maxAckKey = 32

// moment and span return nil for what is no time, or no duration.
func moment(t *timestamppb.Timestamp) *timestamppb.Timestamp {
	if t.CheckValid() != nil {
		return nil
	}
	return t
}

func span(d *durationpb.Duration) *durationpb.Duration {
	if d.CheckValid() != nil {
		return nil
	}
	return d
}

// enforces adds to a status what a process has acknowledged. What it has not signed, or
// not with a key that is known to be its own, does not prove that it enforces anything,
// whoever brings it: it counts as if it could not be compared. It returns false if there
// is something that is not signed though the process has a key.
func (r *Registry) enforces(p *adminv1.Proxy, t Told, known Known) (signed bool) {
	signed = true
	judge := func(environment string, ack *proxyv1.Ack) adminv1.Enforcement {
		if _, err := proof.OpenAck(p.GetAckKey(), environment, ack); err != nil {
			signed = signed && len(p.GetAckKey()) == 0 // a build of before has none
			return adminv1.Enforcement_ENFORCEMENT_UNSPECIFIED
		}
		judged := Judge(ack, known(environment, ack))
		if judged == adminv1.Enforcement_ENFORCEMENT_ENFORCED && p.GetAckKeyDoubt() != "" {
			return adminv1.Enforcement_ENFORCEMENT_UNSPECIFIED
		}
		return judged
	}
	if ack := t.SecurityAck; ack != nil {
		s := &adminv1.SecurityLane{
			Sequence: ack.GetRevision(), Enforcement: judge(snapshot.SecurityLane, ack), Rejects: rejectsOf(ack),
			PersistedSequence: ack.GetPersistedRevision(), Age: p.GetSecurity().GetAge(), Refusal: p.GetSecurity().GetRefusal(),
		}
		p.Security = s
		keepSecurity(p, s.GetEnforcement(), r.proofOfSecurity(p, s.GetEnforcement(), ack))
	}
	ack := t.Ack
	if ack == nil || p.GetEnvironment() == "" {
		return signed
	}
	p.Enforcement = judge(p.GetEnvironment(), ack)
	p.Epoch, p.Revision, p.PersistedRevision = ack.GetEpoch(), ack.GetRevision(), ack.GetPersistedRevision()
	p.ReceivedRoot, p.EnforcedRoot, p.Rejects = ack.GetReceivedRoot(), ack.GetEnforcedRoot(), rejectsOf(ack)
	r.prove(p, t)
	return signed
}

// prove adds to a status what the process has signed before, and its last ack: nothing
// but what verifies, with a key that is known to be its own.
func (r *Registry) prove(p *adminv1.Proxy, t Told) {
	if p.GetAckKeyDoubt() != "" {
		return
	}
	said := t.Status.GetProofs()
	if p.GetEnforcement() == adminv1.Enforcement_ENFORCEMENT_ENFORCED {
		said = append(slices.Clip(said), &adminv1.Proof{
			Epoch: t.Ack.GetEpoch(), Revision: t.Ack.GetRevision(), Statement: t.Ack.GetStatement(), Signature: t.Ack.GetSignature(),
		})
	}
	for _, o := range said[max(0, len(said)-maxProofs-1):] {
		s, err := proof.Open(p.GetAckKey(), o.GetStatement(), o.GetSignature())
		if err != nil || s.Environment != p.GetEnvironment() || s.Rejected || s.Position != positionOf(o) || hasProof(p, o) {
			continue
		}
		keep(p, &adminv1.Proof{
			Epoch: o.GetEpoch(), Revision: o.GetRevision(), EnforcedAt: r.since(s),
			Statement: o.GetStatement(), Signature: o.GetSignature(),
		})
	}
}

// proofOfSecurity returns what an ack of the security lane proves; nil if it does not
// verify, or proves nothing.
func (r *Registry) proofOfSecurity(p *adminv1.Proxy, enforcement adminv1.Enforcement, ack *proxyv1.Ack) *adminv1.Proof {
	signed, err := proof.OpenAck(p.GetAckKey(), snapshot.SecurityLane, ack)
	if err != nil || enforcement != adminv1.Enforcement_ENFORCEMENT_ENFORCED {
		return nil
	}
	return &adminv1.Proof{
		Epoch: ack.GetEpoch(), Revision: ack.GetRevision(), EnforcedAt: r.since(signed),
		Statement: ack.GetStatement(), Signature: ack.GetSignature(),
	}
}

// since is from when on a process says that it enforces something, unless its clock is
// ahead.
func (r *Registry) since(s proof.Said) *timestamppb.Timestamp {
	if now := r.now(); s.Since.After(now) {
		return timestamppb.New(now)
	}
	return timestamppb.New(s.Since)
}

func positionOf(o *adminv1.Proof) snapshot.Position {
	return snapshot.Position{Epoch: snapshot.Epoch(o.GetEpoch()), Revision: snapshot.Revision(o.GetRevision())}
}

// hasProof reports whether a status has a proof of that revision already, which was
// said before.
func hasProof(p *adminv1.Proxy, o *adminv1.Proof) bool {
	return proofOf(p.GetProofs(), &proxyv1.Ack{Epoch: o.GetEpoch(), Revision: o.GetRevision()}) != nil
}
