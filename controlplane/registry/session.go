package registry

import (
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/internal/token"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
)

const (
	// What a proxy says of itself is kept up to these bounds.
	maxRejects   = 1000
	maxListeners = 256
	maxKeys      = 4
	maxName      = 253
	maxText      = 1024
	maxBuild     = 256
	maxLabel     = 63
)

// Session is the stream of one proxy process. A later stream of the same
// process takes its place, and what the earlier one still says is ignored. It
// is safe for concurrent use.
type Session struct {
	registry *Registry
	id       storage.ProxyID
	replaced chan struct{}
	told     chan struct{} // has room for one
	moved    chan struct{} // the same
	// beat is the last heartbeat; it needs the registry's mutex.
	beat        *proxyv1.Heartbeat
	inspections inspections
	// doubted says that it was told that acks are not signed as they should be.
	doubted atomic.Bool
}

// Open begins a session in an environment. The caller closes it. ErrTooMany,
// ErrInstance; ErrNotAdmitted if operators have kept it out since it was admitted.
func (r *Registry) Open(reg Registration, a Admission) (*Session, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.standing(reg.SPIFFEID, false); err != nil {
		return nil, err
	}
	id, old, err := r.known(reg)
	if err != nil {
		return nil, err
	}
	if old.session != nil {
		close(old.session.replaced)
	}
	p := proto.CloneOf(old.proxy)
	p.Environment, p.Labels = a.Environment, a.Labels
	p.Connection, p.LastSeenAt = adminv1.Connection_CONNECTION_CONNECTED, timestamppb.New(r.now())
	unsay(p)
	s := &Session{registry: r, id: id, replaced: make(chan struct{}), told: make(chan struct{}, 1),
		moved: make(chan struct{}, 1), inspections: newInspections(),
	}
	r.put(id, &entry{proxy: p, session: s, acks: r.newAcks()})
	return s, nil
}

// unsay forgets what a proxy said that it enforces. What it said on another stream
// proves nothing of this one: the process may have been started again, with nothing.
func unsay(p *adminv1.Proxy) {
	p.Enforcement, p.Refusal = adminv1.Enforcement_ENFORCEMENT_UNSPECIFIED, ""
	p.Epoch, p.Revision, p.PersistedRevision = 0, 0, 0
	p.ReceivedRoot, p.EnforcedRoot, p.Rejects = nil, nil, nil
	p.Security = nil
}

// Replaced is closed when a later stream of the process takes the place of this
// one.
func (s *Session) Replaced() <-chan struct{} { return s.replaced }

// SealingKey is what the process gave when it registered with this replica, to
// seal secrets to; nil if it did not.
func (s *Session) SealingKey() []byte {
	s.registry.mu.Lock()
	defer s.registry.mu.Unlock()
	return s.registry.given[s.id].sealing
}

// Close ends the session: the proxy is lost until it opens another.
func (s *Session) Close() {
	s.revise(func(p *adminv1.Proxy) { p.Connection = adminv1.Connection_CONNECTION_LOST }, nil)
}

// Admitted records where the proxy belongs now.
func (s *Session) Admitted(a Admission) {
	s.revise(func(p *adminv1.Proxy) { p.Environment, p.Labels = a.Environment, a.Labels }, s)
}

// heard replaces the status by what change makes of a copy, after the proxy
// said something.
func (s *Session) heard(change func(p *adminv1.Proxy, now time.Time)) {
	s.revise(func(p *adminv1.Proxy) {
		now := s.registry.now()
		p.LastSeenAt = timestamppb.New(now)
		change(p, now)
	}, s)
}

// revise replaces the status by what change makes of a copy, and the session
// by next.
func (s *Session) revise(change func(p *adminv1.Proxy), next *Session) {
	s.registry.mu.Lock()
	defer s.registry.mu.Unlock()
	e := s.registry.local[s.id]
	if e == nil || e.session != s {
		return
	}
	p := copyOf(e.proxy)
	change(p)
	s.registry.put(s.id, &entry{proxy: p, session: next, acks: e.acks})
}

// copyOf returns a status to change, which shares with p what that refers to: such is
// replaced, and never changed. Thousands of proxies acknowledge at the same time, and a
// deep copy takes longer than what they say.
func copyOf(p *adminv1.Proxy) *adminv1.Proxy {
	next := &adminv1.Proxy{}
	to := next.ProtoReflect()
	p.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		to.Set(field, v)
		return true
	})
	return next
}

// Acked records what the proxy says that it enforces. known is the snapshot
// that its statement is about; nil when this replica does not have it.
func (s *Session) Acked(ack *proxyv1.Ack, known *snapshot.Snapshot) adminv1.Enforcement {
	enforcement := Judge(ack, known)
	proven := s.proof(ack, enforcement)
	s.keepAck(policyLane, ack)
	t := turn{lane: policyLane, after: enforcement, at: ack.GetRevision()}
	s.heard(func(p *adminv1.Proxy, _ time.Time) {
		t.before, p.Enforcement = p.GetEnforcement(), enforcement
		if ack.GetEpoch() != p.GetEpoch() || ack.GetRevision() != p.GetRevision() {
			p.Refusal = "" // else it still stands: this is said again, or is on disk now
		}
		p.Epoch, p.Revision = ack.GetEpoch(), ack.GetRevision()
		p.ReceivedRoot, p.EnforcedRoot = ack.GetReceivedRoot(), ack.GetEnforcedRoot()
		p.PersistedRevision = ack.GetPersistedRevision()
		p.Rejects = rejectsOf(ack)
		keep(p, proven)
	})
	s.alarm(t)
	return enforcement
}

