package policy

import (
	"slices"

	"cel.dev/cel-go/common/ast"
)

// flagOf returns c as a condition. CEL's own error for what is not a bool is
// left to the library.
func flagOf(c code) fn[bool] {
	if c.flag != nil || c.any == nil {
		return c.flag
	}
	return func(f *facts, s *scope) (bool, fault) {
		v, x := c.any(f, s)
		if x != answered {
			return false, x
		}
		b, ok := v.(bool)
		if !ok {
			return false, elsewhere
		}
		return b, answered
	}
}

func not(c code) code {
	flag := flagOf(c)
	if flag == nil {
		return code{}
	}
	return code{flag: func(f *facts, s *scope) (bool, fault) {
		v, x := flag(f, s)
		return !v, x
	}}
}

// logic compiles && and ||. One operand that is false decides an &&, one that
// is true an ||, whatever the others are, and whatever their errors.
func (c *closures) logic(name string, e ast.Expr) code {
	operands := flatten(name, e, nil)
	terms := make([]term, 0, len(operands)) // kept as long as the policy is
	for _, operand := range operands {
		t := c.termOf(c.compile(operand))
		if t == nil {
			return code{}
		}
		terms = append(terms, *t)
	}
	if name == "_&&_" {
		terms = windows(terms)
	}
	all := &chain{terms: terms, decides: name == "_||_"}
	return code{flag: all.holds, chain: all}
}

// chain is && or ||, of one term or more.
type chain struct {
	terms   []term
	decides bool // what one term has to be, so that the others do not count
}

// plain reports whether c is nothing but fields and claims, compared with
// literals.
func (c *chain) plain() bool {
	return len(c.terms) > 0 && !slices.ContainsFunc(c.terms, func(t term) bool { return t.kind == termFlag })
}

func (c *chain) holds(f *facts, s *scope) (bool, fault) {
	failed := answered
	for i := range c.terms {
		switch v, x := c.terms[i].holds(f, s); {
		case x == elsewhere:
			return false, x
		case x == answered && v == c.decides:
			return v, answered
		case failed == answered:
			failed = x
		}
	}
	return !c.decides, failed
}

// flatten returns the operands of a chain of one operator, in order.
func flatten(name string, e ast.Expr, onto []ast.Expr) []ast.Expr {
	if e.Kind() != ast.CallKind || e.AsCall().FunctionName() != name {
		return append(onto, e)
	}
	for _, a := range e.AsCall().Args() {
		onto = flatten(name, a, onto)
	}
	return onto
}

// choice compiles a ? b : c for b and c of one type.
func choice(condition, yes, no code) code {
	flag := flagOf(condition)
	switch {
	case flag == nil:
	case yes.flag != nil && no.flag != nil:
		return code{flag: chosen(flag, yes.flag, no.flag)}
	case yes.text != nil && no.text != nil:
		return code{text: chosen(flag, yes.text, no.text)}
	case yes.whole != nil && no.whole != nil:
		return code{whole: chosen(flag, yes.whole, no.whole)}
	case yes.number != nil && no.number != nil:
		return code{number: chosen(flag, yes.number, no.number)}
	case yes.moment != nil && no.moment != nil:
		return code{moment: chosen(flag, yes.moment, no.moment)}
	case yes.span != nil && no.span != nil:
		return code{span: chosen(flag, yes.span, no.span)}
	case yes.texts != nil && no.texts != nil:
		return code{texts: chosen(flag, yes.texts, no.texts)}
	case yes.any != nil && no.any != nil:
		return code{any: chosen(flag, yes.any, no.any)}
	}
	return code{}
}

func chosen[T any](flag fn[bool], yes, no fn[T]) fn[T] {
	return func(f *facts, s *scope) (T, fault) {
		v, x := flag(f, s)
		switch {
		case x != answered:
			var none T
			return none, x
		case v:
			return yes(f, s)
		}
		return no(f, s)
	}
}
