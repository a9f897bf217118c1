package postgres

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport/sallyport/storage"
)

const selectDecisions = `select d.id, j.proxy, j.boot, d.sequence, d.environment, d.principal, d.route, d.allow, d.reason, d.trace, d.record
	from decision d join decision_journal j on j.id = d.journal`

func scanDecision(row pgx.CollectableRow) (storage.Decision, error) {
	var d storage.Decision
	var trace []byte
	err := row.Scan((*[16]byte)(&d.ID), &d.Proxy, &d.Boot, &d.Sequence, &d.Environment, &d.Principal, &d.Route, &d.Allow, &d.Reason, &trace, &d.Record)
	copy(d.Trace[:], trace)
	return d, err
}

// conditions are those of a query, with what their parameters stand for.
type conditions struct {
	clauses []string
	args    []any
}

// add adds a condition, in which $ stands for the argument.
func (c *conditions) add(clause string, arg any) {
	c.args = append(c.args, arg)
	c.clauses = append(c.clauses, strings.ReplaceAll(clause, "$", fmt.Sprintf("$%d", len(c.args))))
}

func (c *conditions) equals(column, value string) {
	if value != "" {
		c.add("d."+column+" = $", value)
	}
}

func (c *conditions) String() string {
	if len(c.clauses) == 0 {
		return ""
	}
	return " where " + strings.Join(c.clauses, " and ")
}

// filter adds all conditions of f but that on principals. Those that have an index
// are written as it is.
func (c *conditions) filter(f storage.DecisionFilter, journals []int64) {
	if f.ID != (storage.DecisionID{}) {
		c.add("d.id = $", [16]byte(f.ID))
	}
	if f.Route != "" {
		c.add("d.route = $ and d.route <> ''", f.Route)
	}
	if f.Trace != (storage.TraceID{}) {
		c.add("d.trace = $ and d.trace <> ''", traceBytes(f.Trace))
	}
	if f.Allow != nil {
		c.clauses = append(c.clauses, map[bool]string{true: "d.allow", false: "not d.allow"}[*f.Allow])
	}
	c.equals("reason", f.Reason)
	c.equals("environment", f.Environment)
	if f.Proxy != "" {
		c.add("d.journal = any($)", journals)
	}
}

// journals returns the journals of a proxy.
func (d *Decisions) journals(ctx context.Context, proxy storage.ProxyID) ([]int64, error) {
	if proxy == "" {
		return nil, nil
	}
	return collect(ctx, d.pool, pgx.RowTo[int64], `select id from decision_journal where proxy = $1`, proxy)
}

// Decisions implements storage.Decisions.
func (d *Decisions) Decisions(ctx context.Context, p storage.DecisionPage) (found []storage.Decision, err error) {
	// Each name has its place in the index, and its own order by time.
	each := p.Principals
	if len(each) == 0 {
		each = []string{""}
	}
	err = d.do(ctx, func(ctx context.Context) error {
		journals, err := d.journals(ctx, p.Proxy)
		if err != nil {
			return err
		}
		for _, principal := range each {
			some, err := d.page(ctx, p, principal, journals)
			if err != nil {
				return err
			}
			found = append(found, some...)
		}
		slices.SortFunc(found, newestFirst)
		found = found[:min(len(found), p.Limit)]
		return d.complete(ctx, found)
	})
	return found, err
}

// outcome is a row of the table.
type outcome struct {
	ID     [16]byte
	Proxy  storage.ProxyID
	Record []byte
}

