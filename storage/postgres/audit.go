package postgres

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

// Record implements storage.Audit. An entry without a time gets the database's.
func (s *Store) Record(ctx context.Context, e storage.AuditEntry) error {
	return s.do(ctx, func(ctx context.Context) error {
		return s.change(ctx, func(tx pgx.Tx) error { return appendEntry(ctx, tx, e) })
	})
}

// appendEntry makes e the newest entry. It holds the lock of the chain until tx
// ends.
func appendEntry(ctx context.Context, tx pgx.Tx, e storage.AuditEntry) error {
	const selectEnd = `select sequence, digest, clock_timestamp() from audit_chain for update`
	var now time.Time
	var previous []byte
	if err := tx.QueryRow(ctx, selectEnd).Scan(&e.Sequence, &previous, &now); err != nil {
		return fmt.Errorf("lock the audit chain: %w", err)
	}
	if e.At.IsZero() {
		e.At = now
	}
	e.At = e.At.UTC().Truncate(time.Microsecond) // what the table keeps of it
	e.Caller, e.Action, e.Detail = text(e.Caller), text(e.Action), text(e.Detail)
	e.Sequence++
	e.Previous = snapshot.Digest(previous)
	e.Digest = entryDigest(e)
	batch := &pgx.Batch{}
	batch.Queue(`insert into audit_entry (sequence, at, caller, action, allowed, revision, detail, previous, digest)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		e.Sequence, e.At, e.Caller, e.Action, e.Allowed, e.Revision, e.Detail, e.Previous[:], e.Digest[:])
	batch.Queue(`update audit_chain set sequence = $1, digest = $2`, e.Sequence, e.Digest[:])
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("append to the audit chain: %w", err)
	}
	return nil
}

// entryDigest digests an entry with the digest of the one before. Texts are
// length-prefixed, so that no two entries are digested alike.
func entryDigest(e storage.AuditEntry) snapshot.Digest {
	b := make([]byte, 0, 256)
	b = append(b, "sallyport audit v1\x00"...)
	b = append(b, e.Previous[:]...)
	for _, n := range [...]int64{e.Sequence, e.At.UnixMicro(), int64(e.Revision)} {
		b = binary.BigEndian.AppendUint64(b, uint64(n)) //nolint:gosec // every int64 has its own pattern of bits
	}
	if e.Allowed {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	for _, part := range [...]string{e.Caller, e.Action, e.Detail} {
		b = binary.BigEndian.AppendUint64(b, uint64(len(part)))
		b = append(b, part...)
	}
	return sha256.Sum256(b)
}

const entryColumns = `sequence, at, caller, action, allowed, revision, detail, previous, digest`

func scanEntry(row pgx.CollectableRow) (storage.AuditEntry, error) {
	var e storage.AuditEntry
	var previous, digest []byte
	if err := row.Scan(&e.Sequence, &e.At, &e.Caller, &e.Action, &e.Allowed, &e.Revision, &e.Detail, &previous, &digest); err != nil {
		return e, err
	}
	e.At = e.At.UTC()
	// A digest of another length was tampered with: zero, it fits nothing.
	e.Previous, _ = snapshot.ParseDigest(previous)
	e.Digest, _ = snapshot.ParseDigest(digest)
	return e, nil
}

// Entries implements storage.Audit.
func (s *Store) Entries(ctx context.Context, after int64, limit int) (entries []storage.AuditEntry, err error) {
	const selectEntries = `select ` + entryColumns + ` from audit_entry where sequence > $1 order by sequence limit $2`
	err = s.do(ctx, func(ctx context.Context) error {
		entries, err = collect(ctx, s.pool, scanEntry, selectEntries, after, limit)
		return err
	})
	return entries, err
}

// ErrChain says that the audit entries are not those that were recorded.
var ErrChain = errors.New("the audit chain is broken")

// VerifyAudit reads all audit entries and returns how many there are; ErrChain
// if one was changed, removed or added past the store. It cannot tell a chain
// that was rewritten whole: compare the digest of a late entry with a copy that
// was kept elsewhere.
func (s *Store) VerifyAudit(ctx context.Context) (count int64, err error) {
	err = s.do(ctx, func(ctx context.Context) error {
		return s.within(ctx, func(tx pgx.Tx) error {
			count, err = verifyChain(ctx, tx)
			return err
		})
	})
	return count, err
}

func verifyChain(ctx context.Context, tx pgx.Tx) (int64, error) {
	var count int64
	var end []byte
	if err := tx.QueryRow(ctx, `select sequence, digest from audit_chain`).Scan(&count, &end); err != nil {
		return 0, err
	}
	rows, err := tx.Query(ctx, `select `+entryColumns+` from audit_entry order by sequence`)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var last storage.AuditEntry
	for rows.Next() {
		e, err := scanEntry(rows)
		if err != nil {
			return 0, err
		}
		if e.Sequence != last.Sequence+1 || e.Previous != last.Digest || e.Digest != entryDigest(e) {
			return 0, fmt.Errorf("%w at entry %d", ErrChain, last.Sequence+1)
		}
		last = e
	}
	if err := rows.Err(); err != nil {
		return 0, err
	}
	if last.Sequence != count || !bytes.Equal(last.Digest[:], end) {
		return 0, fmt.Errorf("%w at its end: %d entries of %d are left", ErrChain, last.Sequence, count)
	}
	return count, nil
}
