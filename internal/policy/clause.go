package policy

import (
	"slices"
	"strings"

	"github.com/sallyport/sallyport/internal/pattern"
)

// Value is what a clause comes to.
type Value uint8

// The values. The zero value is none, as of a clause that fails.
const (
	NoValue Value = iota
	False
	True
)

// String returns the value as records show it.
func (v Value) String() string {
	switch v {
	case False:
		return "false"
	case True:
		return "true"
	}
	return "error"
}

// Clause is a smallest part of a policy that has a value of its own: its
// principals, methods or paths, where it names any, or what is joined by &&, ||,
// ! and ?: in its condition. It says nothing of the request but that value.
type Clause struct {
	Part Miss // MissPrincipal, MissMethod, MissPath, MissTime or MissCondition

	// Text is the clause as the policy has it, cut where it is long.
	Text         string
	Line, Column int // of a clause of a condition, from 1

	// Condition is the named condition that has the clause, at Line and Column of
	// its own; empty for the policy's.
	Condition string

	Value Value
	Want  Value // what would have changed the outcome; True or False

	id int64 // of the expression
}

// Way is what would have changed an outcome: all of its clauses together, and
// none of them alone unless it is the only one.
type Way []Clause

// Bounds of what is said of one policy.
const (
	maxWays  = 4
	maxWay   = 16  // clauses
	maxText  = 200 // bytes of a clause
	maxNamed = 3   // principals, methods or paths of a policy
)

// weight orders ways: the lightest is likely what was meant.
func (w Way) weight() (n int) {
	for _, c := range w {
		n++
		if c.Part == MissPrincipal {
			n += 2 // it is more likely that another policy was meant
		}
	}
	return n
}

// node is a policy as the formula of its clauses.
type node struct {
	op       operator
	operands []*node
	clause   Clause // of a leaf
	value    Value
}

type operator uint8

const (
	opLeaf operator = iota
	opAll
	opAny
	opNot
	opChoose
)

// formula is p with what each of its clauses makes of in.
func (p *Policy) formula(in *Input) *node {
	root := &node{op: opAll}
	add := func(part Miss, text string, holds bool) {
		root.operands = append(root.operands, leafOf(Clause{Part: part, Text: text, Value: valueOf(holds)}))
	}
	if !p.principals.everybody {
		add(MissPrincipal, p.principals.tell(in.Principal), p.principals.match(in.Principal))
	}
	if len(p.methods) > 0 {
		add(MissMethod, "methods: "+shortened(p.methods, ", "), p.matchMethod(in.Method))
	}
	if len(p.paths) > 0 {
		add(MissPath, "paths: "+shortened(pathTexts(p.paths), ", "), p.matchPath(in.Path))
	}
	if p.grant != nil {
		add(MissTime, p.note, p.grant.during(in.Now))
	}
	if p.when != nil {
		root.operands = append(root.operands, p.when.formula(in))
	}
	root.value = root.with(nil)
	return root
}

func leafOf(c Clause) *node {
	c.Text = cut(c.Text)
	return &node{clause: c, value: c.Value}
}

func valueOf(holds bool) Value {
	if holds {
		return True
	}
	return False
}

// with is what n comes to when the clauses of a way come to what they want.
func (n *node) with(w Way) Value {
	switch n.op {
	case opAll:
		return n.strongest(w, False)
	case opAny:
		return n.strongest(w, True)
	case opNot:
		return n.operands[0].with(w).not()
	case opChoose:
		switch n.operands[0].with(w) {
		case True:
			return n.operands[1].with(w)
		case False:
			return n.operands[2].with(w)
		}
		return NoValue
	}
	for _, c := range w {
		if c.Part == n.clause.Part && c.id == n.clause.id {
			return c.Want
		}
	}
	return n.clause.Value
}

// strongest is v if any operand is, the opposite if all are that, and else there
// is no value: what fails does not count where one decides.
func (n *node) strongest(w Way, v Value) Value {
	value := v.not()
	for _, operand := range n.operands {
		switch operand.with(w) {
		case v:
			return v
		case NoValue:
			value = NoValue
		}
	}
	return value
}

func (v Value) not() Value {
	switch v {
	case True:
		return False
	case False:
		return True
	}
	return NoValue
}

// outcomes is a set of values.
type outcomes uint8

func anyOf(values ...Value) (o outcomes) {
	for _, v := range values {
		o |= 1 << v
	}
	return o
}

func (o outcomes) has(v Value) bool { return o>>v&1 == 1 }

// not is the set of what the negations of o's values are.
func (o outcomes) not() (n outcomes) {
	for _, v := range [...]Value{NoValue, False, True} {
		if o.has(v) {
			n |= anyOf(v.not())
		}
	}
	return n
}

// change returns the lightest ways in which n comes to one of the wanted values,
// without a clause that could as well stay as it is.
func (n *node) change(want outcomes) []Way {
	ways := n.ways(want)
	for i, w := range ways {
		for j := 0; j < len(w); j++ {
			if less := slices.Delete(slices.Clone(w), j, j+1); want.has(n.with(less)) {
				w, j = less, -1 // what was needed before may no longer be
			}
		}
		ways[i] = w
	}
	return slices.CompactFunc(lightest(ways), slices.Equal)
}

// ways returns the lightest ways in which n comes to one of the wanted values,
// of which either True or False is one: an empty Way if it does already, and
// none if there is no small one.
func (n *node) ways(want outcomes) []Way {
	if want.has(n.value) {
		return []Way{{}}
	}
	switch n.op {
	case opAll:
		return n.join(want, want.has(True))
	case opAny:
		return n.join(want, want.has(False))
	case opNot:
		return n.operands[0].ways(want.not())
	case opChoose:
		condition, yes, no := n.operands[0], n.operands[1], n.operands[2]
		return lightest(slices.Concat(
			both(condition.ways(anyOf(True)), yes.ways(want)),
			both(condition.ways(anyOf(False)), no.ways(want)),
		))
	}
	c := n.clause
	c.Want = valueOf(want.has(True))
	return []Way{{c}}
}

// join returns the ways in which every operand comes to one of the wanted
// values, or any one of them.
func (n *node) join(want outcomes, every bool) []Way {
	var found []Way
	if every {
		found = []Way{{}}
	}
	for _, operand := range n.operands {
		if ways := operand.ways(want); every {
			found = both(found, ways)
		} else {
			found = append(found, ways...)
		}
	}
	return lightest(found)
}

// both returns the lightest ways that go one way of each.
func both(a, b []Way) []Way {
	var found []Way
	for _, x := range a {
		for _, y := range b {
			if len(x)+len(y) <= maxWay {
				found = append(found, slices.Concat(x, y))
			}
		}
	}
	return lightest(found)
}

func lightest(ways []Way) []Way {
	slices.SortStableFunc(ways, func(a, b Way) int { return a.weight() - b.weight() })
	return slices.Clip(ways[:min(len(ways), maxWays)])
}

// shortened lists the first of many.
func shortened(names []string, separator string) string {
	if len(names) > maxNamed {
		return strings.Join(names[:maxNamed], separator) + separator + "..."
	}
	return strings.Join(names, separator)
}

func pathTexts(paths []pattern.Path) []string {
	all := make([]string, 0, min(len(paths), maxNamed+1))
	for _, p := range paths[:min(len(paths), maxNamed+1)] {
		all = append(all, p.String())
	}
	return all
}

func cut(text string) string {
	if len(text) > maxText {
		return strings.ToValidUTF8(text[:maxText], "") + "..."
	}
	return text
}
