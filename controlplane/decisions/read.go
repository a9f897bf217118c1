package decisions

import (
	"errors"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
	"github.com/sallyport/sallyport/storage"
)

const (
	// ahead is how far the clock of a proxy may be: there is no room for later days.
	ahead = 23 * time.Hour
	// Bounds of what is searched for, in bytes.
	maxID   = 2048
	maxName = 127
	maxWord = 63
	// Bounds of what is told of how requests went, in bytes and in number.
	maxTarget   = 2048
	maxEndpoint = 261
	maxAttempts = 100
)

// batch is what a push holds.
type batch struct {
	storage.Records
	refused int64
}

// intake is what the records of a push have in common.
type intake struct {
	*Service
	environment string
	rule        *resourcev1.Records
	now         time.Time
}

// read understands the records of a push, each for itself.
func (s *Service) read(req *proxyv1.PushRequest, environment string, rule *resourcev1.Records) (b batch) {
	raw := req.GetDecisions()
	b.Boot, b.Last = req.GetBoot(), req.GetFirstSequence()+int64(len(raw))-1
	b.Decisions = make([]storage.Decision, 0, len(raw))
	n := intake{s, environment, rule, s.Now()}
	for i, r := range raw {
		if err := n.add(&b, r, req.GetFirstSequence()+int64(i)); err != nil {
			b.refused++
		}
	}
	return b
}

var errImplausible = errors.New("the ID or the time of the record cannot be meant")

// add adds a record to a batch.
func (n *intake) add(b *batch, raw []byte, sequence int64) error {
	var m decisionv1.Decision
	if err := proto.Unmarshal(raw, &m); err != nil {
		return err
	}
	id, err := storage.ParseDecisionID(m.GetId())
	if err != nil {
		return err
	}
	trace := confine(&m)
	at, gone := id.Time(), n.now.Add(-n.Retention)
	switch ends := m.GetTime() == nil && m.GetOutcome() != nil; {
	case at.After(n.now.Add(ahead)):
		return errImplausible
	case ends && at.Before(gone):
		return nil // it went on for longer than its decision is kept
	case ends:
		o := storage.Outcome{ID: id, Sequence: sequence}
		o.Record, err = proto.Marshal(&decisionv1.Decision{Outcome: m.GetOutcome()})
		b.Outcomes = append(b.Outcomes, o)
		return err
	case at.Before(gone), at.UnixMilli() != m.GetTime().AsTime().UnixMilli():
		return errImplausible
	}
	d := storage.Decision{ID: id, Sequence: sequence, Trace: trace}
	err = n.decision(&d, &m)
	b.Decisions = append(b.Decisions, d)
	return err
}

// decision believes a proxy what it decided, and neither where it belongs nor who
// it is.
func (n *intake) decision(d *storage.Decision, m *decisionv1.Decision) (err error) {
	m.Environment, m.Proxy, m.Boot, m.Sequence = n.environment, "", nil, 0
	if n.rule.GetPseudonymise() {
		n.Pseudonyms.hide(m)
	}
	d.Environment, d.Principal, d.Route = n.environment, clip(m.GetPrincipal().GetId(), maxID), clip(m.GetRoute(), maxName)
	d.Allow, d.Reason = m.GetAllow(), clip(m.GetReason(), maxWord)
	d.Record, err = proto.Marshal(m)
	return err
}

// confine holds what a record says of a trace, and of how the request went, to the
// bounds of decision.v1, whoever made it. It returns the trace, zero for none.
func confine(m *decisionv1.Decision) storage.TraceID {
	trace, err := storage.ParseTraceID(m.GetTraceId())
	if err != nil {
		m.TraceId = ""
	}
	o := m.GetOutcome()
	if o == nil {
		return trace
	}
	o.Target, o.Upstream, o.Endpoint = text(o.GetTarget(), maxTarget), text(o.GetUpstream(), maxName), text(o.GetEndpoint(), maxEndpoint)
	if o.Attempts != nil {
		*o.Attempts = min(max(*o.Attempts, 0), maxAttempts)
	}
	return trace
}

// text returns s as text of at most n bytes.
func text(s string, n int) string { return strings.ToValidUTF8(clip(s, n), "\ufffd") }

func clip(s string, n int) string { return s[:min(len(s), n)] }

// rules are what environments say of records, as they were read last.
type rules struct {
	mu    sync.Mutex
	known map[string]known
}

type known struct {
	digest snapshot.Digest
	rule   *resourcev1.Records
}

var errNotYet = errors.New("the environment is not known yet")

// of returns the rule of an environment; nil for none.
func (r *rules) of(environment string, s *snapshot.Snapshot) (*resourcev1.Records, error) {
	if s == nil {
		return nil, errNotYet // it may ask for pseudonyms
	}
	e, there := s.Set().Lookup(resource.Key{Kind: resource.KindEnvironment, Name: environment})
	if !there {
		return nil, errNotYet
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if k, ok := r.known[environment]; ok && k.digest == e.Digest {
		return k.rule, nil
	}
	p, err := resource.ParseDocument(e.Document)
	if err != nil {
		return nil, err
	}
	spec, _ := p.Spec.(*resourcev1.Environment)
	if r.known == nil {
		r.known = map[string]known{}
	}
	r.known[environment] = known{e.Digest, spec.GetRecords()}
	return spec.GetRecords(), nil
}
