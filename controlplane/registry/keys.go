package registry

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sallyport/sallyport/internal/token"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/storage"
)

const (
	// keysFor is how long the keys of a proxy stay published that nobody hears
	// of: it goes on without the control plane, and so do its assertions.
	keysFor = 30 * 24 * time.Hour
	// maxPublished bounds the keys of an environment.
	maxPublished = 10_000
)

var errNotRead = errors.New("enrollments are not known yet")

// AssertionKeys returns the public keys of the assertions that an environment's
// proxies sign, each once, ordered by proxy. Those of a proxy that no Enrollment
// admits to it any more are not among them. storage.ErrNotFound, without asking
// the database, if no Enrollment names the environment.
func (r *Registry) AssertionKeys(ctx context.Context, environment string) ([]token.PublicKey, error) {
	if err := r.enrolled(environment); err != nil {
		return nil, err
	}
	var all []token.PublicKey
	seen := map[string]bool{}
	var after storage.Proxy
	for {
		records, err := r.store.Proxies(ctx, environment, after, page)
		if err != nil {
			return nil, err
		}
		for _, record := range records {
			p, err := r.newest(r.entry(record.ID), record)
			if err != nil {
				return nil, err
			}
			if !r.vouches(p, environment) {
				continue
			}
			for _, point := range p.GetAssertionKeys() {
				k, err := token.ParsePublicKey(point)
				if err != nil || seen[k.ID()] || len(all) == maxPublished {
					continue
				}
				seen[k.ID()] = true
				all = append(all, k)
			}
		}
		if len(records) < page {
			return all, nil
		}
		after = records[len(records)-1]
	}
}

func (r *Registry) enrolled(environment string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !r.ready:
		return errNotRead
	case !slices.ContainsFunc(r.enrollments, func(e enrollment) bool { return e.environment == environment }):
		return storage.ErrNotFound
	}
	return nil
}

// vouches reports whether upstreams of an environment are to believe a proxy.
func (r *Registry) vouches(p *adminv1.Proxy, environment string) bool {
	if len(p.GetAssertionKeys()) == 0 || r.now().Sub(p.GetLastSeenAt().AsTime()) > keysFor {
		return false
	}
	a, err := r.Admit(p.GetSpiffeId())
	return err == nil && a.Environment == environment
}
