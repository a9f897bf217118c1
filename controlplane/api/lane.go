package api

import (
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/storage"
)

// lane is one of the two histories that changes go to. Neither waits for the
// other.
type lane struct {
	store storage.Resources
	state *state
	// turn is held by the change of this replica that is planned and committed.
	turn chan struct{}
}

func newLane(s storage.Resources) *lane {
	return &lane{store: s, state: newState(s), turn: make(chan struct{}, 1)}
}

// laneOf returns where a change is made. The security lane has no revision that
// could be expected.
func (a *API) laneOf(c change) (*lane, error) {
	switch {
	case c.renew != nil, !c.request.Immediate():
		return a.fleet, nil
	case c.expected != nil:
		return nil, unfit("expected_revision", "goes with what makes a revision: leave it out for the security lane")
	}
	return a.security, nil
}

// laneFor returns where resources of a kind are read, of every kind but those of
// the security lane when it is empty. Of the latter only the newest are known.
func (a *API) laneFor(kind string, revision int64) (*lane, error) {
	switch {
	case !resource.Kind(kind).Immediate():
		return a.fleet, nil
	case revision != 0:
		return nil, unfit("revision", kind+" makes no revision: leave it out, and see what is in force now")
	}
	return a.security, nil
}

// unfit refuses a field of a request.
func unfit(field, message string) error {
	var problems resource.Problems
	problems.Add(resource.Problem{Index: -1, Field: field, Reason: resource.ReasonConflictingFields, Message: message})
	return problem(connect.CodeInvalidArgument, problems)
}

// effective leaves out what has expired: it is gone, and will be removed.
func effective(versions []storage.Version, now time.Time) ([]storage.Version, error) {
	var kept []storage.Version
	for _, v := range versions {
		gone, err := expired(v, now)
		if err != nil {
			return nil, err
		}
		if !gone {
			kept = append(kept, v)
		}
	}
	return kept, nil
}

// expired reports whether a resource has no effect any more.
func expired(v storage.Version, now time.Time) (bool, error) {
	if !v.Key.Kind.Immediate() {
		return false, nil
	}
	p, err := resource.ParseDocument(v.Document)
	if err != nil {
		return false, fmt.Errorf("read %s: %w", v.Key, err)
	}
	at, ok := p.Expires()
	return ok && !at.After(now), nil
}
