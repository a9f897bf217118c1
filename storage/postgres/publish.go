package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
)

// BeginTerm implements storage.Publishing.
func (s *Store) BeginTerm(ctx context.Context, holder string) (term storage.Term, err error) {
	err = s.do(ctx, func(ctx context.Context) error {
		return s.change(ctx, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, `update publisher set term = term + 1, holder = $1 returning term`, text(holder)).Scan(&term)
		})
	})
	if err != nil {
		return 0, err
	}
	return term, nil
}

// fenced runs f in a transaction during which no other term can begin, unless
// somebody has seen more than the database holds.
func (s *Store) fenced(ctx context.Context, term storage.Term, f func(pgx.Tx) error) error {
	return s.change(ctx, func(tx pgx.Tx) error {
		var newest storage.Term
		if err := tx.QueryRow(ctx, `select term from publisher for share`).Scan(&newest); err != nil {
			return err
		}
		if term != newest {
			return fmt.Errorf("%w: this is term %d, now is %d", storage.ErrFenced, term, newest)
		}
		standing, err := collect(ctx, tx, scanSighting, selectStanding, 1)
		if err != nil {
			return err
		}
		if err := settled(standing); err != nil {
			return err
		}
		return f(tx)
	})
}

func scanHead(row pgx.CollectableRow) (storage.EnvironmentHead, error) {
	var h storage.EnvironmentHead
	var head, signature, key []byte
	err := row.Scan(&h.Environment, &h.Revision, &head, &signature, &key)
	if head != nil {
		h.Signed = &proxyv1.SignedHead{Head: head, Signature: signature, KeyId: key}
	}
	return h, err
}

const selectHeads = `select e.name, last.revision, newest.head, newest.signature, newest.key_id
	from environment e
	cross join lateral (
		select r.revision from environment_revision r
		where r.environment = e.name
		order by r.revision desc limit 1
	) last
	left join lateral (
		select h.head, h.signature, h.key_id from environment_head h
		where h.environment = e.name
		order by h.revision desc limit 1
	) newest on true
	order by e.name`

// Heads implements storage.Publishing.
func (s *Store) Heads(ctx context.Context) (heads []storage.EnvironmentHead, err error) {
	err = s.do(ctx, func(ctx context.Context) error {
		heads, err = collect(ctx, s.pool, scanHead, selectHeads)
		return err
	})
	return heads, err
}

const selectHead = `select r.environment, r.revision, h.head, h.signature, h.key_id
	from environment_revision r
	left join environment_head h on h.environment = r.environment and h.revision = r.revision
	where r.environment = $1 and r.revision <= $2
	order by r.revision desc limit 1`

// Head implements storage.Publishing.
func (s *Store) Head(ctx context.Context, environment string, at snapshot.Revision) (h storage.EnvironmentHead, err error) {
	err = s.do(ctx, func(ctx context.Context) error {
		rows, err := s.pool.Query(ctx, selectHead, environment, at)
		if err != nil {
			return err
		}
		h, err = pgx.CollectExactlyOneRow(rows, scanHead)
		return missing(err)
	})
	if err == nil && h.Signed == nil {
		err = storage.ErrNotFound
	}
	if err != nil {
		return storage.EnvironmentHead{}, err
	}
	return h, nil
}

// maxChanges is about how many versions EnvironmentRevisions reads at once.
const maxChanges = 20_000

// The sum is over the revisions before, so that the first is always there.
func (l *lane) selectEnvironmentRevisions() string {
	return `select revision from (
		select e.revision, sum(r.changes) over (order by e.revision) - r.changes as before
		from environment_revision e
		join ` + l.revisions + ` r on r.revision = e.revision
		where e.environment = $1 and e.revision > $2
		order by e.revision
		limit $3
	) next
	where before < $4
	order by revision`
}

// The version that was current before tells whether a resource leaves the
// environment.
func (l *lane) selectEnvironmentVersions() string {
	return `select ` + versionColumns + `
	from ` + l.versions + ` v
	left join ` + l.versions + ` old on old.kind = v.kind and old.namespace = v.namespace and old.name = v.name
		and old.superseded_by = v.revision
	where v.revision = any($2) and (
		v.all_environments or $1 = any(v.environments) or old.all_environments or $1 = any(old.environments))
	order by v.revision, v.kind, v.namespace, v.name`
}

