package registry

import (
	"cmp"
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
// proxies sign, each once: of those that have registered here, then of all others,
// ordered by proxy. Those of a proxy that no Enrollment admits to it any more are
// not among them. storage.ErrNotFound, without asking the database, if no
// Enrollment names the environment.
func (r *Registry) AssertionKeys(ctx context.Context, environment string) ([]token.PublicKey, error) {
	if err := r.enrolled(environment); err != nil {
		return nil, err
	}
	all := keys{seen: map[string]bool{}}
	// Who has told its keys here signs before the database knows of them.
	for _, p := range r.registered(environment) {
		all.add(p)
	}
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
			if r.vouches(p, environment) {
				all.add(p)
			}
		}
		if len(records) < page {
			return all.keys, nil
		}
		after = records[len(records)-1]
	}
}

// keys are those of several proxies, each once.
type keys struct {
	keys []token.PublicKey
	seen map[string]bool
}

func (k *keys) add(p *adminv1.Proxy) {
	for _, point := range p.GetAssertionKeys() {
		key, err := token.ParsePublicKey(point)
		if err != nil || k.seen[key.ID()] || len(k.keys) == maxPublished {
			continue
		}
		k.seen[key.ID()] = true
		k.keys = append(k.keys, key)
	}
}

// registered returns what is known here of those proxies of an environment that its
// upstreams are to believe, in order.
func (r *Registry) registered(environment string) (all []*adminv1.Proxy) {
	r.mu.Lock()
	for _, e := range r.local {
		all = append(all, e.proxy)
	}
	r.mu.Unlock()
	all = slices.DeleteFunc(all, func(p *adminv1.Proxy) bool { return !r.vouches(p, environment) })
	slices.SortFunc(all, func(a, b *adminv1.Proxy) int {
		return cmp.Or(cmp.Compare(a.GetSpiffeId(), b.GetSpiffeId()), cmp.Compare(a.GetInstance(), b.GetInstance()))
	})
	return all
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
