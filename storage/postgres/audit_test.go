package postgres_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

func record(t testing.TB, f fleet, e storage.AuditEntry) {
	t.Helper()
	if err := f.Record(t.Context(), e); err != nil {
		t.Fatal(err)
	}
}

var errChain = errors.New("the audit chain is broken")

// verifyAudit does what an auditor does who has the database: it returns how
// many entries there are; errChain unless they are those that were recorded.
func (f fleet) verifyAudit(ctx context.Context) (count int64, err error) {
	conn, err := pgx.Connect(ctx, f.dsn)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	var end []byte
	if err := conn.QueryRow(ctx, `select sequence, digest from audit_chain`).Scan(&count, &end); err != nil {
		return 0, err
	}
	var last storage.AuditEntry
	for {
		entries, err := f.Entries(ctx, last.Sequence, 100)
		if err != nil {
			return 0, err
		}
		for _, e := range entries {
			if e.Sequence != last.Sequence+1 || e.Previous != last.Digest || e.Digest != digestOf(e) {
				return 0, fmt.Errorf("%w at entry %d", errChain, last.Sequence+1)
			}
			last = e
		}
		if len(entries) < 100 {
			break
		}
	}
	if last.Sequence != count || !bytes.Equal(last.Digest[:], end) {
		return 0, fmt.Errorf("%w at its end: %d entries of %d are left", errChain, last.Sequence, count)
	}
	return count, nil
}

// digestOf is the digest of an entry as it is defined: numbers are of eight
// bytes, big-endian, and texts follow their length.
func digestOf(e storage.AuditEntry) snapshot.Digest {
	number := func(n int64) string { return string(binary.BigEndian.AppendUint64(nil, uint64(n))) }
	text := func(s string) string { return number(int64(len(s))) + s }
	return sha256.Sum256([]byte("sallyport audit v1\x00" + string(e.Previous[:]) +
		number(e.Sequence) + number(e.At.UnixMicro()) + number(int64(e.Revision)) +
		map[bool]string{true: "\x01", false: "\x00"}[e.Allowed] +
		text(e.Caller) + text(e.Action) + text(e.Detail)))
}

func TestAudit(t *testing.T) {
	t.Parallel()
	f := open(t)
	record(t, f, storage.AuditEntry{At: noon.Add(789), Caller: "ann", Action: "list", Allowed: true})
	f.apply(t, environment("aws"))
	record(t, f, storage.AuditEntry{Caller: "bob\x00\xff", Action: "apply", Detail: "is a viewer"})

	entries, err := f.Entries(t.Context(), 0, 10)
	if err != nil || len(entries) != 3 {
		t.Fatal(entries, err)
	}
	var got []string
	for i, e := range entries {
		got = append(got, fmt.Sprintf("%d %s %s %t %d %s", e.Sequence, e.Caller, e.Action, e.Allowed, e.Revision, e.Detail))
		if i > 0 && e.Previous != entries[i-1].Digest {
			t.Errorf("entry %d does not hold the digest of the one before", e.Sequence)
		}
	}
	if want := lines("1 ann list true 0 ", "2 ann apply true 1 why", "3 bob\uFFFD\uFFFD apply false 0 is a viewer"); strings.Join(got, "\n") != want {
		t.Errorf("the entries are\n%s\nwant\n%s", strings.Join(got, "\n"), want)
	}
	if !entries[0].At.Equal(noon) {
		t.Errorf("the time is %v, want %v", entries[0].At, noon)
	}
	revisions, err := f.Revisions(t.Context(), 0, 1)
	if err != nil || !entries[1].At.Equal(revisions[0].CommittedAt) || time.Since(entries[2].At).Abs() > time.Hour {
		t.Errorf("the times are %v and %v (%v)", entries[1].At, entries[2].At, err)
	}
	if !entries[0].Previous.IsZero() {
		t.Error("the first entry has one before")
	}
	if page, err := f.Entries(t.Context(), 1, 1); err != nil || len(page) != 1 || page[0] != entries[1] {
		t.Errorf("after the first comes %v (%v)", page, err)
	}
	if n, err := f.verifyAudit(t.Context()); err != nil || n != 3 {
		t.Errorf("verifyAudit: %d, %v", n, err)
	}
}

