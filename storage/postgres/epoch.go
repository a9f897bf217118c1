package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

// recoverAction is what the audit says was called.
const recoverAction = "recover --new-epoch"

// BeginEpoch implements storage.History.
func (s *Store) BeginEpoch(ctx context.Context, r storage.Recovery) error {
	begins := map[*lane]storage.Beginning{s.lane: r.Fleet, s.security: r.Security}
	for l, b := range begins {
		if len(b.Changes) > 0 {
			if err := l.check(storage.Commit{Changes: b.Changes}); err != nil {
				return err
			}
		}
		if b.Revision <= b.Base {
			return fmt.Errorf("begin epoch: revision %d is not after %d", b.Revision, b.Base)
		}
	}
	if r.Epoch <= r.From {
		return errors.New("begin epoch: it is not a later one")
	}
	return s.do(ctx, func(ctx context.Context) error {
		return s.change(ctx, func(tx pgx.Tx) error {
			if err := s.end(ctx, tx, r); err != nil {
				return err
			}
			for _, l := range []*lane{s.lane, s.security} {
				if err := l.begin(ctx, tx, r, begins[l]); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// end ends the epoch, and whatever a publisher has begun in it.
func (s *Store) end(ctx context.Context, tx pgx.Tx, r storage.Recovery) error {
	var epoch snapshot.Epoch
	var fleet, security snapshot.Revision
	err := tx.QueryRow(ctx, `select fleet.epoch, fleet.revision, security_lane.revision from fleet, security_lane for update`).
		Scan(&epoch, &fleet, &security)
	if err != nil {
		return fmt.Errorf("lock the fleet: %w", err)
	}
	if epoch != r.From || fleet != r.Fleet.Base || security != r.Security.Base {
		return fmt.Errorf("%w: epoch %d, revision %d, security sequence %d", storage.ErrConflict, epoch, fleet, security)
	}
	batch := &pgx.Batch{}
	batch.Queue(`update fleet set epoch = $1`, r.Epoch)
	batch.Queue(`update publisher set term = term + 1, holder = ''`)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("begin epoch %d: %w", r.Epoch, err)
	}
	return nil
}

// begin commits the first of a lane. It touches environments that exist no more,
// too: their last heads are to be those of this epoch.
func (l *lane) begin(ctx context.Context, tx pgx.Tx, r storage.Recovery, b storage.Beginning) error {
	t := &transaction{
		Commit:   storage.Commit{Caller: r.Caller, Action: recoverAction, Message: r.Message, Changes: b.Changes},
		lane:     l,
		tx:       tx,
		epoch:    r.Epoch,
		revision: b.Revision,
	}
	if err := t.supersede(ctx); err != nil {
		return err
	}
	names, err := collect(ctx, tx, pgx.RowTo[string], `select name from environment where name `+l.environments)
	if err != nil {
		return fmt.Errorf("read environments: %w", err)
	}
	for _, name := range names {
		t.existing[name] = true
	}
	t.reach.all = true
	if err := t.insert(ctx); err != nil {
		return err
	}
	return t.record(ctx)
}
