package policy

import (
	"errors"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/parser"

	"github.com/sallyport/sallyport/internal/pattern"
)

// tried is the language with a field of every type, known of requests that
// name a server.
var tried = sync.OnceValues(func() (*vocabulary, error) {
	oo := objects()
	for _, o := range oo {
		if o.variable != "signals" {
			continue
		}
		known := func(f *facts) bool { return f.ServerName != "" }
		o.add("test_flag", flag(func(f *facts) (bool, bool) { return len(f.ServerName)%2 == 0, known(f) }))
		o.add("test_whole", whole(func(f *facts) (int64, bool) { return int64(len(f.Query)) << (len(f.ALPN) * 7 % 64), known(f) }))
		o.add("test_number", number(func(f *facts) (float64, bool) { return float64(len(f.Query)) / float64(len(f.ALPN)), known(f) }))
		o.add("test_span", span(func(f *facts) (time.Duration, bool) { return time.Duration(len(f.Query)) * time.Hour, known(f) }))
		o.add("test_text", knownText(func(f *facts) (string, bool) { return f.ALPN, known(f) }))
		o.add("test_texts", texts(func(f *facts) ([]string, bool) { return strings.Split(f.Query, "&"), known(f) }))
	}
	return newVocabulary(oo)
})

// Condition is a condition that can be asked in both ways.
type Condition struct{ c *condition }

// CompileCondition compiles text, which may use signals.test_* as well.
func CompileCondition(text string) (*Condition, error) {
	if len(text) > MaxWhenLength {
		return nil, errors.New("too long")
	}
	v, err := tried()
	if err != nil {
		return nil, err
	}
	c, problems := v.compile(text)
	if len(problems) > 0 {
		return nil, problems[0]
	}
	return &Condition{c}, nil
}

// Native reports whether closures evaluate c.
func (c *Condition) Native() bool { return c.c.closures.terms != nil }

// Closures returns what closures answer, and false where they do not.
func (c *Condition) Closures(in *Input) (string, bool) {
	if !c.Native() {
		return "", false
	}
	v, x := c.c.closures.holds((*facts)(in), nil)
	switch {
	case x == elsewhere:
		return "", false
	case x == answered:
		return c.answer(v, nil), true
	}
	return c.answer(v, x), true
}

// Library returns what CEL's library answers.
func (c *Condition) Library(in *Input) string { return c.answer(c.c.ask(in)) }

func (c *Condition) answer(v bool, err error) string {
	switch {
	case err != nil:
		return c.c.failure(err)
	case v:
		return "true"
	}
	return "false"
}

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
