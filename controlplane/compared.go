package controlplane

import (
	"context"

	"github.com/sallyport/sallyport/controlplane/publish"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/postgres"
)

// compared is the database for those who change it: no change is made before
// what is published was compared with it once.
type compared struct {
	*postgres.Store
	timeline *publish.Timeline
}

// Commit implements storage.Resources.
func (c *compared) Commit(ctx context.Context, commit storage.Commit, recheck func(since []storage.Version) error) (storage.Committed, error) {
	if err := c.timeline.Compared(ctx); err != nil {
		return storage.Committed{}, err
	}
	return c.Store.Commit(ctx, commit, recheck)
}

// Security returns the resources of the security lane, under the same condition.
func (c *compared) Security() storage.Resources {
	return &comparedLane{c.Store.Security(), c.timeline}
}

type comparedLane struct {
	storage.Resources
	timeline *publish.Timeline
}

// Commit implements storage.Resources.
func (c *comparedLane) Commit(ctx context.Context, commit storage.Commit, recheck func(since []storage.Version) error) (storage.Committed, error) {
	if err := c.timeline.Compared(ctx); err != nil {
		return storage.Committed{}, err
	}
	return c.Resources.Commit(ctx, commit, recheck)
}