// complete adds the outcomes to decisions that came in later.
func (d *Decisions) complete(ctx context.Context, found []storage.Decision) error {
	type key struct {
		id    storage.DecisionID
		proxy storage.ProxyID
	}
	places := map[key]int{}
	var ids [][16]byte
	for i := range found {
		if found[i].Allow {
			places[key{found[i].ID, found[i].Proxy}] = i
			ids = append(ids, found[i].ID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	first, last := slices.MinFunc(ids, byBytes), slices.MaxFunc(ids, byBytes)
	rows, err := collect(ctx, d.pool, pgx.RowToStructByPos[outcome], `select distinct on (o.id, j.proxy) o.id, j.proxy, o.record
		from outcome o join decision_journal j on j.id = o.journal where o.id = any($1) and o.id between $2 and $3`, ids, first, last)
	for _, row := range rows {
		if i, there := places[key{row.ID, row.Proxy}]; there {
			found[i].Record = append(found[i].Record, row.Record...)
		}
	}
	return err
}

func byBytes(a, b [16]byte) int { return bytes.Compare(a[:], b[:]) }

func newestFirst(a, b storage.Decision) int {
	return -cmp.Or(bytes.Compare(a.ID[:], b.ID[:]), strings.Compare(string(a.Proxy), string(b.Proxy)),
		bytes.Compare(a.Boot, b.Boot), cmp.Compare(a.Sequence, b.Sequence))
}

func (d *Decisions) page(ctx context.Context, p storage.DecisionPage, principal string, journals []int64) ([]storage.Decision, error) {
	var c conditions
	c.filter(p.DecisionFilter, journals)
	if principal != "" {
		c.add("d.principal = $ and d.principal <> ''", principal)
	}
	if p.From != (storage.DecisionID{}) {
		c.add("d.id >= $", [16]byte(p.From))
	}
	if p.Before != (storage.DecisionID{}) {
		c.add("d.id < $", [16]byte(p.Before))
	}
	if a := p.After; a != nil {
		c.add("d.id <= $", [16]byte(a.ID))
		c.args = append(c.args, a.Proxy, a.Boot, a.Sequence)
		n := len(c.args)
		c.clauses = append(c.clauses, fmt.Sprintf("(d.id, j.proxy, j.boot, d.sequence) < ($%d, $%d, $%d, $%d)", n-3, n-2, n-1, n))
	}
	c.args = append(c.args, p.Limit)
	return collect(ctx, d.pool, scanDecision, selectDecisions+c.String()+
		fmt.Sprintf(` order by d.id desc, j.proxy desc, j.boot desc, d.sequence desc limit $%d`, len(c.args)), c.args...)
}

// Mark implements storage.Decisions.
func (d *Decisions) Mark(ctx context.Context) (m storage.DecisionMark, err error) {
	err = d.do(ctx, func(ctx context.Context) error {
		grown, err := d.grown(ctx, 0)
		m = make(storage.DecisionMark, len(grown))
		for _, g := range grown {
			m[g.ID] = g.Sequence
		}
		return err
	})
	return m, err
}

// growth is how far a journal has come.
type growth struct{ ID, Sequence int64 }

// grown returns the journals that may have grown within a time, all when it is 0.
func (d *Decisions) grown(ctx context.Context, within time.Duration) ([]growth, error) {
	return collect(ctx, d.pool, pgx.RowToStructByPos[growth], `select id, sequence from decision_journal
		where $1::float8 = 0 or updated_at > now() - make_interval(secs => $1::float8) order by updated_at desc`, within.Seconds())
}

const (
	// tailWindow is longer than a transaction may take that makes a journal grow.
	tailWindow = 3 * time.Minute
	// tailAge is how old what is told as new may be at most: what lay in a spool
	// for longer is history.
	tailAge = 48 * time.Hour
)

// Recorded implements storage.Decisions.
func (d *Decisions) Recorded(ctx context.Context, m storage.DecisionMark, f storage.DecisionFilter, limit int) (found []storage.Decision, skipped int64, err error) {
	err = d.do(ctx, func(ctx context.Context) error {
		grown, err := d.grown(ctx, tailWindow)
		if err != nil {
			return err
		}
		var span spans
		span, skipped = newSpans(m, grown, int64(limit))
		if len(span.ids) > 0 {
			if found, err = d.recorded(ctx, f, span); err != nil {
				return err
			}
			if err := d.complete(ctx, found); err != nil {
				return err
			}
		}
		for _, g := range grown {
			m[g.ID] = max(m[g.ID], g.Sequence)
		}
		return nil
	})
	return found, skipped, err
}

// spans are parts of journals: above low, up to high.
type spans struct{ ids, low, high []int64 }

// newSpans returns what journals have grown by since m, the last ones of them if
// that is more than limit.
func newSpans(m storage.DecisionMark, grown []growth, limit int64) (s spans, skipped int64) {
	for _, g := range grown {
		low := m[g.ID]
		if g.Sequence <= low {
			continue
		}
		if over := g.Sequence - low - limit; over > 0 {
			skipped += over
			low += over
		}
		if limit -= g.Sequence - low; g.Sequence > low {
			s.ids, s.low, s.high = append(s.ids, g.ID), append(s.low, low), append(s.high, g.Sequence)
		}
	}
	return s, skipped
}

func (d *Decisions) recorded(ctx context.Context, f storage.DecisionFilter, s spans) ([]storage.Decision, error) {
	journals, err := d.journals(ctx, f.Proxy)
	if err != nil {
		return nil, err
	}
	c := conditions{args: []any{s.ids, s.low, s.high}}
	c.filter(f, journals)
	if len(f.Principals) > 0 {
		c.add("d.principal = any($)", f.Principals)
	}
	c.add("d.id >= $", [16]byte(storage.DecisionsFrom(time.Now().Add(-tailAge))))
	return collect(ctx, d.pool, scanDecision, selectDecisions+` join unnest($1::bigint[], $2::bigint[], $3::bigint[]) as s (id, low, high)
		on d.journal = s.id and d.sequence > s.low and d.sequence <= s.high`+c.String()+` order by d.journal, d.sequence`, c.args...)
}
