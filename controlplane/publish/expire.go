package publish

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

const (
	// expireEvery is how often expired revocations are looked for.
	expireEvery = time.Minute
	// expireAfter is how long after it has expired a revocation is removed: the
	// clock of a proxy may be behind.
	expireAfter = 5 * time.Minute
	// expireAtOnce bounds how many make one sequence.
	expireAtOnce = 1000
)

// Lane is the part of the security lane that removing what has expired needs.
type Lane interface {
	Since(ctx context.Context, after snapshot.Revision) ([]storage.Version, snapshot.Revision, error)
	Commit(ctx context.Context, c storage.Commit, recheck func(since []storage.Version) error) (storage.Committed, error)
}

// errReplaced says that a revocation was replaced while it was being removed.
var errReplaced = errors.New("a revocation that has expired was replaced meanwhile")

// expiry removes revocations that have expired. It belongs to one goroutine.
type expiry struct {
	lane Lane
	// known holds when each revocation expires that does, as of sequence at.
	known map[resource.Key]time.Time
	at    snapshot.Revision
}

// expire removes expired revocations until ctx ends, so that the lane does not
// grow for ever: they have no effect any more. A publisher that was deposed may
// do it as well, at worst for nothing.
func (p *Publisher) expire(ctx context.Context) error {
	ticker := time.NewTicker(p.expireEvery)
	defer ticker.Stop()
	x := &expiry{lane: p.security}
	for {
		for n := expireAtOnce; n == expireAtOnce; {
			var made storage.Committed
			var err error
			n, made, err = x.remove(ctx, p.now().Add(-expireAfter))
			switch {
			case err != nil && ctx.Err() == nil:
				p.log.WarnContext(ctx, "expired revocations were not removed", "err", err)
			case n > 0:
				p.log.InfoContext(ctx, "expired revocations were removed", "changes", n, "sequence", made.Revision)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// remove removes revocations that expired before a time, in one sequence, and
// returns how many.
func (x *expiry) remove(ctx context.Context, before time.Time) (int, storage.Committed, error) {
	if err := x.read(ctx); err != nil {
		return 0, storage.Committed{}, err
	}
	expired := x.expired(before)
	if len(expired) == 0 {
		return 0, storage.Committed{}, nil
	}
	c := storage.Commit{
		Caller: "system", Action: "remove expired revocations", Base: x.at,
		Message: fmt.Sprintf("%d expired", len(expired)),
	}
	for _, key := range expired {
		c.Changes = append(c.Changes, storage.Change{Key: key, Delete: true})
	}
	made, err := x.lane.Commit(ctx, c, func(since []storage.Version) error {
		for _, v := range since {
			if slices.Contains(expired, v.Key) {
				return errReplaced
			}
		}
		return nil
	})
	if err != nil {
		return 0, storage.Committed{}, err
	}
	return len(expired), made, nil
}

// read brings what is known to the newest sequence.
func (x *expiry) read(ctx context.Context) error {
	versions, to, err := x.lane.Since(ctx, x.at)
	if err == nil && to < x.at { // the database was set back
		x.known, x.at = nil, 0
		versions, to, err = x.lane.Since(ctx, 0)
	}
	if err != nil {
		return fmt.Errorf("read the security lane: %w", err)
	}
	if x.known == nil {
		x.known = map[resource.Key]time.Time{}
	}
	for _, v := range versions {
		if at, ok := expiresAt(v); ok {
			x.known[v.Key] = at
		} else {
			delete(x.known, v.Key)
		}
	}
	x.at = to
	return nil
}

// expiresAt returns when a revocation expires; false for one that does not, was
// deleted, or is not understood by this build.
func expiresAt(v storage.Version) (time.Time, bool) {
	if v.Deleted {
		return time.Time{}, false
	}
	p, err := resource.ParseDocument(v.Document)
	if err != nil {
		return time.Time{}, false
	}
	return p.Expires()
}

// expired returns those that expired before a time, as many as make a sequence.
func (x *expiry) expired(before time.Time) []resource.Key {
	all := slices.SortedFunc(maps.Keys(x.known), func(a, b resource.Key) int { return x.known[a].Compare(x.known[b]) })
	n := 0
	for n < len(all) && n < expireAtOnce && x.known[all[n]].Before(before) {
		n++
	}
	return all[:n]
}