func rejectsOf(ack *proxyv1.Ack) (rejects []*adminv1.Reject) {
	for _, r := range ack.GetRejects()[:min(len(ack.GetRejects()), maxRejects)] {
		rejects = append(rejects, &adminv1.Reject{
			Kind:      clip(r.GetKey().GetKind(), maxName),
			Namespace: clip(r.GetKey().GetNamespace(), maxName),
			Name:      clip(r.GetKey().GetName(), maxName),
			Reason:    clip(r.GetReason(), maxText),
		})
	}
	return rejects
}

// Judged records the judgement on an ack that was recorded before its snapshot
// was known here.
func (s *Session) Judged(ack *proxyv1.Ack, known *snapshot.Snapshot) adminv1.Enforcement {
	enforcement := Judge(ack, known)
	proven := s.proof(ack, enforcement)
	t := turn{lane: policyLane, after: enforcement, at: ack.GetRevision()}
	s.revise(func(p *adminv1.Proxy) {
		t.before, p.Enforcement = p.GetEnforcement(), enforcement
		keep(p, proven)
	}, s)
	s.alarm(t)
	return enforcement
}

// Refused records that the proxy did not take an update.
func (s *Session) Refused(refusal *proxyv1.Refusal) {
	s.heard(func(p *adminv1.Proxy, _ time.Time) { p.Refusal = refusalOf(refusal) })
}

func refusalOf(r *proxyv1.Refusal) string { return clip(r.GetReason()+": "+r.GetDetail(), maxText) }

// Beat records a heartbeat. What cannot be meant is left out of it.
func (s *Session) Beat(h *proxyv1.Heartbeat) {
	s.heard(func(p *adminv1.Proxy, now time.Time) {
		p.ConfigurationAge, p.IdentityExpiresAt, p.ClockSkew = nil, nil, nil
		if h.GetConfigurationAge().CheckValid() == nil {
			p.ConfigurationAge = h.GetConfigurationAge()
		}
		if p.GetSecurity() != nil {
			p.Security = proto.CloneOf(p.GetSecurity())
			p.Security.Age = nil
			if h.GetSecurityAge().CheckValid() == nil {
				p.Security.Age = h.GetSecurityAge()
			}
		}
		if h.GetIdentityExpiresAt().CheckValid() == nil {
			p.IdentityExpiresAt = h.GetIdentityExpiresAt()
		}
		if h.GetSentAt().CheckValid() == nil {
			p.ClockSkew = durationpb.New(h.GetSentAt().AsTime().Sub(now))
		}
		p.RecordsDropped = max(h.GetRecordsDropped(), 0)
		p.Draining, p.Load = h.GetDraining(), load(s.beat, h)
		s.beat = h
		p.AssertionKeys = nil
		for _, point := range h.GetAssertionKeys()[:min(len(h.GetAssertionKeys()), maxKeys)] {
			if _, err := token.ParsePublicKey(point); err == nil {
				p.AssertionKeys = append(p.AssertionKeys, point)
			}
		}
		p.Listeners = nil
		for _, l := range h.GetListeners()[:min(len(h.GetListeners()), maxListeners)] {
			p.Listeners = append(p.Listeners, &adminv1.ListenerStatus{
				Namespace: clip(l.GetNamespace(), maxName), Name: clip(l.GetName(), maxName),
				Address: clip(l.GetAddress(), maxText), Error: clip(l.GetError(), maxText),
			})
		}
	})
}

// load is what a proxy had to do between two heartbeats; nil before there are two,
// and when they make no sense together.
func load(before, now *proxyv1.Heartbeat) *adminv1.Load {
	took := now.GetSentAt().AsTime().Sub(before.GetSentAt().AsTime()).Seconds()
	requests := now.GetRequests() - before.GetRequests()
	busy := (now.GetProcessorTime().AsDuration() - before.GetProcessorTime().AsDuration()).Seconds()
	processors := float64(now.GetProcessors())
	if before == nil || now.GetProcessorTime() == nil || processors <= 0 || took <= 0 || requests < 0 || busy < 0 {
		return nil
	}
	return &adminv1.Load{
		RequestsPerSecond: float64(requests) / took,
		OpenRequests:      max(now.GetOpenRequests(), 0),
		ProcessorShare:    min(busy/took/processors, 1),
	}
}

// clip returns s as text of at most n bytes.
func clip(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "")
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
	about, okAbout := snapshot.ParseDigest(ack.GetHeadDigest())
	head := known.Head()
	if !ok || !okEnforced || !okAbout || received != head.Root || about != head.Digest() ||
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
