package limit

import "time"

// mostRoom is what all Tables of a Pool grow by together, in bytes.
const mostRoom = 64 << 20

// Pool has the Tables of the limits in force, by name. It is for one goroutine.
type Pool struct {
	room   *Room
	tables map[string]named
	// epoch is long ago, so that no moment is before it.
	epoch time.Time
}

type named struct {
	table *Table
	key   string
}

// NewPool returns a Pool without a Table at some time.
func NewPool(now time.Time) *Pool {
	return &Pool{room: NewRoom(mostRoom), epoch: now.AddDate(-1, 0, 0)}
}

// Since returns a time as Tables want it.
func (p *Pool) Since(now time.Time) time.Duration { return now.Sub(p.epoch) }

// Sync returns the Tables of limits, by name, each of which says what it has for a
// key. Those that go by the same key as before keep what was used. Others are made
// anew, and what is not named is released.
func (p *Pool) Sync(keys map[string]string) map[string]*Table {
	next, tables := make(map[string]named, len(keys)), make(map[string]*Table, len(keys))
	for name, key := range keys {
		n := p.tables[name]
		if n.table == nil || n.key != key {
			n = named{NewTable(p.room), key}
		}
		next[name], tables[name] = n, n.table
	}
	for name, n := range p.tables {
		if next[name].table != n.table {
			n.table.Release()
		}
	}
	p.tables = next
	return tables
}
