package policy

import "cel.dev/cel-go/common/ast"

// WithSets returns p with what the sets have become in which its condition looks
// things up: it is what Compile would make of the same Spec, whose Terms differ in
// the members of sets alone, at a fraction of the cost. It is false if a set is not
// there, or is one of addresses now and was one of texts, or the other way round.
// p must have been compiled with Terms.
func (p *Policy) WithSets(sets func(name string) *Members) (_ *Policy, ok bool) {
	next := *p
	if p.when == nil {
		return &next, true
	}
	next.when, ok = p.when.withSets(sets)
	return &next, ok
}

func (c *condition) withSets(sets func(name string) *Members) (_ *condition, ok bool) {
	v, err := language()
	if err != nil {
		return nil, false
	}
	factory := ast.NewExprFactory()
	expr := factory.CopyExpr(c.tree.Expr()) // the types of its parts, and where they are, stay as they are
	ok = true
	ast.PostOrderVisit(expr, ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.LiteralKind {
			return
		}
		before, is := e.AsLiteral().(setLiteral)
		if !is {
			return
		}
		now := sets(string(before.String))
		if now == nil || (now.ips == nil) != (before.members.ips == nil) {
			ok = false
			return
		}
		e.SetKindCase(factory.NewLiteral(e.ID(), setLiteral{before.String, now}))
	}))
	if !ok {
		return nil, false
	}
	tree := ast.NewCheckedAST(ast.NewAST(expr, c.tree.SourceInfo()), c.tree.TypeMap(), c.tree.ReferenceMap())
	next := v.condition(tree, c.within) // its program could be made before
	next.origins = c.origins
	return next, true
}
