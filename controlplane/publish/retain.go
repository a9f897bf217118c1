package publish

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/storage"
)

const (
	// retainEvery is how often history is trimmed.
	retainEvery = 10 * time.Minute
	// collectAtOnce bounds the versions of a transaction.
	collectAtOnce = 1000
	// proxiesAtOnce is how many proxies are read at once.
	proxiesAtOnce = 1000
)

// History is the part of the store that retention needs.
type History interface {
	TrimHistory(ctx context.Context, term storage.Term, before time.Time, keep []storage.EnvironmentPoint) (snapshot.Revision, error)
	CollectVersions(ctx context.Context, term storage.Term, limit int) (int, error)
	Proxies(ctx context.Context, environment string, after storage.Proxy, limit int) ([]storage.Proxy, error)
}

// retain forgets what is older than the retention until ctx ends, or there is
// another publisher.
func (p *Publisher) retain(ctx context.Context, term storage.Term) error {
	ticker := time.NewTicker(p.retainEvery)
	defer ticker.Stop()
	for {
		begins, n, err := p.forget(ctx, term)
		switch {
		case errors.Is(err, storage.ErrFenced):
			return err
		case err != nil && ctx.Err() == nil:
			p.log.WarnContext(ctx, "history was not trimmed", "err", err)
		case n > 0:
			p.log.InfoContext(ctx, "history was trimmed", "from", begins, "changes", n)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// forget moves the beginning of the history, and removes what is before it. It
// returns where that is, and how many versions were removed.
func (p *Publisher) forget(ctx context.Context, term storage.Term) (begins snapshot.Revision, collected int, err error) {
	keep, err := p.enforced(ctx)
	if err != nil {
		return 0, 0, err
	}
	if begins, err = p.history.TrimHistory(ctx, term, p.now().Add(-p.retention), keep); err != nil {
		return 0, 0, fmt.Errorf("trim history: %w", err)
	}
	for n := collectAtOnce; n == collectAtOnce; collected += n {
		if n, err = p.history.CollectVersions(ctx, term, collectAtOnce); err != nil {
			return begins, collected, fmt.Errorf("collect versions: %w", err)
		}
	}
	return begins, collected, nil
}

// enforced returns the states that proxies have, in memory or on disk, lost ones
// included. A record that is not understood ends it: nobody knows what that one has.
func (p *Publisher) enforced(ctx context.Context) ([]storage.EnvironmentPoint, error) {
	known := map[storage.EnvironmentPoint]bool{}
	var after storage.Proxy
	for n := proxiesAtOnce; n == proxiesAtOnce; {
		page, err := p.history.Proxies(ctx, "", after, proxiesAtOnce)
		if err != nil {
			return nil, fmt.Errorf("read proxies: %w", err)
		}
		for _, one := range page {
			var status adminv1.Proxy
			if err := proto.Unmarshal(one.Status, &status); err != nil {
				return nil, fmt.Errorf("read proxy %s: %w", one.ID, err)
			}
			for _, at := range [...]int64{status.GetRevision(), status.GetPersistedRevision()} {
				known[storage.EnvironmentPoint{Environment: one.Environment, Revision: snapshot.Revision(at)}] = at > 0
			}
			after = one
		}
		n = len(page)
	}
	points := make([]storage.EnvironmentPoint, 0, len(known))
	for point, has := range known {
		if has {
			points = append(points, point)
		}
	}
	return points, nil
}
