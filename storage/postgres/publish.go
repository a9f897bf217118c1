package postgres

import (
	"bytes"
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
	err = s.pool.QueryRow(ctx, "update publisher set term = term + 1, holder = $1 returning term", holder).Scan(&term)
	return term, classify(err)
}

// fenced runs f in a transaction in which no newer term can begin.
func (s *Store) fenced(ctx context.Context, term storage.Term, f func(tx pgx.Tx) error) error {
	return classify(pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var newest storage.Term
		if err := tx.QueryRow(ctx, "select term from publisher for share").Scan(&newest); err != nil {
			return err
		}
		if newest != term {
			return fmt.Errorf("%w: term %d has ended, it is %d", storage.ErrFenced, term, newest)
		}
		return f(tx)
	}))
}

func scanHead(row pgx.CollectableRow) (storage.EnvironmentHead, error) {
	var h storage.EnvironmentHead
	var head, signature []byte
	if err := row.Scan(&h.Environment, &h.Revision, &head, &signature); err != nil {
		return h, err
	}
	if head != nil {
		h.Signed = &proxyv1.SignedHead{Head: head, Signature: signature}
	}
	return h, nil
}

// Heads implements storage.Publishing.
func (s *Store) Heads(ctx context.Context) ([]storage.EnvironmentHead, error) {
	return collect(ctx, s.pool, scanHead, `
		select r.environment, r.revision, h.head, h.signature
		from (select environment, max(revision) as revision from environment_revision group by environment) r
		left join lateral (
			select head, signature from environment_head
			where environment = r.environment
			order by epoch desc, revision desc
			limit 1
		) h on true
		order by r.environment`)
}

// Head implements storage.Publishing.
func (s *Store) Head(ctx context.Context, environment string, at snapshot.Revision) (storage.EnvironmentHead, error) {
	h, err := one(ctx, s.pool, scanHead, `
		select r.environment, r.revision, h.head, h.signature
		from (
			select environment, max(revision) as revision from environment_revision
			where environment = $1 and revision <= $2
			group by environment
		) r
		join lateral (
			select head, signature from environment_head
			where environment = r.environment and revision = r.revision
			order by epoch desc
			limit 1
		) h on true`, environment, at)
	if err != nil {
		return h, fmt.Errorf("head of %s at revision %d: %w", environment, at, err)
	}
	return h, nil
}

// EnvironmentRevisions implements storage.Publishing.
func (s *Store) EnvironmentRevisions(ctx context.Context, environment string, after snapshot.Revision, limit int) (all []storage.EnvironmentRevision, err error) {
	err = s.read(ctx, func(tx pgx.Tx) error {
		revisions, err := collect(ctx, tx, pgx.RowTo[snapshot.Revision], `
			select revision from environment_revision
			where environment = $1 and revision > $2
			order by revision
			limit $3`, environment, after, limit)
		if err != nil || len(revisions) == 0 {
			return err
		}
		versions, err := collect(ctx, tx, scanVersion, `
			select `+versionColumns+` from resource_version
			where revision = any ($1) and kind <> 'Enrollment'
			order by revision, kind, namespace, name`, revisions)
		if err != nil {
			return err
		}
		all = make([]storage.EnvironmentRevision, len(revisions))
		for i, r := range revisions {
			all[i].Revision = r
			for len(versions) > 0 && versions[0].Revision == r {
				all[i].Versions = append(all[i].Versions, versions[0])
				versions = versions[1:]
			}
		}
		return nil
	})
	return all, err
}

// EnvironmentState implements storage.Publishing.
func (s *Store) EnvironmentState(ctx context.Context, environment string, at snapshot.Revision) ([]storage.Version, error) {
	return collect(ctx, s.pool, scanVersion, `
		select `+versionColumns+` from resource_version
		where not deleted and revision <= $2 and (superseded_by is null or superseded_by > $2)
			and (all_environments or $1 = any (environments))
		order by kind, namespace, name`, environment, at)
}

// SaveHeads implements storage.Publishing.
func (s *Store) SaveHeads(ctx context.Context, term storage.Term, heads []snapshot.Head) error {
	return s.fenced(ctx, term, func(tx pgx.Tx) error {
		for _, h := range heads {
			if err := saveHead(ctx, tx, h); err != nil {
				return fmt.Errorf("head of %s at revision %d: %w", h.Environment, h.Revision, err)
			}
		}
		return nil
	})
}

func saveHead(ctx context.Context, tx pgx.Tx, h snapshot.Head) error {
	digest := h.Digest()
	tag, err := tx.Exec(ctx, `
		insert into environment_head (environment, revision, epoch, digest, head, signature)
		values ($1, $2, $3, $4, $5, $6)
		on conflict do nothing`,
		h.Environment, h.Revision, h.Epoch, digest[:], h.Signed().GetHead(), h.Signed().GetSignature())
	if err != nil || tag.RowsAffected() == 1 {
		return err
	}
	var recorded []byte
	err = tx.QueryRow(ctx, "select digest from environment_head where environment = $1 and revision = $2 and epoch = $3",
		h.Environment, h.Revision, h.Epoch).Scan(&recorded)
	if err == nil && !bytes.Equal(recorded, digest[:]) {
		return errors.New("another one is recorded for this revision")
	}
	return err
}

// Cursor implements storage.Publishing.
func (s *Store) Cursor(ctx context.Context, target, environment string) (r snapshot.Revision, err error) {
	err = s.pool.QueryRow(ctx, "select revision from publish_cursor where target = $1 and environment = $2", target, environment).Scan(&r)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	return r, classify(err)
}

// AdvanceCursor implements storage.Publishing.
func (s *Store) AdvanceCursor(ctx context.Context, term storage.Term, target, environment string, to snapshot.Revision) error {
	return s.fenced(ctx, term, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			insert into publish_cursor (target, environment, revision, term)
			values ($1, $2, $3, $4)
			on conflict (target, environment) do update set revision = excluded.revision, term = excluded.term
			where publish_cursor.revision < excluded.revision`, target, environment, to, term)
		return err
	})
}
