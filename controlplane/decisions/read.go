package decisions

import (
	"errors"
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
)

// batch is what a push holds.
type batch struct {
	journal   storage.Journal
	last      int64
	refused   int64
	decisions []storage.Decision
}

// read understands the records of a push, each for itself.
func (s *Service) read(req *proxyv1.PushRequest, environment string, rule *resourcev1.Records) batch {
	raw := req.GetDecisions()
	b := batch{
		journal: storage.Journal{Boot: req.GetBoot()}, last: req.GetFirstSequence() + int64(len(raw)) - 1,
		decisions: make([]storage.Decision, 0, len(raw)),
	}
	now := s.Now()
	for i, r := range raw {
		d, err := s.decision(r, environment, rule, now)
		if err != nil {
			b.refused++
			continue
		}
		d.Sequence = req.GetFirstSequence() + int64(i)
		b.decisions = append(b.decisions, d)
	}
	return b
}

var errImplausible = errors.New("the ID or the time of the record cannot be meant")

// decision believes a proxy what it decided, and neither where it belongs nor who
// it is.
func (s *Service) decision(raw []byte, environment string, rule *resourcev1.Records, now time.Time) (d storage.Decision, err error) {
	var m decisionv1.Decision
	if err := proto.Unmarshal(raw, &m); err != nil {
		return d, err
	}
	if d.ID, err = storage.ParseDecisionID(m.GetId()); err != nil {
		return d, err
	}
	if at := d.ID.Time(); at.Before(now.Add(-s.Retention)) || at.After(now.Add(ahead)) || at.UnixMilli() != m.GetTime().AsTime().UnixMilli() {
		return d, errImplausible
	}
	m.Environment, m.Proxy, m.Boot, m.Sequence = environment, "", nil, 0
	if rule.GetPseudonymise() {
		s.Pseudonyms.hide(&m)
	}
	d.Environment, d.Principal, d.Route = environment, clip(m.GetPrincipal().GetId(), maxID), clip(m.GetRoute(), maxName)
	d.Allow, d.Reason = m.GetAllow(), clip(m.GetReason(), maxWord)
	d.Record, err = proto.Marshal(&m)
	return d, err
}

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
