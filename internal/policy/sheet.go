package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// sheet is what the policies of a route ask of a request. A question is there
// once, however many of them ask it, and all lie side by side in memory.
type sheet struct {
	questions []*term // those whose answers are kept come first
	blocks    []block // of these
	block     []uint8 // of each of these
	rows      map[*Policy]row
}

// row is the questions of one policy, by number and in its order. It matches if
// all hold; where one has no answer, only the policy itself can tell.
type row []uint32

// set is a row without its order: a bit for each question whose answer is kept,
// and the last bit, which is never answered, for all others.
type set [(maxAnswers + 1) / 64]uint64

func (r row) set() (s set) {
	if len(r) == 0 {
		s.add(maxAnswers)
	}
	for _, n := range r {
		s.add(min(n, maxAnswers))
	}
	return s
}

func (s *set) add(n uint32) { s[n/64] |= 1 << (n % 64) }

// likeness tells questions apart. Those that are alike have the same answer,
// whatever the request.
type likeness struct {
	kind        termKind
	order       order
	sizes       sizes
	get         *getters
	only        any // what is like nothing but itself
	name, text  string
	number      numeral
	edge, until time.Time
	network     netip.Prefix
}

// scribe writes a sheet.
type scribe struct {
	questions []*term
	numbers   map[likeness]uint32
	askers    []int // of each question
	steps     []uint32
}

func newSheet(policies []*Policy) *sheet {
	w := scribe{numbers: make(map[likeness]uint32)}
	ends := make([]int, 0, len(policies))
	for _, p := range policies {
		w.parts(p)
		w.condition(p.when)
		ends = append(ends, len(w.steps))
	}
	w.sort()
	s := &sheet{questions: w.questions, rows: make(map[*Policy]row, len(policies))}
	s.pack()
	start := 0
	for i, p := range policies {
		s.rows[p] = w.steps[start:ends[i]:ends[i]]
		start = ends[i]
	}
	return s
}

func (w *scribe) parts(p *Policy) {
	who := &p.principals
	if !who.everybody {
		text := fmt.Sprintf("%t %t %q %q %q %q", who.authenticated, who.anonymous, who.groups, who.ids, who.spiffe, who.keys)
		w.ask(&term{kind: termPrincipals, policy: p}, likeness{text: text})
	}
	if len(p.methods) > 0 {
		w.ask(&term{kind: termMethods, policy: p}, likeness{text: fmt.Sprintf("%q", p.methods)})
	}
	if len(p.paths) > 0 {
		w.ask(&term{kind: termPaths, policy: p}, likeness{text: fmt.Sprintf("%q", p.paths)})
	}
	if p.grant != nil {
		w.ask(&term{kind: termGrant, policy: p}, likeness{only: p.grant})
	}
}

func (w *scribe) condition(c *condition) {
	switch {
	case c == nil:
	case c.closures.terms == nil:
		w.ask(&term{flag: func(*facts, *scope) (bool, fault) { return false, elsewhere }}, likeness{only: c})
	case c.closures.decides:
		w.ask(&term{flag: c.closures.holds}, likeness{only: c})
	default:
		for i := range c.closures.terms {
			t := &c.closures.terms[i]
			w.ask(t, t.likeness())
		}
	}
}

// likeness is that of a term of a condition.
func (t *term) likeness() likeness {
	if t.kind == termFlag {
		return likeness{only: t}
	}
	like := likeness{
		order: t.order, sizes: t.sizes, get: t.get, name: t.name, text: t.text, number: t.number,
		edge: t.edge, until: t.until, network: t.network,
	}
	if t.kind == termOneOf {
		like.text = fmt.Sprintf("%q", t.texts)
	}
	return like
}

// ask adds q to what the policy at hand asks.
func (w *scribe) ask(q *term, like likeness) {
	like.kind = q.kind
	n, known := w.numbers[like]
	if !known {
		n = uint32(len(w.questions)) //nolint:gosec // bounded by the documents of a snapshot
		w.numbers[like] = n
		w.questions, w.askers = append(w.questions, q), append(w.askers, 0)
	}
	w.askers[n]++
	w.steps = append(w.steps, n)
}

// sort numbers the questions anew: answers to the first ones are kept, which are
// those that most policies ask. Among them, those about the same are neighbours.
func (w *scribe) sort() {
	order := make([]uint32, len(w.questions))
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortStableFunc(order, func(i, j uint32) int { return w.askers[j] - w.askers[i] })
	subjects := make(map[subject]int)
	place := func(n uint32) int {
		about := w.questions[n].subject()
		if _, known := subjects[about]; !known {
			subjects[about] = len(subjects)
		}
		return subjects[about]
	}
	kept := order[:min(len(order), maxAnswers)]
	for _, n := range kept {
		place(n)
	}
	slices.SortStableFunc(kept, func(i, j uint32) int { return place(i) - place(j) })
	sorted, numbers := make([]*term, len(order)), make([]uint32, len(order))
	for now, before := range order {
		sorted[now], numbers[before] = w.questions[before], uint32(now)
	}
	w.questions = sorted
	for i, n := range w.steps {
		w.steps[i] = numbers[n]
	}
}

// pack puts questions about the same into blocks.
func (s *sheet) pack() {
	s.block = make([]uint8, min(len(s.questions), maxAnswers))
	for i := range s.block {
		q, n := s.questions[i], uint32(i)
		about := q.subject()
		if last := len(s.blocks) - 1; last < 0 || !s.blocks[last].takes(about, n) {
			s.blocks = append(s.blocks, block{subject: about, first: uint8(n % 64), texts: make(map[string]uint64)})
		}
		last := len(s.blocks) - 1
		s.blocks[last].add(q, n)
		s.block[i] = uint8(last) //nolint:gosec // at most maxAnswers
	}
}
