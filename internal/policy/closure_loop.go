package policy

import (
	"strings"

	"cel.dev/cel-go/common/ast"
)

// loop compiles exists and all over lists and the keys of maps. What other
// macros make is left to CEL's library.
func (c *closures) loop(l ast.ComprehensionExpr) code {
	decides, predicate := quantifier(l)
	if predicate == nil {
		return code{}
	}
	over := c.compile(l.IterRange())
	c.scopes = append(c.scopes, variable{name: l.IterVar(), text: over.any == nil})
	holds := flagOf(c.compile(predicate))
	c.scopes = c.scopes[:len(c.scopes)-1]
	switch q := (quantified{decides: decides, holds: holds, sizes: c.sizes}); {
	case holds == nil:
	case over.texts != nil:
		return code{flag: overTexts(over.texts, q)}
	case over.document != nil:
		return code{flag: overKeys(over.document, q)}
	case over.labels != nil:
		return code{flag: overKeys(over.labels, q)}
	case over.header != nil:
		return code{flag: overHeader(over.header, q)}
	case over.any != nil:
		return code{flag: overAny(over.any, q)}
	}
	return code{}
}

// quantifier takes apart what CEL's parser makes of the macros exists, which
// true decides, and all, which false decides. The predicate is nil for others.
func quantifier(l ast.ComprehensionExpr) (decides bool, predicate ast.Expr) {
	step := l.LoopStep()
	if l.HasIterVar2() || step.Kind() != ast.CallKind || !isIdent(l.Result(), l.AccuVar()) {
		return false, nil
	}
	name, args := step.AsCall().FunctionName(), step.AsCall().Args()
	if name != "_||_" && name != "_&&_" || !isIdent(args[0], l.AccuVar()) || !startsAs(l, name == "_&&_") {
		return false, nil
	}
	return name == "_||_", args[1]
}

// startsAs reports whether l starts with value, and goes on until its
// accumulator is the other one.
func startsAs(l ast.ComprehensionExpr, value bool) bool {
	if l.AccuInit().Kind() != ast.LiteralKind || l.AccuInit().AsLiteral().Value() != value {
		return false
	}
	goesOn := l.LoopCondition()
	if goesOn.Kind() != ast.CallKind || goesOn.AsCall().FunctionName() != "@not_strictly_false" {
		return false
	}
	on := goesOn.AsCall().Args()[0]
	if value {
		return isIdent(on, l.AccuVar())
	}
	return on.Kind() == ast.CallKind && on.AsCall().FunctionName() == "!_" && isIdent(on.AsCall().Args()[0], l.AccuVar())
}

func isIdent(e ast.Expr, name string) bool { return e.Kind() == ast.IdentKind && e.AsIdent() == name }

// quantified is the body of a loop: one element for which holds is decides is
// enough, whatever the others are, and whatever their errors.
type quantified struct {
	decides bool
	holds   fn[bool]
	sizes   sizes
}

// verdict of a loop that goes on.
type loopState struct {
	failed fault
	done   bool
}

// ask asks for one element, which is in s.
func (q *quantified) ask(f *facts, s *scope, l *loopState) {
	switch v, x := q.holds(f, s); {
	case x == elsewhere:
		l.failed, l.done = x, true
	case x == answered && v == q.decides:
		l.failed, l.done = answered, true
	case l.failed == answered:
		l.failed = x
	}
}

// result of a loop that has ended.
func (q *quantified) result(l loopState) (bool, fault) {
	if l.failed == answered && l.done {
		return q.decides, answered
	}
	return !q.decides, l.failed
}

func overTexts(list fn[[]string], q quantified) fn[bool] {
	return func(f *facts, outer *scope) (bool, fault) {
		values, x := list(f, outer)
		if x != answered {
			return false, x
		}
		s, l := enter(outer), loopState{}
		for i := 0; i < len(values) && !l.done; i++ {
			if s.text = values[i]; len(s.text) > int(q.sizes.text) {
				l.failed, l.done = elsewhere, true
				break
			}
			q.ask(f, s, &l)
		}
		s.leave()
		return q.result(l)
	}
}

func overKeys[V any](keys fn[map[string]V], q quantified) fn[bool] {
	return func(f *facts, outer *scope) (bool, fault) {
		values, x := keys(f, outer)
		if x != answered {
			return false, x
		}
		s, l := enter(outer), loopState{}
		for key := range values {
			if s.text = key; len(key) > int(q.sizes.text) {
				l.failed, l.done = elsewhere, true
				break
			}
			if q.ask(f, s, &l); l.done {
				break
			}
		}
		s.leave()
		return q.result(l)
	}
}

// overHeader goes over names as conditions see them, those without a value not
// among them.
func overHeader(header fn[headers], q quantified) fn[bool] {
	return func(f *facts, outer *scope) (bool, fault) {
		values, x := header(f, outer)
		if x != answered {
			return false, x
		}
		s, l := enter(outer), loopState{}
		for name, v := range values {
			if len(v) == 0 {
				continue
			}
			if s.text = strings.ToLower(name); len(name) > int(q.sizes.text) {
				l.failed, l.done = elsewhere, true
				break
			}
			if q.ask(f, s, &l); l.done {
				break
			}
		}
		s.leave()
		return q.result(l)
	}
}

func overAny(list fn[any], q quantified) fn[bool] {
	return func(f *facts, outer *scope) (bool, fault) {
		v, x := list(f, outer)
		if x != answered {
			return false, x
		}
		values, ok := v.([]any)
		if !ok {
			return false, elsewhere
		}
		s, l := enter(outer), loopState{}
		for i := 0; i < len(values) && !l.done; i++ {
			if s.any, x = q.sizes.admit(values[i]); x != answered {
				l.failed, l.done = x, true
				break
			}
			q.ask(f, s, &l)
		}
		s.leave()
		return q.result(l)
	}
}
