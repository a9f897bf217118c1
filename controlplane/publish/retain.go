package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	TrimSecurity(ctx context.Context, term storage.Term, before time.Time, keep snapshot.Revision) (snapshot.Revision, error)
	CollectVersions(ctx context.Context, term storage.Term, limit int) (int, error)
	Proxies(ctx context.Context, environment string, after storage.Proxy, limit int) ([]storage.Proxy, error)
}

// RetentionConfig is what a Retention needs. All fields but Now are required.
type RetentionConfig struct {
	History History
	// For is for how long the states of revisions that were superseded are kept.
	For time.Duration
	Log *slog.Logger
	Now func() time.Time // time.Now when nil
}

// Retention forgets what is older than it keeps.
type Retention struct {
	RetentionConfig
	every time.Duration
}

// NewRetention returns one that forgets nothing until Run.
func NewRetention(c RetentionConfig) *Retention {
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Retention{RetentionConfig: c, every: retainEvery}
}

// Run is a Task: it forgets until ctx ends, or there is another publisher.
func (r *Retention) Run(ctx context.Context, term storage.Term) error {
	ticker := time.NewTicker(r.every)
	defer ticker.Stop()
	for {
		begins, n, err := r.forget(ctx, term)
		switch {
		case errors.Is(err, storage.ErrFenced):
			return err
		case err != nil && ctx.Err() == nil:
			r.Log.WarnContext(ctx, "history was not trimmed", "err", err)
		case n > 0:
			r.Log.InfoContext(ctx, "history was trimmed", "from", begins, "changes", n)
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
func (r *Retention) forget(ctx context.Context, term storage.Term) (begins snapshot.Revision, collected int, err error) {
	keep, sequence, err := r.enforced(ctx)
	if err != nil {
		return 0, 0, err
	}
	before := r.Now().Add(-r.For)
	if begins, err = r.History.TrimHistory(ctx, term, before, keep); err != nil {
		return 0, 0, fmt.Errorf("trim history: %w", err)
	}
	if _, err = r.History.TrimSecurity(ctx, term, before, sequence); err != nil {
		return 0, 0, fmt.Errorf("trim history of the security lane: %w", err)
	}
	for n := collectAtOnce; n == collectAtOnce; collected += n {
		if n, err = r.History.CollectVersions(ctx, term, collectAtOnce); err != nil {
			return begins, collected, fmt.Errorf("collect versions: %w", err)
		}
	}
	return begins, collected, nil
}

// enforced returns the states that proxies have, in memory or on disk, lost ones
// included, and the first sequence of the security lane that one has; 0 for none. A
// record that is not understood ends it: nobody knows what that one has.
func (r *Retention) enforced(ctx context.Context) (points []storage.EnvironmentPoint, sequence snapshot.Revision, err error) {
	known := map[storage.EnvironmentPoint]bool{}
	var after storage.Proxy
	for n := proxiesAtOnce; n == proxiesAtOnce; {
		page, err := r.History.Proxies(ctx, "", after, proxiesAtOnce)
		if err != nil {
			return nil, 0, fmt.Errorf("read proxies: %w", err)
		}
		for _, one := range page {
			var status adminv1.Proxy
			if err := proto.Unmarshal(one.Status, &status); err != nil {
				return nil, 0, fmt.Errorf("read proxy %s: %w", one.ID, err)
			}
			for _, at := range [...]int64{status.GetRevision(), status.GetPersistedRevision()} {
				known[storage.EnvironmentPoint{Environment: one.Environment, Revision: snapshot.Revision(at)}] = at > 0
			}
			for _, at := range [...]int64{status.GetSecurity().GetSequence(), status.GetSecurity().GetPersistedSequence()} {
				if has := snapshot.Revision(at); has > 0 && (sequence == 0 || has < sequence) {
					sequence = has
				}
			}
			after = one
		}
		n = len(page)
	}
	for point, has := range known {
		if has {
			points = append(points, point)
		}
	}
	return points, sequence, nil
}
