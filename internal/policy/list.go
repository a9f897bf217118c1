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
	groups    map[string]positions
	ids       map[string]positions
	keys      map[string]positions
	workloads positions // those with SPIFFE patterns
	others    positions // those for everybody, or for all of a kind
}

// marks is a set of positions.
type marks []uint64

// positions are those of neighbours together, as a word of marks, in order.
type positions []struct {
	word int
	bits uint64
}

func (pp positions) with(i int) positions {
	if n := len(pp); n == 0 || pp[n-1].word != i/64 {
		pp = append(pp, positions{{word: i / 64}}...)
	}
	pp[len(pp)-1].bits |= 1 << (i % 64)
	return pp
}

func newList(policies []*Policy, s *sheet) list {
	l := list{policies: policies, sets: make([]set, len(policies)), rows: make([]row, len(policies))}
	for i, p := range policies {
		l.rows[i] = s.rows[p]
		l.sets[i] = l.rows[i].set()
	}
	if len(policies) < shortest || len(policies) > longest {
		return l
	}
	l.index = &index{groups: make(map[string]positions), ids: make(map[string]positions), keys: make(map[string]positions)}
	for i, p := range policies {
		l.index.add(i, &p.principals)
	}
	return l
}

func (x *index) add(i int, m *principals) {
	if m.everybody || m.authenticated || m.anonymous {
		x.others = x.others.with(i)
		return
	}
	if len(m.spiffe) > 0 {
		x.workloads = x.workloads.with(i)
	}
	for _, q := range m.groups {
		x.groups[q.name] = x.groups[q.name].with(i)
	}
	for _, q := range m.ids {
		x.ids[q.name] = x.ids[q.name].with(i)
	}
	for _, name := range m.keys {
		x.keys[name] = x.keys[name].with(i)
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

func (m marks) add(pp positions) {
	for _, p := range pp {
		m[p.word] |= p.bits
	}
}

// each yields the positions in order.
func (m marks) each(yield func(int) bool) {
	for w, word := range m {
		for ; word != 0; word &= word - 1 {
			if !yield(w*64 + bits.TrailingZeros64(word)) {
				return
			}
		}
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
	for i := range found[:(len(l.policies)+63)/64].each {
		if got := a.match(&l.sets[i], &l.rows[i]); got != no && v.hear(got, l.policies[i], a.in) {
			break
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

// reachable yields the policies that first may ask.
func (l *list) reachable() iter.Seq[*Policy] {
	if l.index == nil {
		return slices.Values(l.policies)
	}
	found := make(marks, (len(l.policies)+63)/64)
	l.index.all(found)
	return func(yield func(*Policy) bool) {
		for i := range found.each {
			if !yield(l.policies[i]) {
				return
			}
		}
	}
}

// all marks what any principal may lead to.
func (x *index) all(m marks) {
	m.add(x.workloads)
	m.add(x.others)
	for _, byName := range []map[string]positions{x.groups, x.ids, x.keys} {
		for _, pp := range byName {
			m.add(pp)
		}
	}
}
