package policy

import (
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/parser"

	"github.com/sallyport/sallyport/internal/pattern"
)

// Flipped returns p with clauses of it that come to what they want, whatever
// the request.
func Flipped(p *Policy, clauses ...Clause) *Policy {
	q := *p
	for _, c := range clauses {
		holds := c.Want == True
		switch c.Part {
		case MissPrincipal:
			q.principals = principals{everybody: holds}
		case MissMethod:
			q.methods = map[bool][]string{true: nil, false: {"none"}}[holds]
		case MissPath:
			q.paths = map[bool][]pattern.Path{true: nil, false: {{}}}[holds]
		case MissTime:
			q.grant = map[bool]*Grant{false: {}}[holds]
		default:
			q.when = q.when.flipped(c.id, holds)
		}
	}
	return &q
}

// flipped is c, written anew with a literal in the place of an expression.
func (c *condition) flipped(id int64, holds bool) *condition {
	tree := ast.Copy(c.tree)
	ast.PreOrderVisit(tree.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.ID() == id {
			e.SetKindCase(ast.NewExprFactory().NewLiteral(id, types.Bool(holds)))
			tree.SourceInfo().ClearMacroCall(id)
		}
	}))
	text, err := parser.Unparse(tree.Expr(), tree.SourceInfo())
	if err != nil {
		panic(err)
	}
	next, problems := compileCondition(text, nil)
	if len(problems) > 0 {
		panic(problems[0])
	}
	// Further clauses to flip are known by their IDs in c.
	next.tree = tree
	return next
}
