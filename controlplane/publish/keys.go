package publish

import (
	"context"
	"errors"
	"fmt"

	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
)

// ErrKey says that this replica cannot publish, because its signing key does not
// sign for the fleet, or because it is not known which do.
var ErrKey = errors.New("this replica's signing key is not in the newest key set")

// errForeign says that no key set begins with the key that is pinned here.
var errForeign = errors.New("none of them is signed with it")

// trust learns of the key sets that were committed. storage.ErrAhead if more were
// known than the database holds, ErrKey if our key does not sign for the fleet.
func (p *Publisher) trust(ctx context.Context) error {
	known := p.verifier.Newest().Generation
	sets, err := p.store.KeySets(ctx, 0)
	if err != nil {
		return fmt.Errorf("read key sets: %w", err)
	}
	if n := snapshot.Generation(len(sets)); known > n {
		return fmt.Errorf("%w: it has %d key sets, known are %d", storage.ErrAhead, n, known)
	}
	if err := p.learn(sets); err != nil {
		return fmt.Errorf("%w: those in the database do not follow from the root public key: %w", ErrKey, err)
	}
	if id := p.signer.Public().ID(); !p.verifier.Trusts(id) {
		return fmt.Errorf("%w: it is %s, the set is generation %d", ErrKey, id.Short(), p.verifier.Newest().Generation)
	}
	return nil
}

// Learn takes the key sets that the database has, before anybody else tells of
// others. Whether they fit is for Run to say; its errors are those of the database.
func (p *Publisher) Learn(ctx context.Context) error {
	sets, err := p.store.KeySets(ctx, 0)
	if err != nil {
		return fmt.Errorf("read key sets: %w", err)
	}
	_ = p.learn(sets) // said when publishing
	return nil
}

// learn returns an error unless all of the sets are known then, but for those that
// are before the pinned key.
func (p *Publisher) learn(sets []*proxyv1.SignedKeySet) error {
	if _, err := p.verifier.Extend(sets); err != nil {
		return err
	}
	if len(sets) > 0 && p.verifier.Newest().Generation == 0 {
		return errForeign
	}
	return nil
}

// renew signs the newest head of an environment with our key, unless it is already:
// it stays the same head, and nothing is published anew but its signature. With the
// key of before it would be worth nothing once that is retired.
func (t *tenure) renew(ctx context.Context, e *environment) error {
	head, key := e.snapshot.Head(), t.signer.Public().ID()
	if head.IsZero() || head.Key() == key {
		return nil
	}
	again, err := t.signer.SignHeadAgain(head)
	if err != nil {
		return err
	}
	snap, err := snapshot.Assemble(again, e.snapshot.Set())
	if err != nil {
		return err
	}
	if err := t.store.SaveHeads(ctx, t.term, []snapshot.Head{again}); err != nil {
		return fmt.Errorf("record head: %w", err)
	}
	e.snapshot = snap
	t.log.InfoContext(ctx, "head signed with another key", "environment", e.name, "revision", head.Revision, "signing_key", key.Short())
	return nil
}
