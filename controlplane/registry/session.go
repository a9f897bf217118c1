package registry

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
)

// Session is the stream of one proxy process. A later stream of the same
// process takes its place, and what the earlier one still says is ignored. It
// is safe for concurrent use.
type Session struct {
	registry *Registry
	id       storage.ProxyID
}

// Open begins a session in an environment. The caller closes it.
func (r *Registry) Open(reg Registration, a Admission) *Session {
	id := ProxyID(reg.SPIFFEID, reg.Instance)
	s := &Session{registry: r, id: id}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := timestamppb.New(r.now())
	p := &adminv1.Proxy{Id: string(id), SpiffeId: reg.SPIFFEID, Instance: reg.Instance, RegisteredAt: now}
	if e := r.local[id]; e != nil {
		p = proto.CloneOf(e.proxy)
	}
	p.Environment, p.Labels = a.Environment, a.Labels
	p.Connection, p.LastSeenAt = adminv1.Connection_CONNECTION_CONNECTED, now
	r.put(id, &entry{proxy: p, session: s})
	return s
}

// Close ends the session: the proxy is lost until it opens another.
func (s *Session) Close() {
	s.registry.mu.Lock()
	defer s.registry.mu.Unlock()
	e := s.registry.local[s.id]
	if e == nil || e.session != s {
		return
	}
	p := proto.CloneOf(e.proxy)
	p.Connection = adminv1.Connection_CONNECTION_LOST
	s.registry.put(s.id, &entry{proxy: p})
}

// update replaces the status by what change makes of a copy.
func (s *Session) update(change func(p *adminv1.Proxy, now time.Time)) {
	s.registry.mu.Lock()
	defer s.registry.mu.Unlock()
	e := s.registry.local[s.id]
	if e == nil || e.session != s {
		return
	}
	p, now := proto.CloneOf(e.proxy), s.registry.now()
	p.LastSeenAt = timestamppb.New(now)
	change(p, now)
	s.registry.put(s.id, &entry{proxy: p, session: s})
}

// Acked records what the proxy says that it enforces. known is the snapshot
// that its statement is about; nil when this replica does not have it.
func (s *Session) Acked(ack *proxyv1.Ack, known *snapshot.Snapshot) adminv1.Enforcement {
	enforcement := Judge(ack, known)
	s.update(func(p *adminv1.Proxy, _ time.Time) {
		p.Enforcement = enforcement
		p.Epoch, p.Revision = ack.GetEpoch(), ack.GetRevision()
		p.ReceivedRoot, p.EnforcedRoot = ack.GetReceivedRoot(), ack.GetEnforcedRoot()
		p.PersistedRevision = ack.GetPersistedRevision()
		p.Refusal = ""
		p.Rejects = nil
		for _, r := range ack.GetRejects() {
			p.Rejects = append(p.Rejects, &adminv1.Reject{
				Kind:      r.GetKey().GetKind(),
				Namespace: r.GetKey().GetNamespace(),
				Name:      r.GetKey().GetName(),
				Reason:    r.GetReason(),
			})
		}
	})
	return enforcement
}

// Refused records that the proxy did not take an update.
func (s *Session) Refused(refusal *proxyv1.Refusal) {
	s.update(func(p *adminv1.Proxy, _ time.Time) {
		p.Refusal = refusal.GetReason() + ": " + refusal.GetDetail()
	})
}

// Beat records a heartbeat.
func (s *Session) Beat(h *proxyv1.Heartbeat) {
	s.update(func(p *adminv1.Proxy, now time.Time) {
		p.ConfigurationAge = h.GetConfigurationAge()
		p.IdentityExpiresAt = h.GetIdentityExpiresAt()
		if h.GetSentAt().CheckValid() == nil {
			p.ClockSkew = durationpb.New(h.GetSentAt().AsTime().Sub(now))
		}
		p.Listeners = nil
		for _, l := range h.GetListeners() {
			p.Listeners = append(p.Listeners, &adminv1.ListenerStatus{
				Namespace: l.GetNamespace(), Name: l.GetName(), Address: l.GetAddress(), Error: l.GetError(),
			})
		}
	})
}

// Judge compares what a proxy says that it enforces with the snapshot that it
// is about. ENFORCED means that the root over its compiled table is the root
// that was signed; ENFORCED_WITH_REJECTS, that it is that root less the
// documents that the proxy rejected by name. Everything else is DRIFT, but for
// a snapshot that is not known here, of which nothing is said.
func Judge(ack *proxyv1.Ack, known *snapshot.Snapshot) adminv1.Enforcement {
	if known == nil {
		return adminv1.Enforcement_ENFORCEMENT_UNSPECIFIED
	}
	received, ok := snapshot.ParseDigest(ack.GetReceivedRoot())
	enforced, okEnforced := snapshot.ParseDigest(ack.GetEnforcedRoot())
	head := known.Head()
	if !ok || !okEnforced || received != head.Root ||
		snapshot.Revision(ack.GetRevision()) != head.Revision || snapshot.Epoch(ack.GetEpoch()) != head.Epoch {
		return adminv1.Enforcement_ENFORCEMENT_DRIFT
	}
	rejected := make([]resource.Key, len(ack.GetRejects()))
	for i, r := range ack.GetRejects() {
		rejected[i] = resource.Key{
			Kind: resource.Kind(r.GetKey().GetKind()), Namespace: r.GetKey().GetNamespace(), Name: r.GetKey().GetName(),
		}
		if _, there := known.Set().Lookup(rejected[i]); !there {
			return adminv1.Enforcement_ENFORCEMENT_DRIFT
		}
	}
	switch {
	case enforced != known.Set().Without(rejected):
		return adminv1.Enforcement_ENFORCEMENT_DRIFT
	case len(rejected) > 0:
		return adminv1.Enforcement_ENFORCEMENT_ENFORCED_WITH_REJECTS
	}
	return adminv1.Enforcement_ENFORCEMENT_ENFORCED
}
