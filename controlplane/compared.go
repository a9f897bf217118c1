package controlplane

import (
	"context"

	"github.com/sallyport/sallyport/controlplane/publish"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/postgres"
)

// compared is the database for those who change it: no change is made before what is
// published was compared with it once, or, where nothing is, before proxies had the time
// to show what they have.
type compared struct {
	*postgres.Store
	timeline  *publish.Timeline
	witnesses *witnesses
}

// changeable returns an error while no change is to be made.
func changeable(ctx context.Context, t *publish.Timeline, w *witnesses) error {
	if err := t.Compared(ctx); err != nil {
		return err
	}
	return w.heard()
}

// Commit implements storage.Resources.
func (c *compared) Commit(ctx context.Context, commit storage.Commit, recheck func(since []storage.Version) error) (storage.Committed, error) {
	if err := changeable(ctx, c.timeline, c.witnesses); err != nil {
		return storage.Committed{}, err
	}
	return c.Store.Commit(ctx, commit, recheck)
}

// Security returns the resources of the security lane, under the same condition.
func (c *compared) Security() storage.Resources {
	return &comparedLane{c.Store.Security(), c.timeline, c.witnesses}
}

type comparedLane struct {
	storage.Resources
	timeline  *publish.Timeline
	witnesses *witnesses
}

// Commit implements storage.Resources.
func (c *comparedLane) Commit(ctx context.Context, commit storage.Commit, recheck func(since []storage.Version) error) (storage.Committed, error) {
	if err := changeable(ctx, c.timeline, c.witnesses); err != nil {
		return storage.Committed{}, err
	}
	return c.Resources.Commit(ctx, commit, recheck)
}