// The digest of an entry never changes its meaning from one release to another:
// what is written here was computed by another program from the description.
func TestAuditDigestStays(t *testing.T) {
	t.Parallel()
	f := open(t)
	record(t, f, storage.AuditEntry{At: noon, Caller: "ann", Action: "apply", Allowed: true, Revision: 7, Detail: "why"})
	record(t, f, storage.AuditEntry{At: noon.Add(time.Second), Caller: "bob", Action: "apply", Detail: "is a viewer"})
	entries, err := f.Entries(t.Context(), 0, 10)
	if err != nil || len(entries) != 2 {
		t.Fatal(entries, err)
	}
	for i, want := range []string{
		"7ab23ef333b53e28bb3c601c2a01caddf98ebafa6b555aea32885e138e51c681",
		"40486b05b49082eff6dfd31f8564b106c7fba00c1f0460ba2e9953230bf9c288",
	} {
		if got := entries[i].Digest.String(); got != want {
			t.Errorf("entry %d has digest %s, want %s", i+1, got, want)
		}
	}
}

func TestTamperingIsFound(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"another time":           `update audit_entry set at = at + interval '1 microsecond' where sequence = 3`,
		"another caller":         `update audit_entry set caller = 'eve' where sequence = 3`,
		"another action":         `update audit_entry set action = 'list' where sequence = 3`,
		"refused is allowed":     `update audit_entry set allowed = not allowed where sequence = 3`,
		"another revision":       `update audit_entry set revision = revision + 1 where sequence = 3`,
		"another detail":         `update audit_entry set detail = '' where sequence = 3`,
		"text moved":             `update audit_entry set caller = caller || action, action = '' where sequence = 3`,
		"no digest":              `update audit_entry set digest = '' where sequence = 5`,
		"one is gone":            `delete from audit_entry where sequence = 3`,
		"the first is gone":      `delete from audit_entry where sequence = 1`,
		"the last is gone":       `delete from audit_entry where sequence = 5`,
		"all are gone":           `delete from audit_entry`,
		"one was added":          `insert into audit_entry select 6, at, caller, action, allowed, revision, detail, digest, digest from audit_entry where sequence = 5`,
		"two changed places":     `update audit_entry set sequence = case sequence when 2 then 33 when 3 then 2 end where sequence in (2, 3); update audit_entry set sequence = 3 where sequence = 33`,
		"the end was moved":      `update audit_chain set sequence = 4; delete from audit_entry where sequence = 5`,
		"the last one rewritten": `update audit_entry set digest = previous where sequence = 5; update audit_chain set digest = (select digest from audit_entry where sequence = 5)`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := open(t)
			for i := range 5 {
				record(t, f, storage.AuditEntry{Caller: fmt.Sprint("c", i), Action: "apply", Revision: snapshot.Revision(i), Detail: "why"})
			}
			if n, err := f.verifyAudit(t.Context()); err != nil || n != 5 {
				t.Fatalf("verifyAudit: %d, %v", n, err)
			}
			for statement := range strings.SplitSeq(sql, ";") {
				alter(t, f.dsn, statement)
			}
			_, err := f.verifyAudit(t.Context())
			wantErr(t, "verifyAudit", err, errChain)
		})
	}
}

// Commits and entries of two replicas make one chain.
func TestConcurrentAudit(t *testing.T) {
	t.Parallel()
	f := open(t)
	replicas := []fleet{f, {connect(t, f.dsn), f.dsn}}
	const each = 20
	var g errgroup.Group
	for w := range 8 {
		g.Go(func() error {
			for i := range each {
				if w%2 == 0 {
					if err := replicas[w/4].Record(t.Context(), storage.AuditEntry{Caller: fmt.Sprint(w, i)}); err != nil {
						return err
					}
					continue
				}
				change := put(fmt.Sprintf("Policy/shop/p%d-%d", w, i), "all", "p")
				if _, err := replicas[w/4].Commit(t.Context(), storage.Commit{Changes: []storage.Change{change}}, ignore); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if n, err := f.verifyAudit(t.Context()); err != nil || n != 8*each {
		t.Errorf("verifyAudit: %d, %v", n, err)
	}
}