// EnvironmentRevisions implements storage.Publishing. Of each revision it
// returns the versions that concern the environment. It returns fewer
// revisions, but one, when they are large.
func (s *Store) EnvironmentRevisions(ctx context.Context, environment string, after snapshot.Revision, limit int) ([]storage.EnvironmentRevision, error) {
	var numbers []int64
	var versions []storage.Version
	l := s.of(environment)
	err := s.do(ctx, func(ctx context.Context) (err error) {
		numbers, err = collect(ctx, s.pool, pgx.RowTo[int64], l.selectEnvironmentRevisions(), environment, after, limit, maxChanges)
		if err != nil || len(numbers) == 0 {
			return err
		}
		versions, err = collect(ctx, s.pool, scanVersion, l.selectEnvironmentVersions(), environment, numbers)
		return err
	})
	if err != nil {
		return nil, err
	}
	revisions := make([]storage.EnvironmentRevision, 0, len(numbers))
	for _, n := range numbers {
		r := storage.EnvironmentRevision{Revision: snapshot.Revision(n)}
		end := 0
		for end < len(versions) && versions[end].Revision == r.Revision {
			end++
		}
		r.Versions, versions = versions[:end:end], versions[end:]
		revisions = append(revisions, r)
	}
	return revisions, nil
}

func (l *lane) selectEnvironmentState() string {
	return `select ` + versionColumns + `
	from ` + l.versions + ` v
	where ` + currentAt + ` and (v.all_environments or $2 = any(v.environments))
	order by v.kind, v.namespace, v.name`
}

// EnvironmentState implements storage.Publishing.
func (s *Store) EnvironmentState(ctx context.Context, environment string, at snapshot.Revision) (versions []storage.Version, err error) {
	err = s.do(ctx, func(ctx context.Context) error {
		l := s.of(environment)
		versions, err = collect(ctx, s.pool, scanVersion, l.selectEnvironmentState(), at, environment)
		return cmp.Or(err, l.forgottenIn(ctx, environment, at))
	})
	return versions, err
}

const (
	givenHeads = `unnest($1::text[], $2::bigint[], $3::bigint[], $4::bytea[], $5::bytea[], $6::bytea[], $7::bytea[])
		as g (environment, revision, epoch, digest, head, signature, key_id)`
	// Of two signatures with one key either does: those of ECDSA are never alike.
	insertHeads = `insert into environment_head (environment, revision, epoch, digest, head, signature, key_id)
		select g.environment, g.revision, g.epoch, g.digest, g.head, g.signature, g.key_id from ` + givenHeads + `
		on conflict (environment, revision) do update set signature = excluded.signature, key_id = excluded.key_id
		where environment_head.digest = excluded.digest and environment_head.head = excluded.head
			and environment_head.key_id <> excluded.key_id`
	selectOtherHead = `select g.environment, g.revision from ` + givenHeads + `
		join environment_head h on h.environment = g.environment and h.revision = g.revision
		where (h.digest, h.head, h.epoch) <> (g.digest, g.head, g.epoch)
		limit 1`
)

// SaveHeads implements storage.Publishing. All heads are saved, or none.
func (s *Store) SaveHeads(ctx context.Context, term storage.Term, heads []snapshot.Head) error {
	n := len(heads)
	environments, revisions, epochs := make([]string, n), make([]int64, n), make([]int64, n)
	digests, statements, signatures, keys := make([][]byte, n), make([][]byte, n), make([][]byte, n), make([][]byte, n)
	for i, h := range heads {
		if h.IsZero() {
			return errors.New("save heads: one is zero")
		}
		digest := h.Digest()
		environments[i], revisions[i], epochs[i] = h.Environment, int64(h.Revision), int64(h.Epoch)
		digests[i], statements[i], signatures[i] = digest[:], h.Signed().GetHead(), h.Signed().GetSignature()
		keys[i] = append([]byte{}, h.Signed().GetKeyId()...) // never null
	}
	args := []any{environments, revisions, epochs, digests, statements, signatures, keys}
	return s.do(ctx, func(ctx context.Context) error {
		return s.fenced(ctx, term, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, insertHeads, args...); err != nil {
				return err
			}
			var environment string
			var revision snapshot.Revision
			err := tx.QueryRow(ctx, selectOtherHead, args...).Scan(&environment, &revision)
			switch {
			case errors.Is(err, pgx.ErrNoRows):
				return nil
			case err != nil:
				return err
			}
			return fmt.Errorf("save heads: another head of %s was signed for revision %d", environment, revision)
		})
	})
}

// Cursor implements storage.Publishing.
func (s *Store) Cursor(ctx context.Context, target, environment string) (at snapshot.Revision, err error) {
	err = s.do(ctx, func(ctx context.Context) error {
		err := s.pool.QueryRow(ctx, `select revision from publish_cursor where target = $1 and environment = $2`, target, environment).Scan(&at)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	return at, err
}

const moveCursor = `insert into publish_cursor (target, environment, revision, term) values ($1, $2, $3, $4)
	on conflict (target, environment) do update set revision = excluded.revision, term = excluded.term
	where publish_cursor.revision < excluded.revision`

// AdvanceCursor implements storage.Publishing. It is an error if the revision
// does not touch the environment.
func (s *Store) AdvanceCursor(ctx context.Context, term storage.Term, target, environment string, to snapshot.Revision) error {
	return s.do(ctx, func(ctx context.Context) error {
		return s.fenced(ctx, term, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, moveCursor, target, environment, to, term)
			return err
		})
	})
}
