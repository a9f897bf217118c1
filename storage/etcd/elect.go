package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

const (
	// leaseSeconds is how long a publisher that died stays elected. Correctness
	// does not rest on it: terms in the database fence whoever is late.
	leaseSeconds = 3
	// resignWithin bounds giving the election up.
	resignWithin = 2 * time.Second
)

// errLost is why lead's context ended before ctx did.
var errLost = errors.New("the election may be lost")

// Lead blocks until holder is elected and then calls lead with a context that
// ends when the election may be lost. It returns what lead returned, or why
// the election could not be held, and gives the election up. An etcd that is full
// elects nobody: storage.ErrFull.
func (s *Store) Lead(ctx context.Context, holder string, lead func(ctx context.Context) error) error {
	lease, err := s.grant(ctx)
	if err != nil {
		return fmt.Errorf("open election session: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	session, err := concurrency.NewSession(s.client, concurrency.WithLease(lease), concurrency.WithContext(ctx))
	if err != nil {
		s.resign(ctx, lease)
		return fmt.Errorf("open election session: %w", err)
	}
	defer func() {
		lost := errors.Is(context.Cause(ctx), errLost) // before Orphan makes it so
		session.Orphan()
		if !lost { // else the lease is gone, or on its way
			s.resign(ctx, lease)
		}
	}()
	go func() {
		<-session.Done()
		cancel(errLost) // unless ctx has ended: then that is the cause
	}()
	if err = concurrency.NewElection(session, s.electionKey()).Campaign(ctx, holder); err != nil {
		err = fmt.Errorf("campaign: %w", understood(err))
	} else {
		err = lead(ctx)
	}
	if err != nil && errors.Is(context.Cause(ctx), errLost) {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	return err
}

func (s *Store) grant(ctx context.Context) (clientv3.LeaseID, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	r, err := s.client.Grant(ctx, leaseSeconds)
	if err != nil {
		return 0, understood(err)
	}
	return r.ID, nil
}

// resign revokes the lease, so that the next publisher need not wait for it to
// expire. When etcd is away it expires by itself.
func (s *Store) resign(ctx context.Context, lease clientv3.LeaseID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resignWithin)
	defer cancel()
	if _, err := s.client.Revoke(ctx, lease); err != nil {
		s.log.WarnContext(ctx, "election lease was left to expire", "err", err)
	}
}
