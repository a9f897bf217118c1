package edge

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

// maxApproved bounds the SPIFFE IDs that are known to be approved.
const maxApproved = 10_000

var (
	errNoRoster   = errors.New("no roster has been taken from etcd yet")
	errNoDatabase = errors.New("this replica has no database")
)

// store stands where a database does for the registry of an edge: what is read comes
// from the roster, and what is saved is handed on.
type store struct {
	edge    *Edge
	replica string

	mu      sync.Mutex
	waiting map[chan struct{}]struct{} // what Changed returned
	// approved are the SPIFFE IDs of which a replica with a database has said so.
	approved map[string]bool
	rulings  rulings
}

// follow tells the registry of changes until ctx ends.
func (s *store) follow(ctx context.Context) error {
	for {
		_, changed := s.edge.roster.Current()
		s.revise()
		s.tell()
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// revise makes the rulings what the roster says, and what was approved.
func (s *store) revise() (changed bool) {
	r, _ := s.edge.roster.Current()
	s.mu.Lock()
	defer s.mu.Unlock()
	now := map[string]ruling{}
	for id := range s.approved {
		now[id] = ruling{approved: true}
	}
	if r != nil {
		for _, id := range r.Barred {
			now[id] = ruling{barred: true}
		}
		for _, id := range r.Draining {
			of := now[string(id)]
			of.draining = true
			now[string(id)] = of
		}
	}
	return s.rulings.revise(now)
}

// tell wakes who waits for Changed.
func (s *store) tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.waiting {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// Changed implements registry.Store. The channel is never closed.
func (s *store) Changed(ctx context.Context) <-chan struct{} {
	c := make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting[c] = struct{}{}
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.waiting, c)
	})
	return c
}

// List implements registry.Store, for enrollments.
func (s *store) List(_ context.Context, f storage.Filter) ([]storage.Version, snapshot.Revision, error) {
	r, _ := s.edge.roster.Current()
	switch {
	case r == nil:
		return nil, 0, errNoRoster
	case f.Kind != resource.KindEnrollment:
		return nil, 0, errNoDatabase
	}
	from, found := slices.BinarySearchFunc(r.Enrollments, f.After, func(v storage.Version, k resource.Key) int { return v.Key.Compare(k) })
	if found {
		from++
	}
	return r.Enrollments[from:min(from+f.Limit, len(r.Enrollments))], 0, nil
}

// Rulings implements storage.Rulings.
func (s *store) Rulings(_ context.Context, after int64) ([]storage.Ruling, error) {
	if r, _ := s.edge.roster.Current(); r == nil {
		return nil, errNoRoster
	}
	s.revise()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rulings.after(after), nil
}

// SaveProxies implements storage.Fleet: it hands the records on.
func (s *store) SaveProxies(ctx context.Context, _ string, proxies []storage.Proxy) error {
	return s.report(ctx, proxies)
}

// Proxy implements storage.Fleet: nothing is kept here.
func (s *store) Proxy(context.Context, storage.ProxyID) (storage.Proxy, error) {
	return storage.Proxy{}, storage.ErrNotFound
}

// Proxies implements storage.Fleet: nothing is kept here.
func (s *store) Proxies(context.Context, string, storage.Proxy, int) ([]storage.Proxy, error) {
	return nil, nil
}

// Rule implements storage.Rulings: nobody rules here.
func (s *store) Rule(context.Context, string, storage.AuditEntry, func(storage.Ruling, int) (storage.Ruling, error)) error {
	return errNoDatabase
}

// Forget implements storage.Rulings: nobody rules here.
func (s *store) Forget(context.Context, storage.ProxyID, time.Time, storage.AuditEntry) error {
	return errNoDatabase
}

// ForgetLost implements storage.Rulings: nobody rules here.
func (s *store) ForgetLost(context.Context, time.Time, int, storage.AuditEntry) ([]storage.ProxyID, error) {
	return nil, errNoDatabase
}
