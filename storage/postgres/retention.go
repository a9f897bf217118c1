package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

// forgotten returns a storage.ForgottenError if not every version of the state at a
// revision is sure to be there. It is asked after what was read: the beginning moves
// before anything is collected, so that what was still read whole is told apart.
func (l *lane) forgotten(ctx context.Context, at snapshot.Revision) error {
	switch {
	case at == 0:
		return nil
	case l.immediate:
		return l.forgottenSequence(ctx, at)
	}
	var begins snapshot.Revision
	var kept bool
	err := l.pool.QueryRow(ctx, `select begins, exists (select from kept_state where environment = '' and revision = $1) from history`, at).Scan(&begins, &kept)
	if err == nil && at < begins && !kept {
		err = &storage.ForgottenError{Revision: at, Begins: begins}
	}
	return err
}

// forgottenIn is forgotten for what an environment has: that is the same until its
// next revision.
func (l *lane) forgottenIn(ctx context.Context, environment string, at snapshot.Revision) error {
	if l.immediate || at == 0 {
		return l.forgotten(ctx, at)
	}
	var begins snapshot.Revision
	var kept bool
	err := l.pool.QueryRow(ctx, `select begins, exists (
			select from kept_state k where k.environment = '' and k.revision = $2
				or k.environment = $1 and k.revision = (select max(revision) from environment_revision where environment = $1 and revision <= $2)
		) from history`, environment, at).Scan(&begins, &kept)
	if err == nil && at < begins && !kept {
		err = &storage.ForgottenError{Revision: at, Begins: begins}
	}
	return err
}

// forgottenSequence is forgotten for the security lane, of which nothing is kept
// beside what is after its beginning.
func (l *lane) forgottenSequence(ctx context.Context, at snapshot.Revision) error {
	var begins snapshot.Revision
	err := l.pool.QueryRow(ctx, `select security_begins from history`).Scan(&begins)
	if err == nil && at < begins {
		err = &storage.ForgottenError{Revision: at, Begins: begins}
	}
	return err
}

// Begins implements storage.Retention.
func (s *Store) Begins(ctx context.Context) (begins snapshot.Revision, err error) {
	err = s.do(ctx, func(ctx context.Context) error {
		return s.pool.QueryRow(ctx, `select begins from history`).Scan(&begins)
	})
	return begins, err
}

// An environment whose newest revision is not signed, or not at some target, needs
// all that came after the last one that is.
const selectBeginning = `select least(
		coalesce((select r.revision from revision r where r.committed_at < $1 order by r.revision desc limit 1), 0),
		(select min(least(
				coalesce((select max(h.revision) from environment_head h where h.environment = e.name), 0),
				(select min(c.revision) from publish_cursor c where c.environment = e.name)))
			from environment e
			where e.name <> '` + snapshot.SecurityLane + `' and (select max(r.revision) from environment_revision r where r.environment = e.name) > least(
				coalesce((select max(h.revision) from environment_head h where h.environment = e.name), 0),
				(select min(c.revision) from publish_cursor c where c.environment = e.name))))`

// What has a label, what was signed and published last, and what proxies have. $1 is
// where history is to begin, $2 where it begins now, and $3 and $4 are the latter.
// What may have been collected already is not kept.
const (
	wantedStates = `select distinct w.environment, w.revision
		from (
			select '' collate "C" as environment, a.revision from revision_annotation a where a.labels <> '{}'
			union all
			select h.environment, max(h.revision) from environment_head h group by h.environment
			union all
			select c.environment, c.revision from publish_cursor c
			union all
			select p.environment, (select max(r.revision) from environment_revision r where r.environment = p.environment and r.revision <= p.revision)
			from unnest($3::text[], $4::bigint[]) as p (environment, revision)
		) w
		where w.environment <> '` + snapshot.SecurityLane + `' and w.revision < $1`
	dropStates = `delete from kept_state k where not exists (
		select from (` + wantedStates + ` and w.revision < $2) w where w.environment = k.environment and w.revision = k.revision)`
	keepStates = `insert into kept_state (environment, revision) ` + wantedStates + ` and w.revision >= $2 on conflict do nothing`
)

// TrimHistory implements storage.Retention.
func (s *Store) TrimHistory(ctx context.Context, term storage.Term, before time.Time, keep []storage.EnvironmentPoint) (begins snapshot.Revision, err error) {
	environments, revisions := make([]string, len(keep)), make([]int64, len(keep))
	for i, k := range keep {
		environments[i], revisions[i] = k.Environment, int64(k.Revision)
	}
	err = s.do(ctx, func(ctx context.Context) error {
		return s.fenced(ctx, term, func(tx pgx.Tx) error {
			var now snapshot.Revision
			if err := tx.QueryRow(ctx, `select begins from history for update`).Scan(&now); err != nil {
				return err
			}
			if err := tx.QueryRow(ctx, selectBeginning, before).Scan(&begins); err != nil {
				return err
			}
			begins = max(begins, now)
			for _, sql := range [...]string{dropStates, keepStates} {
				if _, err := tx.Exec(ctx, sql, begins, now, environments, revisions); err != nil {
					return fmt.Errorf("keep states: %w", err)
				}
			}
			_, err := tx.Exec(ctx, `update history set begins = $1`, begins)
			return err
		})
	})
	return begins, err
}

// What was signed or published last, and what proxies have ($2; 0 for none), stays.
const moveSecurity = `update history set security_begins = greatest(security_begins, least(
		coalesce((select max(r.revision) from security_revision r where r.committed_at < $1), 1),
		coalesce((select max(h.revision) from environment_head h where h.environment = '` + snapshot.SecurityLane + `'), 1),
		coalesce((select min(c.revision) from publish_cursor c where c.environment = '` + snapshot.SecurityLane + `'), 1),
		nullif($2::bigint, 0)))
	returning security_begins`

// TrimSecurity implements storage.Retention.
func (s *Store) TrimSecurity(ctx context.Context, term storage.Term, before time.Time, keep snapshot.Revision) (begins snapshot.Revision, err error) {
	err = s.do(ctx, func(ctx context.Context) error {
		return s.fenced(ctx, term, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, moveSecurity, before, keep).Scan(&begins)
		})
	})
	return begins, err
}

const collectSecurity = `delete from security_version
	where (kind, namespace, name, revision) in (
		select v.kind, v.namespace, v.name, v.revision from security_version v
		where v.superseded_by <= (select security_begins from history)
		limit $1
	)`

// Nothing that is current is superseded. A version that is was current up to then.
const collectVersions = `delete from resource_version
	where (kind, namespace, name, revision) in (
		select v.kind, v.namespace, v.name, v.revision
		from resource_version v
		where v.superseded_by <= (select begins from history)
			and not exists (
				select from kept_state k
				where k.revision >= v.revision and k.revision < v.superseded_by
					and (k.environment = '' or v.all_environments or k.environment = any(v.environments)))
		limit $1
	)`

// CollectVersions implements storage.Retention.
func (s *Store) CollectVersions(ctx context.Context, term storage.Term, limit int) (n int, err error) {
	err = s.do(ctx, func(ctx context.Context) error {
		return s.fenced(ctx, term, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `select from history for share`); err != nil {
				return err
			}
			n = 0
			for _, sql := range [...]string{collectVersions, collectSecurity} {
				done, err := tx.Exec(ctx, sql, limit-n)
				if err != nil {
					return err
				}
				n += int(done.RowsAffected())
			}
			return nil
		})
	})
	return n, err
}
