package postgres

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport/sallyport/storage"
)

// Decisions keeps the records of decisions, over connections of its own: however
// many there are, nobody else has to wait. It implements storage.Decisions.
type Decisions struct {
	*database

	mu   sync.Mutex
	days map[string]struct{} // partitions that are known to be there
}

var _ storage.Decisions = (*Decisions)(nil)

// NewDecisions checks the configuration; it connects to nothing. It holds
// connections once it was used, until Close.
func NewDecisions(c Config) (*Decisions, error) {
	store, err := New(c)
	if err != nil {
		return nil, err
	}
	return &Decisions{database: store.database, days: map[string]struct{}{}}, nil
}

const (
	touchJournal = `insert into decision_journal (proxy, boot, sequence, updated_at)
		values ($1, $2, 0, now())
		on conflict (proxy, boot) do update set updated_at = now()
		returning id, sequence`
	advanceJournal = `update decision_journal set sequence = $2 where id = $1`
)

var decisionColumns = []string{"id", "journal", "sequence", "environment", "principal", "route", "allow", "reason", "record"}

// SaveDecisions implements storage.Decisions.
func (d *Decisions) SaveDecisions(ctx context.Context, j storage.Journal, last int64, decisions []storage.Decision) error {
	return d.do(ctx, func(ctx context.Context) error {
		for _, r := range decisions {
			if err := d.openDay(ctx, r.ID.Time()); err != nil {
				return err
			}
		}
		err := d.change(ctx, func(tx pgx.Tx) error { return saveDecisions(ctx, tx, j, last, decisions) })
		if noPartition(err) { // it was dropped by another replica
			d.forgetDays()
		}
		return err
	})
}

func saveDecisions(ctx context.Context, tx pgx.Tx, j storage.Journal, last int64, decisions []storage.Decision) error {
	var journal, has int64
	if err := tx.QueryRow(ctx, touchJournal, j.Proxy, j.Boot).Scan(&journal, &has); err != nil {
		return err
	}
	for len(decisions) > 0 && decisions[0].Sequence <= has {
		decisions = decisions[1:]
	}
	if last <= has {
		return nil
	}
	if len(decisions) > 0 {
		_, err := tx.CopyFrom(ctx, pgx.Identifier{"decision"}, decisionColumns,
			pgx.CopyFromSlice(len(decisions), func(i int) ([]any, error) {
				r := &decisions[i]
				return []any{
					[16]byte(r.ID), journal, r.Sequence, text(r.Environment), text(r.Principal), text(r.Route), r.Allow, text(r.Reason), notNull(r.Record),
				}, nil
			}))
		if err != nil {
			return err
		}
	}
	_, err := tx.Exec(ctx, advanceJournal, journal, last)
	return err
}

const dayName = "decision_20060102"

func dayOf(t time.Time) time.Time { return t.UTC().Truncate(24 * time.Hour) }

// openDay makes the partition of a day, unless it is there. Readers and writers of
// other days do not wait for it.
func (d *Decisions) openDay(ctx context.Context, t time.Time) error {
	day := dayOf(t)
	name := day.Format(dayName)
	d.mu.Lock()
	_, there := d.days[name]
	d.mu.Unlock()
	if there {
		return nil
	}
	err := d.change(ctx, func(tx pgx.Tx) error { return createDay(ctx, tx, name, day) })
	if err == nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.days[name] = struct{}{}
	}
	return err
}

func createDay(ctx context.Context, tx pgx.Tx, name string, day time.Time) error {
	if err := lockDays(ctx, tx); err != nil {
		return err
	}
	var there bool
	if err := tx.QueryRow(ctx, `select to_regclass($1) is not null`, name).Scan(&there); err != nil || there {
		return err
	}
	bound := func(t time.Time) string { return "'" + storage.DecisionsFrom(t).String() + "'" }
	if _, err := tx.Exec(ctx, `create table `+name+` (like decision including all)`); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `alter table decision attach partition `+name+` for values from (`+bound(day)+`) to (`+bound(day.Add(24*time.Hour))+`)`)
	return err
}

// lockDays has replicas make and drop partitions in turn.
func lockDays(ctx context.Context, tx pgx.Tx) error {
	const key = 0x73616c6c79646179 // "sallyday"
	_, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, int64(key))
	return err
}

func (d *Decisions) forgetDays() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.days)
}

// KeepDecisions implements storage.Decisions.
func (d *Decisions) KeepDecisions(ctx context.Context, from, until time.Time) error {
	return d.do(ctx, func(ctx context.Context) error {
		for _, day := range []time.Time{until.Add(-24 * time.Hour), until} {
			if err := d.openDay(ctx, day); err != nil {
				return err
			}
		}
		days, err := collect(ctx, d.pool, pgx.RowTo[string], `select c.relname::text from pg_inherits i join pg_class c on c.oid = i.inhrelid
			where i.inhparent = 'decision'::regclass order by c.relname`)
		if err != nil {
			return err
		}
		for _, name := range days {
			day, err := time.Parse(dayName, name)
			if err != nil || day.Add(24*time.Hour).After(from) {
				continue
			}
			if err := d.dropDay(ctx, name); err != nil {
				return err
			}
		}
		_, err = d.pool.Exec(ctx, `delete from decision_journal where updated_at < $1`, from)
		return err
	})
}

// dropDay drops a partition, unless queries hold on to it for long: everybody who
// comes after it waits as long as it does.
func (d *Decisions) dropDay(ctx context.Context, name string) error {
	d.forgetDays()
	return d.change(ctx, func(tx pgx.Tx) error {
		if err := lockDays(ctx, tx); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `set local lock_timeout = '2s'`); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `drop table if exists `+name)
		return err
	})
}
