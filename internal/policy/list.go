package policy

import (
	"iter"
	"math/bits"
	"slices"
)

// list is policies of one effect and method, ordered by key. A long one has an
// index, so that its length does not count; in a short one a scan is quicker.
type list struct {
	policies []*Policy
	sets     []set  // of the sheet, one for each policy
	rows     []row  // likewise
	index    *index // nil: scan
}

const (
	shortest = 24       // policies worth an index
	handful  = 8 * 64   // policies that take little room to mark
	longest  = 256 * 64 // policies that there is room to mark
)

// index finds the policies of a list that may name a principal, by position.
// What it finds is still matched in full: it can lose a policy (Policies shows
// that) but never make one match.
type index struct {
	groups    map[string][]int
	ids       map[string][]int
	keys      map[string][]int
	workloads []int // those with SPIFFE patterns
	others    []int // those for everybody, or for all of a kind
}

// marks is a set of positions.
type marks []uint64

func newList(policies []*Policy, s *sheet) list {
	l := list{policies: policies, sets: make([]set, len(policies)), rows: make([]row, len(policies))}
	for i, p := range policies {
		l.rows[i] = s.rows[p]
		l.sets[i] = l.rows[i].set()
	}
	if len(policies) < shortest || len(policies) > longest {
		return l
	}
	l.index = &index{groups: make(map[string][]int), ids: make(map[string][]int), keys: make(map[string][]int)}
	for i, p := range policies {
		l.index.add(i, &p.principals)
	}
	return l
}

func (x *index) add(i int, m *principals) {
	if m.everybody || m.authenticated || m.anonymous {
		x.others = append(x.others, i)
		return
	}
	if len(m.spiffe) > 0 {
		x.workloads = append(x.workloads, i)
	}
	for _, q := range m.groups {
		x.groups[q.name] = append(x.groups[q.name], i)
	}
	for _, q := range m.ids {
		x.ids[q.name] = append(x.ids[q.name], i)
	}
	for _, name := range m.keys {
		x.keys[name] = append(x.keys[name], i)
	}
}

func (x *index) mark(p *Principal, m marks) {
	m.add(x.others)
	if p == nil {
		return
	}
	if p.SPIFFEID != "" {
		m.add(x.workloads)
	}
	if p.KeyName != "" {
		m.add(x.keys[p.KeyName])
	}
	m.add(x.ids[p.ID])
	for _, other := range p.Beside {
		m.add(x.ids[other.ID])
	}
	for _, group := range p.Groups {
		m.add(x.groups[group])
	}
}

func (m marks) add(positions []int) {
	for _, i := range positions {
		m[i/64] |= 1 << (i % 64)
	}
}

// verdict is the policy of a list that counts for an Input, if there is one.
// With an error, its condition has no value.
type verdict struct {
	policy *Policy
	err    error
}

// first returns the first policy of l that a's request matches, or, where none
// does, the first whose condition has no value.
func (l *list) first(a *asked) (v verdict) {
	switch {
	case l.index == nil:
	case len(l.policies) <= handful:
		return l.firstOfHandful(a)
	default:
		return l.firstOfMany(a)
	}
	for i := range l.sets {
		if got := a.match(&l.sets[i], &l.rows[i]); got != no && v.hear(got, l.policies[i], a.in) {
			break
		}
	}
	return v
}

func (l *list) firstOfMany(a *asked) verdict {
	var room [longest / 64]uint64
	return l.firstMarked(a, room[:])
}

func (l *list) firstOfHandful(a *asked) verdict {
	var room [handful / 64]uint64
	return l.firstMarked(a, room[:])
}

func (l *list) firstMarked(a *asked, found marks) (v verdict) {
	l.index.mark(a.in.Principal, found)
	for w, word := range found[:(len(l.policies)+63)/64] {
		for ; word != 0; word &= word - 1 {
			i := w*64 + bits.TrailingZeros64(word)
			if got := a.match(&l.sets[i], &l.rows[i]); got != no && v.hear(got, l.policies[i], a.in) {
				return v
			}
		}
	}
	return v
}

// hear takes what p has to say, and reports whether that ends the search. Where
// its row does not tell, it is asked itself.
func (v *verdict) hear(got answer, p *Policy, in *Input) bool {
	if got == yes {
		*v = verdict{policy: p}
		return true
	}
	switch m, err := p.evaluate(in); {
	case m == missNothing:
		*v = verdict{policy: p}
		return true
	case m == missError && v.policy == nil:
		*v = verdict{policy: p, err: err}
	}
	return false
}

func (v *verdict) failed() Decision {
	return Decision{Reason: ReasonEvaluationError, Policy: v.policy.key, Detail: v.policy.when.failure(v.err)}
}

// reachable yields the policies that first may ask, some more than once.
func (l *list) reachable() iter.Seq[*Policy] {
	if l.index == nil {
		return slices.Values(l.policies)
	}
	return func(yield func(*Policy) bool) {
		for _, positions := range l.index.positions() {
			for _, i := range positions {
				if !yield(l.policies[i]) {
					return
				}
			}
		}
	}
}

func (x *index) positions() [][]int {
	found := [][]int{x.workloads, x.others}
	for _, positions := range x.groups {
		found = append(found, positions)
	}
	for _, positions := range x.ids {
		found = append(found, positions)
	}
	for _, positions := range x.keys {
		found = append(found, positions)
	}
	return found
}
