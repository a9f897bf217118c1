package registry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/storage"
)

// ErrBarred says that operators have refused or quarantined a SPIFFE ID. It comes
// with ErrNotAdmitted.
var ErrBarred = errors.New("an operator has refused or quarantined this SPIFFE ID")

// barred reports whether a ruling keeps a SPIFFE ID out.
func barred(r storage.Ruling) bool { return r.Quarantined || r.Approval == storage.Refused }

// followRulings reads what operators rule as they do, until ctx ends. It is apart
// from what reads enrollments and writes records: who is quarantined is cut off
// however much there is to write.
func (r *Registry) followRulings(ctx context.Context) error {
	changed := r.store.Changed(ctx)
	refresh := time.NewTicker(refreshEvery)
	defer refresh.Stop()
	whole := true
	for {
		if err := r.readRulings(ctx, whole); err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "rulings of operators could not be read", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			whole = false
		case <-refresh.C: // the database may have been set back
			whole = true
		}
	}
}

// readRulings reads the rulings that are new, or all of them, and has them take
// effect before it returns.
func (r *Registry) readRulings(ctx context.Context, whole bool) error {
	select {
	case r.reading <- struct{}{}:
		defer func() { <-r.reading }()
	case <-ctx.Done():
		return ctx.Err()
	}
	after := r.ruledTo
	if whole {
		after = 0
	}
	rulings, err := r.store.Rulings(ctx, after)
	if err != nil {
		return err
	}
	if r.ruledTo = after; len(rulings) > 0 {
		r.ruledTo = rulings[len(rulings)-1].Sequence
	}
	if whole || len(rulings) > 0 {
		r.takeRulings(rulings, whole)
	}
	return nil
}

func (r *Registry) takeRulings(rulings []storage.Ruling, whole bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := make(map[string]storage.Ruling, len(rulings))
	if !whole {
		maps.Copy(next, r.rulings)
	}
	for _, ruling := range rulings {
		next[ruling.Subject] = ruling
	}
	before := r.rulings
	r.rulings, r.ruled = next, true
	changed := func(subject string) bool { return before[subject].Sequence != next[subject].Sequence }
	for id, e := range r.local {
		if e.session != nil && (changed(e.proxy.GetSpiffeId()) || changed(string(id))) {
			e.session.tell()
		}
	}
}

// standing returns ErrNotAdmitted if operators keep a SPIFFE ID out, or have to
// approve it and have not. It needs the mutex.
func (r *Registry) standing(spiffeID string, manual bool) error {
	ruling := r.rulings[spiffeID]
	switch {
	case !r.ruled:
		return fmt.Errorf("%w: what operators have ruled is not known yet", ErrNotAdmitted)
	case barred(ruling):
		return fmt.Errorf("%w: %w", ErrNotAdmitted, ErrBarred)
	case manual && ruling.Approval != storage.Approved:
		return fmt.Errorf("%w: an operator has to approve it", ErrNotAdmitted)
	}
	return nil
}

// Rule has what operators rule of a subject be kept, and be in force here when it
// returns: see storage.Rulings.
func (r *Registry) Rule(ctx context.Context, subject string, e storage.AuditEntry, revise func(storage.Ruling, int) (storage.Ruling, error)) error {
	if err := r.store.Rule(ctx, subject, e, revise); err != nil {
		return err
	}
	r.catchUp(ctx)
	return nil
}

// ForgetAfter is how long nothing was heard of a proxy that may be forgotten: long
// enough that its stream is closed, and that this is written, wherever it was.
const ForgetAfter = time.Minute

// Forget deletes what is known of a proxy that was not heard of for ForgetAfter, or
// returns the errors of storage.Rulings.
func (r *Registry) Forget(ctx context.Context, id storage.ProxyID, e storage.AuditEntry) error {
	if known := r.entry(id); known != nil && known.session != nil {
		return storage.ErrHeard
	}
	if err := r.store.Forget(ctx, id, r.now().Add(-ForgetAfter), e); err != nil {
		return err
	}
	r.evict()
	r.catchUp(ctx)
	return nil
}

// catchUp reads rulings after one was committed. Where that fails they come a
// moment later.
func (r *Registry) catchUp(ctx context.Context) {
	if err := r.readRulings(ctx, false); err != nil {
		r.log.WarnContext(ctx, "rulings of operators could not be read", "err", err)
	}
}

// Told receives after operators have ruled something of the process or its SPIFFE
// ID. It carries no data: ask what is current.
func (s *Session) Told() <-chan struct{} { return s.told }

func (s *Session) tell() {
	select {
	case s.told <- struct{}{}:
	default:
	}
}

// Draining reports whether load balancers are to leave the process out.
func (s *Session) Draining() bool {
	s.registry.mu.Lock()
	defer s.registry.mu.Unlock()
	return s.registry.rulings[string(s.id)].Draining
}

// ruledOn adds to a status, which is the caller's, what operators have ruled.
func (r *Registry) ruledOn(p *adminv1.Proxy) *adminv1.Proxy {
	r.mu.Lock()
	defer r.mu.Unlock()
	identity, process := r.rulings[p.GetSpiffeId()], r.rulings[p.GetId()]
	p.Standing, p.StandingRuling = r.standingOf(p.GetSpiffeId()), said(identity)
	p.Drain, p.DrainRuling = process.Draining, said(process)
	p.OperatorLabels = process.Labels
	p.Place = place(p)
	return p
}

// standingOf needs the mutex.
func (r *Registry) standingOf(spiffeID string) adminv1.Standing {
	switch ruling := r.rulings[spiffeID]; {
	case ruling.Quarantined:
		return adminv1.Standing_STANDING_QUARANTINED
	case ruling.Approval == storage.Refused:
		return adminv1.Standing_STANDING_REFUSED
	case ruling.Approval == storage.Approved:
		return adminv1.Standing_STANDING_APPROVED
	}
	if slices.ContainsFunc(r.enrollments, func(e enrollment) bool { return e.manual && e.pattern.Match(spiffeID) }) {
		return adminv1.Standing_STANDING_AWAITING_APPROVAL
	}
	return adminv1.Standing_STANDING_UNSPECIFIED
}

// said is who has ruled so last; nil for nobody.
func said(r storage.Ruling) *adminv1.Ruling {
	if r.Caller == "" {
		return nil
	}
	return &adminv1.Ruling{Reason: r.Reason, Caller: r.Caller, At: timestamppb.New(r.At)}
}

// place returns where a proxy is: by what operators, its Enrollment, and it say, in
// that order; nil if nobody says anything.
func place(p *adminv1.Proxy) *adminv1.Place {
	of := &adminv1.Place{}
	for _, labels := range []map[string]string{p.GetOperatorLabels(), p.GetLabels()} {
		if of.Cloud == "" {
			of.Cloud = labels["cloud"]
		}
		if of.Region == "" {
			of.Region = labels["region"]
		}
	}
	claim := p.GetPlace() // as it was recorded
	if of.GetCloud() == "" && claim.GetCloud() != "" {
		of.Cloud, of.Claimed = claim.GetCloud(), true
	}
	if of.GetRegion() == "" && claim.GetRegion() != "" {
		of.Region, of.Claimed = claim.GetRegion(), true
	}
	if of.GetCloud() == "" && of.GetRegion() == "" {
		return nil
	}
	return of
}
