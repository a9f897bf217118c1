package postgres

import (
	"context"
	"errors"
	"maps"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

// selectAnnotations is what selectRevisions says beside the revision itself: of the
// security lane, nothing.
func (l *lane) selectAnnotations() (columns, from string) {
	if l.immediate {
		return `'{}'::jsonb as labels, '' as note, false as forgotten`, ``
	}
	return `coalesce(a.labels, '{}') as labels, coalesce(a.note, '') as note,
		r.revision < (select begins from history)
			and not exists (select from kept_state k where k.environment = '' and k.revision = r.revision) as forgotten`,
		`left join revision_annotation a on a.revision = r.revision`
}

// Annotate implements storage.Annotations. Two of one revision wait for each other.
func (s *Store) Annotate(ctx context.Context, at snapshot.Revision, e storage.AuditEntry, revise func(storage.Annotation) (storage.Annotation, error)) (storage.RevisionInfo, error) {
	var refusal error
	err := s.do(ctx, func(ctx context.Context) error {
		return s.change(ctx, func(tx pgx.Tx) error {
			before, err := annotation(ctx, tx, at)
			if err != nil {
				return err
			}
			after, err := revise(storage.Annotation{Labels: maps.Clone(before.Labels), Note: before.Note})
			if err != nil {
				refusal = err
				return err
			}
			if maps.Equal(before.Labels, after.Labels) && before.Note == after.Note {
				return nil
			}
			if after.Labels == nil {
				after.Labels = map[string]string{}
			}
			if _, err := tx.Exec(ctx, `insert into revision_annotation (revision, labels, note) values ($1, $2, $3)
				on conflict (revision) do update set labels = excluded.labels, note = excluded.note`, at, after.Labels, text(after.Note)); err != nil {
				return err
			}
			return appendEntry(ctx, tx, e)
		})
	})
	if refusal != nil {
		return storage.RevisionInfo{}, refusal
	}
	if err != nil {
		return storage.RevisionInfo{}, err
	}
	found, err := s.Revisions(ctx, at+1, 1)
	if err == nil && (len(found) == 0 || found[0].Revision != at) {
		err = storage.ErrNotFound
	}
	if err != nil {
		return storage.RevisionInfo{}, err
	}
	return found[0], nil
}

// annotation returns what is said of a revision, and keeps others from saying more
// until tx ends.
func annotation(ctx context.Context, tx pgx.Tx, at snapshot.Revision) (a storage.Annotation, err error) {
	if err := tx.QueryRow(ctx, `select revision from revision where revision = $1 for update`, at).Scan(&at); err != nil {
		return a, missing(err)
	}
	err = tx.QueryRow(ctx, `select labels, note from revision_annotation where revision = $1`, at).Scan(&a.Labels, &a.Note)
	if errors.Is(err, pgx.ErrNoRows) {
		return a, nil
	}
	return a, err
}

// Labelled implements storage.Annotations.
func (s *Store) Labelled(ctx context.Context, labels map[string]string, before snapshot.Revision, limit int) (revisions []storage.RevisionInfo, err error) {
	err = s.do(ctx, func(ctx context.Context) error {
		revisions, err = collect(ctx, s.pool, scanRevision, s.selectRevisions(`and a.labels @> $3`), before, limit, labels)
		return err
	})
	return revisions, err
}
