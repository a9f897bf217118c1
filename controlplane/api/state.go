package api

import (
	"context"
	"errors"
	"sync"

	"github.com/sallyport/sallyport/controlplane/admission"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

// errMoved says that a plan does not do any more what it did when it was made.
var errMoved = errors.New("the fleet has changed since the plan was made")

// state is what a lane holds, as this replica knows it. It is safe for
// concurrent use.
type state struct {
	store storage.Resources
	// reading is held by the one call that reads the database: the others wait
	// for what it finds, and not each with a copy of the fleet.
	reading chan struct{}

	mu    sync.Mutex
	known admission.State
	epoch snapshot.Epoch // that known is of; 0 before the first
}

func newState(s storage.Resources) *state { return &state{store: s, reading: make(chan struct{}, 1)} }

// sync brings the state to where the database is now, or later.
func (s *state) sync(ctx context.Context) error {
	select {
	case s.reading <- struct{}{}:
		defer func() { <-s.reading }()
	case <-ctx.Done():
		return ctx.Err()
	}
	from := s.revision()
	versions, to, err := s.store.Since(ctx, from)
	if err != nil {
		return err
	}
	// Looked at after what changed was read: if it is still the epoch of what is
	// known, both are of one history.
	position, err := s.store.Position(ctx)
	if err != nil {
		return err
	}
	if s.enter(position.Epoch) || to < from { // the database was set back
		s.reset()
		versions, to, err = s.store.Since(ctx, 0)
	}
	if err != nil {
		return err
	}
	return s.advance(versions, to)
}

// enter says which epoch what is known is of from now on, and reports whether it
// was another one before.
func (s *state) enter(epoch snapshot.Epoch) (other bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	other = s.epoch != 0 && s.epoch != epoch
	s.epoch = epoch
	return other
}

func (s *state) revision() snapshot.Revision {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known.Revision()
}

func (s *state) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = admission.State{}
}

func (s *state) advance(versions []storage.Version, to snapshot.Revision) error {
	read, err := admission.ReadVersions(versions, to)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known.Advance(read)
	return nil
}

// compile compiles the conditions of a request that the fleet does not hold
// yet. Others go on meanwhile.
func (s *state) compile(r *admission.Request) {
	s.mu.Lock()
	unknown := s.known.Unknown(r)
	s.mu.Unlock()
	r.Compile(unknown)
}

// plan plans a request, and returns the revision that it was planned at.
func (s *state) plan(r *admission.Request) (*admission.Plan, snapshot.Revision, resource.Problems) {
	s.mu.Lock()
	defer s.mu.Unlock()
	plan, problems := s.known.Plan(r)
	return plan, s.known.Revision(), problems
}

// replan makes a plan again after what was committed since it was made. The
// problems are those that have arisen; errMoved, if the plan has become another
// one. It reads nothing: it is called under the lock that orders commits.
func (s *state) replan(r *admission.Request, plan *admission.Plan, since []storage.Version) (resource.Problems, error) {
	if len(since) == 0 {
		return resource.Problems{}, nil
	}
	var to snapshot.Revision
	for _, v := range since {
		to = max(to, v.Revision)
	}
	if err := s.advance(since, to); err != nil {
		return resource.Problems{}, err
	}
	again, _, problems := s.plan(r)
	if problems.Total == 0 && !plan.Same(again) {
		return problems, errMoved
	}
	return problems, nil
}
