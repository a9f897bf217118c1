package policy

import (
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/parser"
)

// anatomy is a condition taken apart for those who ask why. It is made when
// first asked for: most conditions never are.
type anatomy struct {
	once sync.Once
	root *organ
}

// organ is an expression of type bool within a condition, and no part of a loop.
type organ struct {
	op       operator
	operands []*organ
	clause   Clause      // of a leaf
	program  cel.Program // of a leaf; nil when there is none
}

func (c *condition) anatomy() *organ {
	c.parts.once.Do(func() { c.parts.root = c.dissect(c.tree.Expr()) })
	return c.parts.root
}

// operands says what joins the operands of an expression, and leaf of others.
func operands(e ast.Expr) (operator, []ast.Expr) {
	if e.Kind() != ast.CallKind {
		return opLeaf, nil
	}
	switch call := e.AsCall(); call.FunctionName() {
	case "_&&_":
		return opAll, call.Args()
	case "_||_":
		return opAny, call.Args()
	case "!_":
		return opNot, call.Args()
	case "_?_:_":
		return opChoose, call.Args()
	}
	return opLeaf, nil
}

func (c *condition) dissect(e ast.Expr) *organ {
	op, inner := operands(e)
	if op == opLeaf {
		return c.leaf(e)
	}
	o := &organ{op: op}
	for _, operand := range inner {
		o.operands = append(o.operands, c.dissect(operand))
	}
	return o
}

func (c *condition) leaf(e ast.Expr) *organ {
	o := &organ{clause: c.clause(e)}
	v, err := language()
	if err != nil {
		return o
	}
	alone := ast.NewCheckedAST(ast.NewAST(e, c.tree.SourceInfo()), c.tree.TypeMap(), c.tree.ReferenceMap())
	if program, err := v.env.PlanProgram(alone, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxCost)); err == nil {
		o.program = program
	}
	return o
}

// clause is e as its author wrote it, but for spaces.
func (c *condition) clause(e ast.Expr) Clause {
	text, err := parser.Unparse(plain(e), c.tree.SourceInfo())
	if err != nil {
		text = "an expression"
	}
	found := Clause{Part: MissCondition, Text: strings.ReplaceAll(text, "\n", " "), id: e.ID()}
	from := c.origin(e)
	found.Condition = from.name
	begin := int32(-1)
	ast.PreOrderVisit(e, ast.NewExprVisitor(func(inner ast.Expr) {
		o := c.origin(inner)
		at, ok := o.source.GetOffsetRange(o.id)
		if o.source != from.source {
			return // of a condition that it refers to
		}
		if inner.Kind() == ast.CallKind && !inner.AsCall().IsMemberFunction() && isWord(inner.AsCall().FunctionName()) {
			at.Start -= int32(len(inner.AsCall().FunctionName())) //nolint:gosec // a call is where its parenthesis is
		}
		if ok && (begin < 0 || at.Start < begin) {
			begin = max(at.Start, 0)
		}
	}))
	if at := from.source.GetLocationByOffset(max(begin, 0)); at.Line() > 0 {
		found.Line, found.Column = at.Line(), at.Column()+1
	}
	return found
}

// origin is where e was written.
func (c *condition) origin(e ast.Expr) origin {
	if o, ok := c.origins[e.ID()]; ok {
		return o
	}
	return origin{id: e.ID(), source: c.tree.SourceInfo()}
}

// plain is a copy of e with the names of sets only.
func plain(e ast.Expr) ast.Expr {
	factory := ast.NewExprFactory()
	e = factory.CopyExpr(e)
	ast.PreOrderVisit(e, ast.NewExprVisitor(func(inner ast.Expr) {
		if inner.Kind() == ast.LiteralKind {
			if set, ok := inner.AsLiteral().(setLiteral); ok {
				inner.SetKindCase(factory.NewLiteral(inner.ID(), set.String))
			}
		}
	}))
	return e
}

func isWord(name string) bool { return name != "" && (name[0]|0x20 >= 'a' && name[0]|0x20 <= 'z') }

// formula is c with what each of its clauses makes of in. When it is the whole
// that costs too much, it is one clause without a value.
func (c *condition) formula(in *Input) *node {
	n := c.anatomy().formula(in)
	holds, err := c.holds(in)
	value := valueOf(holds)
	if err != nil {
		value = NoValue
	}
	if n.value != value {
		whole := c.clause(c.tree.Expr())
		whole.Value = value
		return leafOf(whole)
	}
	return n
}

func (o *organ) formula(in *Input) *node {
	if o.op == opLeaf {
		c := o.clause
		c.Value = o.evaluate(in)
		return leafOf(c)
	}
	n := &node{op: o.op}
	for _, operand := range o.operands {
		n.operands = append(n.operands, operand.formula(in))
	}
	n.value = n.with(nil)
	return n
}

func (o *organ) evaluate(in *Input) Value {
	if o.program == nil {
		return NoValue
	}
	out, _, err := o.program.Eval((*facts)(in))
	if answer, ok := out.(types.Bool); ok && err == nil {
		return valueOf(bool(answer))
	}
	return NoValue
}
