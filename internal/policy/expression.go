package policy

import (
	"sync"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// expression is a compiled CEL expression of another type than bool. It is
// immutable and safe for concurrent use.
type expression struct {
	code    code
	program func() (cel.Program, error)
	tree    *ast.AST
}

// Text is an expression of type string. A nil Text has no value.
type Text struct{ expression }

// Number is an expression of type int. A nil Number has no value.
type Number struct{ expression }

// CompileText compiles text, of which an error says with Field what is wrong. It may
// refer to nothing by name.
func CompileText(field, text string) (*Text, error) {
	e, err := compileExpression(field, text, cel.StringType)
	if err != nil {
		return nil, err
	}
	return &Text{*e}, nil
}

// CompileNumber is CompileText for whole numbers.
func CompileNumber(field, text string) (*Number, error) {
	e, err := compileExpression(field, text, cel.IntType)
	if err != nil {
		return nil, err
	}
	return &Number{*e}, nil
}

// Value returns what it comes to; false when it has no value.
func (t *Text) Value(in *Input) (string, bool) {
	if t == nil {
		return "", false
	}
	if t.code.text != nil {
		if v, x := t.code.text((*facts)(in), nil); x != elsewhere {
			return v, x == answered
		}
	}
	v, ok := t.ask(in).(types.String)
	return string(v), ok
}

// Value returns what it comes to; false when it has no value.
func (n *Number) Value(in *Input) (int64, bool) {
	if n == nil {
		return 0, false
	}
	if n.code.whole != nil {
		if v, x := n.code.whole((*facts)(in), nil); x != elsewhere {
			return v, x == answered
		}
	}
	v, ok := n.ask(in).(types.Int)
	return int64(v), ok
}

// ask has CEL's library evaluate e; nil when that has no value.
func (e *expression) ask(in *Input) ref.Val {
	program, err := e.program()
	if err != nil {
		return nil
	}
	out, _, err := program.Eval((*facts)(in))
	if err != nil {
		return nil
	}
	return out
}

// Authenticates reports whether its value may depend on what only authentication
// tells.
func (t *Text) Authenticates() bool { return t != nil && authenticates(t.tree) }

// Authenticates reports whether its value may depend on what only authentication
// tells.
func (n *Number) Authenticates() bool { return n != nil && authenticates(n.tree) }

func authenticates(tree *ast.AST) bool {
	found := ast.MatchDescendants(ast.NavigateAST(tree), func(e ast.NavigableExpr) bool {
		switch e.Kind() {
		case ast.IdentKind:
			return e.AsIdent() == "principal"
		case ast.SelectKind:
			of := e.AsSelect().Operand()
			return of.Kind() == ast.IdentKind && of.AsIdent() == "signals" && !isOfConnection(e.AsSelect().FieldName())
		}
		return false
	})
	return len(found) > 0
}

// isOfConnection tells the fields of signals that are known of whoever connects.
func isOfConnection(field string) bool {
	switch field {
	case "ip", "geo", "time", "tls":
		return true
	}
	return false
}

func compileExpression(field, text string, of *cel.Type) (*expression, error) {
	e, problems := newExpression(text, of)
	if len(problems) > 0 {
		for _, p := range problems {
			p.Field = field
		}
		return nil, joined(problems)
	}
	return e, nil
}

func newExpression(text string, of *cel.Type) (*expression, []*Error) {
	if len(text) > MaxWhenLength {
		return nil, refuseWhen("%d bytes: more than %d", len(text), MaxWhenLength)
	}
	if !utf8.ValidString(text) {
		return nil, refuseWhen("is not UTF-8")
	}
	v, err := language()
	if err != nil {
		return nil, refuseWhen("make CEL environment: %v", err)
	}
	tree, issues := v.env.Compile(text)
	if problems := located(issues); len(problems) > 0 {
		return nil, problems
	}
	switch t := tree.OutputType(); {
	case t.IsExactType(cel.DynType):
		return nil, refuseWhen("may be of any type; say which, as in string(principal.claims.tenant)")
	case !t.IsExactType(of):
		return nil, refuseWhen("is of type %s, not %s", cel.FormatCELType(t), cel.FormatCELType(of))
	case len(TermsOf(text)) > 0:
		return nil, refuseWhen("refers to a Condition or a Set by name, which only conditions can")
	}
	return v.express(tree)
}

// express is plan for what is no condition.
func (v *vocabulary) express(tree *cel.Ast) (*expression, []*Error) {
	within, problems := affordable(v.env, tree)
	if problems != nil {
		return nil, problems
	}
	e := &expression{tree: tree.NativeRep()}
	if within != (sizes{}) {
		c := &closures{variables: v.variables, sizes: within}
		e.code = c.compile(e.tree.Expr())
	}
	e.program = sync.OnceValues(func() (cel.Program, error) {
		return v.env.Program(tree, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxCost))
	})
	if _, err := e.program(); err != nil {
		return nil, refuseWhen("plan: %v", err)
	}
	return e, nil
}

// When is a condition by itself. A nil When holds.
type When struct{ condition *condition }

// CompileWhen compiles a condition, of which an error says with Field "when" what is
// wrong. Without terms it may refer to any by name, and has no value where it does.
func CompileWhen(when string, terms *Terms) (*When, error) {
	if when == "" {
		return nil, nil //nolint:nilnil // a nil When is one that holds
	}
	c, problems := compileCondition(when, terms)
	if len(problems) > 0 {
		return nil, joined(problems)
	}
	return &When{c}, nil
}

// Holds evaluates w; known is false when it has no value.
func (w *When) Holds(in *Input) (holds, known bool) {
	if w == nil {
		return true, true
	}
	holds, err := w.condition.holds(in)
	return holds, err == nil
}

// Authenticates reports whether it may depend on what only authentication tells.
func (w *When) Authenticates() bool { return w != nil && authenticates(w.condition.tree) }
