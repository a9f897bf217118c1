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
	rows     []row  // of the sheet, one for each policy
	index    *index // nil: scan
}

const (
	shortest = 24       // policies worth an index
	longest  = 256 * 64 // policies that a marks has room for
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
type marks [longest / 64]uint64

func newList(policies []*Policy, s *sheet) list {
	l := list{policies: policies, rows: make([]row, len(policies))}
	for i, p := range policies {
		l.rows[i] = s.rows[p]
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

func (x *index) mark(p *Principal, m *marks) {
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

func (m *marks) add(positions []int) {
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
	if l.index != nil {
		return l.firstMarked(a)
	}
	for i := range l.rows {
		if l.take(i, a, &v) {
			break
		}
	}
	return v
}

func (l *list) firstMarked(a *asked) (v verdict) {
	var found marks
	l.index.mark(a.in.Principal, &found)
	for w := range (len(l.policies) + 63) / 64 {
		for word := found[w]; word != 0; word &= word - 1 {
			if l.take(w*64+bits.TrailingZeros64(word), a, &v) {
				return v
			}
		}
	}
	return v
}

// take lets a policy have its say, and reports whether that ends the search.
func (l *list) take(i int, a *asked, v *verdict) bool {
	switch a.match(l.rows[i]) {
	case no:
		return false
	case yes:
		*v = verdict{policy: l.policies[i]}
		return true
	}
	return v.ask(l.policies[i], a.in)
}

// ask is take for a policy whose row does not tell.
func (v *verdict) ask(p *Policy, in *Input) bool {
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
