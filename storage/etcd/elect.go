package etcd

import (
	"context"
	"fmt"

	"go.etcd.io/etcd/client/v3/concurrency"
)

// leaseSeconds is how long a publisher that died stays elected. Correctness
// does not rest on it: terms in the database fence whoever is late.
const leaseSeconds = 3

// Lead blocks until holder is elected and then calls lead with a context that
// ends when the election may be lost. It returns what lead returned, or why
// the election could not be held, and gives the election up.
func (s *Store) Lead(ctx context.Context, holder string, lead func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The session has a context of its own life: closing it must work after ctx.
	session, err := concurrency.NewSession(s.client, concurrency.WithTTL(leaseSeconds), concurrency.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("open election session: %w", err)
	}
	defer s.resign(ctx, session)
	go func() {
		select {
		case <-session.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := concurrency.NewElection(session, s.electionKey()).Campaign(ctx, holder); err != nil {
		return fmt.Errorf("campaign: %w", err)
	}
	return lead(ctx)
}

// resign revokes the lease, so that the next publisher need not wait for it to
// expire. When etcd is away it expires by itself.
func (s *Store) resign(ctx context.Context, session *concurrency.Session) {
	session.Orphan()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), opTimeout)
	defer cancel()
	if _, err := s.client.Revoke(ctx, session.Lease()); err != nil {
		s.log.WarnContext(ctx, "election lease was left to expire", "err", err)
	}
}
