package postgres

import (
	"context"
	"slices"
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

var (
	decisionColumns = []string{"id", "journal", "sequence", "environment", "principal", "route", "allow", "reason", "trace", "record"}
	outcomeColumns  = []string{"id", "journal", "sequence", "record"}
)

// SaveDecisions implements storage.Decisions.
func (d *Decisions) SaveDecisions(ctx context.Context, r storage.Records) error {
	return d.do(ctx, func(ctx context.Context) error {
		for day := range daysOf(r) {
			if err := d.openDay(ctx, day); err != nil {
				return err
			}
		}
		err := d.change(ctx, func(tx pgx.Tx) error { return saveDecisions(ctx, tx, r) })
		if noPartition(err) { // it was dropped by another replica
			d.forgetDays()
		}
		return err
	})
}

func daysOf(r storage.Records) map[time.Time]struct{} {
	days := map[time.Time]struct{}{}
	for _, one := range r.Decisions {
		days[dayOf(one.ID.Time())] = struct{}{}
	}
	for _, one := range r.Outcomes {
		days[dayOf(one.ID.Time())] = struct{}{}
	}
	return days
}

func saveDecisions(ctx context.Context, tx pgx.Tx, r storage.Records) error {
	var journal, has int64
	if err := tx.QueryRow(ctx, touchJournal, r.Proxy, r.Boot).Scan(&journal, &has); err != nil {
		return err
	}
	if r.Last <= has {
		return nil
	}
	decisions, outcomes := after(r, has)
	if err := copyDecisions(ctx, tx, journal, decisions); err != nil {
		return err
	}
	if err := copyOutcomes(ctx, tx, journal, outcomes); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, advanceJournal, journal, r.Last)
	return err
}

// after returns what comes after a place in the journal, with the outcomes of those
// decisions in them.
func after(r storage.Records, has int64) ([]storage.Decision, []storage.Outcome) {
	for len(r.Decisions) > 0 && r.Decisions[0].Sequence <= has {
		r.Decisions = r.Decisions[1:]
	}
	decisions := slices.Clone(r.Decisions)
	places := make(map[storage.DecisionID]int, len(decisions))
	for i := range decisions {
		places[decisions[i].ID] = i
	}
	var outcomes []storage.Outcome
	for _, o := range r.Outcomes {
		i, there := places[o.ID]
		switch {
		case o.Sequence <= has:
		case there:
			decisions[i].Record = slices.Concat(decisions[i].Record, o.Record)
		default:
			outcomes = append(outcomes, o)
		}
	}
	return decisions, outcomes
}

func copyDecisions(ctx context.Context, tx pgx.Tx, journal int64, all []storage.Decision) error {
	if len(all) == 0 {
		return nil
	}
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"decision"}, decisionColumns, pgx.CopyFromSlice(len(all), func(i int) ([]any, error) {
		r := &all[i]
		return []any{
			[16]byte(r.ID), journal, r.Sequence, text(r.Environment), text(r.Principal), text(r.Route), r.Allow, text(r.Reason), traceBytes(r.Trace), notNull(r.Record),
		}, nil
	}))
	return err
}

// traceBytes returns those that the database has of a trace: none for none.
func traceBytes(id storage.TraceID) []byte {
	if id == (storage.TraceID{}) {
		return []byte{}
	}
	return id[:]
}

func copyOutcomes(ctx context.Context, tx pgx.Tx, journal int64, all []storage.Outcome) error {
	if len(all) == 0 {
		return nil
	}
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"outcome"}, outcomeColumns, pgx.CopyFromSlice(len(all), func(i int) ([]any, error) {
		o := &all[i]
		return []any{[16]byte(o.ID), journal, o.Sequence, notNull(o.Record)}, nil
	}))
	return err
}

const dayName = "20060102"

// parted are the tables that have a partition for each day of IDs.
var parted = []string{"decision", "outcome"}

func dayOf(t time.Time) time.Time { return t.UTC().Truncate(24 * time.Hour) }

// openDay makes the partitions of a day, unless they are there. Readers and writers of
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
	err := d.change(ctx, func(tx pgx.Tx) error { return createDay(ctx, tx, day) })
	if err == nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.days[name] = struct{}{}
	}
	return err
}

func createDay(ctx context.Context, tx pgx.Tx, day time.Time) error {
	if err := lockDays(ctx, tx); err != nil {
		return err
	}
	for _, table := range parted {
		if err := createPart(ctx, tx, table, day); err != nil {
			return err
		}
	}
	return nil
}

func createPart(ctx context.Context, tx pgx.Tx, table string, day time.Time) error {
	name := table + "_" + day.Format(dayName)
	var there bool
	if err := tx.QueryRow(ctx, `select to_regclass($1) is not null`, name).Scan(&there); err != nil || there {
		return err
	}
	bound := func(t time.Time) string { return "'" + storage.DecisionsFrom(t).String() + "'" }
	if _, err := tx.Exec(ctx, `create table `+name+` (like `+table+` including all)`); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `alter table `+table+` attach partition `+name+` for values from (`+bound(day)+`) to (`+bound(day.Add(24*time.Hour))+`)`)
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
		days, err := collect(ctx, d.pool, pgx.RowTo[string], `select distinct split_part(c.relname, '_', 2) as day
			from pg_inherits i join pg_class c on c.oid = i.inhrelid
			where i.inhparent in ('decision'::regclass, 'outcome'::regclass) order by day`)
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

// dropDay drops the partitions of a day, unless queries hold on to them for long: everybody who
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
		for _, table := range parted {
			if _, err := tx.Exec(ctx, `drop table if exists `+table+"_"+name); err != nil {
				return err
			}
		}
		return nil
	})
}
