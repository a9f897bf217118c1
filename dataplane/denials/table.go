package denials

import "sync"

const (
	steps = uint32(Window/Step) + 1 // that count, the one that is passing included
	ways  = 8
	sets  = 1 << 13

	// Capacity is how many principals, and how many addresses, have a count.
	Capacity = sets * ways
)

// table counts by the hash of who was denied. The zero value is empty.
type table struct{ sets [sets]set }

// set has those whose hashes end alike. The keys are together, so that a look at them
// waits for memory once.
type set struct {
	keys    [ways]uint64
	mu      sync.Mutex
	entries [ways]entry

	_ [24]byte // whole cache lines
}

// entry is the count of one. The zero value is free.
type entry struct {
	newest uint32        // step of which counts has some
	counts [steps]uint16 // by step, modulo their number; they stop at the highest
}

func (t *table) set(key uint64) *set { return &t.sets[key%sets] }

// add makes room, where there is none, for one more in place of the least.
func (t *table) add(key uint64, now uint32) {
	s := t.set(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(key)
	if e == nil {
		e = s.replace(key, now)
	}
	e.count(now)
}

func (t *table) of(key uint64, now uint32) int64 {
	s := t.set(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(key)
	if e == nil {
		return 0
	}
	return e.total(now)
}

// find returns the entry of a key, nil for none. mu is held.
func (s *set) find(key uint64) *entry {
	for i, k := range s.keys {
		if k == key {
			return &s.entries[i]
		}
	}
	return nil
}

// replace gives the key the place of who was denied least. mu is held.
func (s *set) replace(key uint64, now uint32) *entry {
	least, lowest := 0, s.entries[0].total(now)
	for i := range s.entries {
		if total := s.entries[i].total(now); total < lowest {
			least, lowest = i, total
		}
	}
	s.keys[least], s.entries[least] = key, entry{}
	return &s.entries[least]
}

// total forgets what does not count any more, and returns what does.
func (e *entry) total(now uint32) (sum int64) {
	e.pass(now)
	for _, n := range e.counts {
		sum += int64(n)
	}
	return sum
}

// count adds one, to the newest step where the clock was set back.
func (e *entry) count(now uint32) {
	e.pass(now)
	if n := &e.counts[e.newest%steps]; *n < 1<<16-1 {
		*n++
	}
}

// pass makes now the newest step, unless it is older.
func (e *entry) pass(now uint32) {
	if e.newest+steps <= now {
		*e = entry{newest: now}
		return
	}
	for ; e.newest < now; e.newest++ {
		e.counts[(e.newest+1)%steps] = 0
	}
}
