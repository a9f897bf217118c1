package postgres

import (
	"bytes"
	"context"
	"errors"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

// commit is a place in a lane's history, and the commit that was made there; it
// is not Valid where the migration to such IDs found it.
type commit struct {
	snapshot.Position
	id pgtype.UUID
}

// memory is the newest commit of a lane that this process has read. It is safe
// for concurrent use.
type memory struct {
	mu     sync.Mutex
	newest commit
}

func (m *memory) recall() commit {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.newest
}

func (m *memory) keep(c commit) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.After(m.newest.Position) {
		m.newest = c
	}
}

// sight is what was read of where a lane is, beside what was remembered before
// the query began: only then has the database to hold that.
type sight struct {
	before, now commit
	there       pgtype.UUID // the commit that has now the number of before
}

// selectPosition takes the revision that is remembered.
func (l *lane) selectPosition() string {
	return `select fleet.epoch, at.revision, newest.id, (select old.id from ` + l.revisions + ` old where old.revision = $1)
	from fleet, ` + l.row + ` at
	left join ` + l.revisions + ` newest on newest.revision = at.revision`
}

func (s *sight) scan(row pgx.Row) error {
	return row.Scan(&s.now.Epoch, &s.now.Revision, &s.now.id, &s.there)
}

// back reports whether the database was set back: it holds less than was
// remembered, or something else by that number. A commit that is not there any
// more, with later ones in place, says nothing: old ones may be removed.
func (s *sight) back() bool {
	if s.before.Epoch != s.now.Epoch {
		return s.before.Epoch > s.now.Epoch
	}
	return s.before.Revision > s.now.Revision || s.there.Valid && s.there != s.before.id
}

// sighting is what this process tells when that was so.
func (l *lane) sighting(c commit) storage.Sighting {
	s := storage.Sighting{Epoch: c.Epoch, Revision: c.Revision, Witness: l.witness}
	if l.immediate {
		s.Environment = snapshot.SecurityLane
	}
	return s
}

// look reads where the lane is.
func (l *lane) look(ctx context.Context, q interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
},
) (s sight, err error) {
	s.before = l.memory.recall()
	err = s.scan(q.QueryRow(ctx, l.selectPosition(), s.before.Revision))
	return s, err
}

// learn remembers what was read, or records that the database was set back.
// Readers go on with what there is: what is refused is to commit and to publish.
func (l *lane) learn(ctx context.Context, s sight) {
	if !s.back() {
		l.memory.keep(s.now)
		return
	}
	if err := l.record(ctx, l.sighting(s.before)); err != nil {
		l.log.WarnContext(ctx, "it was not recorded that the database was set back", "err", err) // whoever commits looks again
	}
}

// record keeps what somebody has seen and the database does not hold.
func (db *database) record(ctx context.Context, s storage.Sighting) error {
	digest := []byte{}
	if !s.Head.IsZero() {
		digest = s.Head[:]
	}
	return db.do(ctx, func(ctx context.Context) error {
		done, err := db.pool.Exec(ctx, `insert into sighting (environment, epoch, revision, digest, witness, seen_at)
			values ($1, $2, $3, $4, $5, clock_timestamp()) on conflict do nothing`,
			s.Environment, s.Epoch, s.Revision, digest, text(s.Witness))
		if err == nil && done.RowsAffected() > 0 {
			db.log.ErrorContext(ctx, "database was set back: nothing is committed or published until someone acts",
				"witness", s.Witness, "environment", s.Environment, "epoch", s.Epoch, "revision", s.Revision)
		}
		return err
	})
}

// selectStanding is what stands against the history that the database holds.
const selectStanding = `select s.environment, s.epoch, s.revision, s.digest, s.witness, s.seen_at
	from sighting s, fleet
	where s.epoch >= fleet.epoch
	order by s.epoch desc, s.revision desc, s.environment, s.digest
	limit $1`

func scanSighting(row pgx.CollectableRow) (storage.Sighting, error) {
	var s storage.Sighting
	var digest []byte
	err := row.Scan(&s.Environment, &s.Epoch, &s.Revision, &digest, &s.Witness, &s.SeenAt)
	s.Head, _ = snapshot.ParseDigest(digest) // the table has it of 32 bytes, or none
	s.SeenAt = s.SeenAt.UTC()
	return s, err
}

// settled returns an *AheadError when something stands.
func settled(standing []storage.Sighting) error {
	if len(standing) == 0 {
		return nil
	}
	return &storage.AheadError{Sighting: standing[0]}
}

// Settled implements storage.History.
func (s *Store) Settled(ctx context.Context) error {
	standing, err := s.sightings(ctx, 1)
	if err != nil {
		return err
	}
	return settled(standing)
}

// maxSightings bounds how many are told.
const maxSightings = 10_000

// Sightings implements storage.History.
func (s *Store) Sightings(ctx context.Context) ([]storage.Sighting, error) {
	return s.sightings(ctx, maxSightings)
}

func (s *Store) sightings(ctx context.Context, limit int) (standing []storage.Sighting, err error) {
	err = s.do(ctx, func(ctx context.Context) error {
		standing, err = collect(ctx, s.pool, scanSighting, selectStanding, limit)
		return err
	})
	return standing, err
}

const selectPlace = `select fleet.epoch,
		(select h.head from environment_head h where h.environment = $1 and h.revision = $2),
		exists (select from environment_revision r where r.environment = $1 and r.revision = $2)
	from fleet`

// Witness implements storage.History.
func (s *Store) Witness(ctx context.Context, witness string, head snapshot.Head) error {
	var epoch snapshot.Epoch
	var recorded []byte
	var exists bool
	err := s.do(ctx, func(ctx context.Context) error {
		return s.pool.QueryRow(ctx, selectPlace, head.Environment, head.Revision).Scan(&epoch, &recorded, &exists)
	})
	switch {
	case err != nil:
		return err
	case head.Epoch < epoch, bytes.Equal(recorded, head.Signed().GetHead()):
		return nil
	case head.Epoch == epoch && recorded == nil && exists:
		return storage.ErrNotFound
	}
	seen := storage.Sighting{
		Environment: head.Environment, Epoch: head.Epoch, Revision: head.Revision, Head: head.Digest(), Witness: witness,
	}
	if err := s.record(ctx, seen); err != nil {
		return err
	}
	return &storage.AheadError{Sighting: seen}
}

const selectPredecessor = `select s.epoch, s.revision, s.digest
	from sighting s
	where s.environment = $1 and s.epoch < $2 and s.digest <> ''
	order by s.epoch desc, s.revision desc, s.digest
	limit 1`

// Predecessor implements storage.History.
func (s *Store) Predecessor(ctx context.Context, environment string, before snapshot.Epoch) (at snapshot.Position, head snapshot.Digest, err error) {
	var digest []byte
	err = s.do(ctx, func(ctx context.Context) error {
		err := s.pool.QueryRow(ctx, selectPredecessor, environment, before).Scan(&at.Epoch, &at.Revision, &digest)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	head, _ = snapshot.ParseDigest(digest)
	return at, head, err
}
