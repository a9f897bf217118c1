package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"

	"github.com/sallyport/sallyport/internal/ipset"
)

// maxNesting bounds how deep conditions refer to each other by name.
const maxNesting = 8

// Terms are what the conditions of a namespace refer to by name. They are asked
// while a policy is compiled, and not after.
type Terms struct {
	Condition func(name string) (when string, ok bool)
	Set       func(name string) *Members // nil for none
}

// Members are what inSet looks things up in. They are immutable and safe for
// concurrent use.
type Members struct {
	ips *ipset.Set
	ids map[string]struct{}
}

// NewNetworks returns the members that addresses are looked up in. ::ffff:10.0.0.0/104
// is 10.0.0.0/8.
func NewNetworks(networks []netip.Prefix) *Members { return &Members{ips: ipset.Build(networks)} }

// NewIDs returns the members that texts are looked up in.
func NewIDs(ids []string) *Members {
	m := &Members{ids: make(map[string]struct{}, len(ids))}
	for _, id := range ids {
		m.ids[id] = struct{}{}
	}
	return m
}

// Term is what a condition refers to by name, and where.
type Term struct {
	Set          bool // or else a condition
	Name         string
	Line, Column int // from 1
}

// The functions of terms, and the overloads of inSet.
const (
	conditionFunction = "condition"
	setFunction       = "inSet"
	textInSet         = "string_in_set"
	addressInSet      = "ip_in_set"
)

// termFunctions declares what refers to terms. Compile puts these in their
// places: what is left is of no use.
func termFunctions() []cel.EnvOption {
	return []cel.EnvOption{
		cel.Function(conditionFunction, cel.Overload("condition_string", []*cel.Type{cel.StringType}, cel.BoolType,
			cel.UnaryBinding(func(ref.Val) ref.Val { return types.WrapErr(errUnlinked) }))),
		cel.Function(setFunction,
			cel.MemberOverload(textInSet, []*cel.Type{cel.StringType, cel.StringType}, cel.BoolType, cel.BinaryBinding(inSet)),
			cel.MemberOverload(addressInSet, []*cel.Type{ext.IPType, cel.StringType}, cel.BoolType, cel.BinaryBinding(inSet))),
	}
}

var (
	errUnlinked = errors.New("is not linked")
	errWrongSet = errors.New("the set is of another type")
)

// setLiteral is the name of a set in a compiled condition, with its members.
type setLiteral struct {
	types.String
	members *Members
}

func inSet(what, set ref.Val) ref.Val {
	s, ok := set.(setLiteral)
	if !ok {
		return types.WrapErr(errUnlinked)
	}
	switch v := what.(type) {
	case types.String:
		if s.members.ids != nil {
			_, in := s.members.ids[string(v)]
			return types.Bool(in)
		}
	case ext.IP:
		if s.members.ips != nil {
			return types.Bool(s.members.ips.Contains(v.Addr.Unmap().WithZone("")))
		}
	}
	return types.WrapErr(errWrongSet)
}

// inSet compiles a look-up in a set.
func (c *closures) inSet(call ast.CallExpr) code {
	if call.Args()[0].Kind() != ast.LiteralKind {
		return code{}
	}
	set, linked := call.Args()[0].AsLiteral().(setLiteral)
	target := c.compile(call.Target())
	switch text := textOf(target); {
	case !linked:
	case set.members.ids != nil && text != nil:
		return code{flag: func(f *facts, s *scope) (bool, fault) {
			v, x := text(f, s)
			_, in := set.members.ids[v]
			return x == answered && in, x
		}}
	case set.members.ips != nil && target.address != nil:
		return code{flag: func(f *facts, s *scope) (bool, fault) {
			v, x := target.address(f, s)
			return x == answered && set.members.ips.Contains(v.Unmap().WithZone("")), x
		}}
	}
	return code{}
}

// termOf returns what an expression refers to by name.
func termOf(e ast.Expr) (t Term, argument ast.Expr, ok bool) {
	if e.Kind() != ast.CallKind {
		return Term{}, nil, false
	}
	call := e.AsCall()
	switch {
	case call.FunctionName() == conditionFunction && !call.IsMemberFunction() && len(call.Args()) == 1:
	case call.FunctionName() == setFunction && call.IsMemberFunction() && len(call.Args()) == 1:
		t.Set = true
	default:
		return Term{}, nil, false
	}
	argument = call.Args()[0]
	if argument.Kind() == ast.LiteralKind {
		if name, text := argument.AsLiteral().(types.String); text {
			t.Name = string(name)
		}
	}
	return t, argument, true
}

// TermsOf returns what a condition refers to by name, in the order of the text;
// nothing if it does not parse.
func TermsOf(when string) []Term {
	if !strings.Contains(when, conditionFunction) && !strings.Contains(when, setFunction) || len(when) > MaxWhenLength {
		return nil
	}
	v, err := language()
	if err != nil {
		return nil
	}
	tree, issues := v.env.Parse(when)
	if issues.Err() != nil {
		return nil
	}
	var found []Term
	source := tree.NativeRep().SourceInfo()
	ast.PreOrderVisit(tree.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if t, argument, ok := termOf(e); ok && t.Name != "" {
			at := source.GetStartLocation(argument.ID())
			t.Line, t.Column = max(at.Line(), 1), max(at.Column(), 0)+1
			found = append(found, t)
		}
	}))
	return found
}

// nonsenseTerm returns what is wrong with a reference wherever it leads.
func nonsenseTerm(e ast.NavigableExpr) (at int64, reason string) {
	t, argument, ok := termOf(e)
	switch {
	case !ok:
		return 0, ""
	case t.Name == "":
		return argument.ID(), "name it by a literal, as in condition(\"office-hours\")"
	case t.Set:
		return 0, ""
	}
	for parent, more := e.Parent(); more; parent, more = parent.Parent() {
		if parent.Kind() == ast.ComprehensionKind {
			return e.ID(), "a named condition does not go into a loop"
		}
	}
	return 0, ""
}

// origin is where an expression of a named condition was written.
type origin struct {
	name   string // of the condition
	id     int64  // of the expression there
	source *ast.SourceInfo
}

// linker puts what a condition refers to in the place of the references.
type linker struct {
	terms   *Terms
	path    []string // of the conditions that it is in
	tree    *ast.AST
	next    int64
	origins map[int64]origin
	nodes   int
}

// link links tree, in place. It returns where the expressions came from that it
// has put there.
func link(tree *ast.AST, terms *Terms, path []string) (map[int64]origin, []*Error) {
	l := &linker{terms: terms, path: path, tree: tree, next: ast.MaxID(tree), origins: make(map[int64]origin)}
	var references []ast.Expr
	ast.PostOrderVisit(tree.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		l.nodes++
		if _, _, ok := termOf(e); ok {
			references = append(references, e)
		}
	}))
	for _, e := range references {
		if reason := l.resolve(e); reason != "" {
			_, argument, _ := termOf(e)
			at := tree.SourceInfo().GetStartLocation(argument.ID())
			return nil, []*Error{{Field: "when", Reason: reason, Line: max(at.Line(), 1), Column: max(at.Column(), 0) + 1}}
		}
		if l.nodes > maxNodes {
			return nil, refuseWhen("has more than %d parts with all that it refers to", maxNodes)
		}
	}
	return l.origins, nil
}

func (l *linker) resolve(e ast.Expr) (reason string) {
	t, argument, _ := termOf(e)
	if !t.Set {
		return l.inline(e, t.Name)
	}
	members := l.terms.Set(t.Name)
	if members == nil {
		return fmt.Sprintf("there is no Set %.80q", t.Name)
	}
	overloads := l.tree.ReferenceMap()[e.ID()].OverloadIDs
	if len(overloads) == 1 && (overloads[0] == addressInSet) != (members.ips != nil) {
		if members.ips != nil {
			return fmt.Sprintf("Set %.80q has cidrs: look up an address, as signals.ip", t.Name)
		}
		return fmt.Sprintf("Set %.80q has ids: look up a text, as principal.id", t.Name)
	}
	argument.SetKindCase(ast.NewExprFactory().NewLiteral(argument.ID(), setLiteral{types.String(t.Name), members}))
	return ""
}

// inline puts a named condition in the place of the call e.
func (l *linker) inline(e ast.Expr, name string) (reason string) {
	if slices.Contains(l.path, name) {
		return fmt.Sprintf("Condition %.80q refers to itself", name)
	}
	if len(l.path) >= maxNesting {
		return fmt.Sprintf("Conditions refer to each other more than %d deep", maxNesting)
	}
	when, ok := l.terms.Condition(name)
	if !ok {
		return fmt.Sprintf("there is no Condition %.80q", name)
	}
	tree, origins, problems := checkCondition(when, l.terms, append(slices.Clip(l.path), name))
	if len(problems) > 0 {
		return fmt.Sprintf("Condition %.80q: %s", name, problems[0].Reason)
	}
	l.graft(e, name, tree.NativeRep(), origins)
	return ""
}

// graft makes e what the condition is, with IDs of its own.
func (l *linker) graft(e ast.Expr, name string, from *ast.AST, origins map[int64]origin) {
	ids := map[int64]int64{from.Expr().ID(): e.ID()}
	renumber := func(id int64) int64 {
		if id == 0 {
			return 0
		}
		if _, known := ids[id]; !known {
			ids[id] = l.next
			l.next++
		}
		return ids[id]
	}
	factory := ast.NewExprFactory()
	copied := factory.CopyExpr(from.Expr())
	copied.RenumberIDs(renumber)
	at, _ := l.tree.SourceInfo().GetOffsetRange(e.ID())
	delete(l.tree.ReferenceMap(), e.ID())
	l.tree.SourceInfo().ClearMacroCall(e.ID())
	e.SetKindCase(copied)
	for id, call := range from.SourceInfo().MacroCalls() {
		call = factory.CopyExpr(call)
		call.RenumberIDs(renumber)
		l.tree.SourceInfo().SetMacroCall(renumber(id), call)
	}
	for before, id := range ids {
		if t, ok := from.TypeMap()[before]; ok {
			l.tree.TypeMap()[id] = t
		}
		if r, ok := from.ReferenceMap()[before]; ok {
			l.tree.ReferenceMap()[id] = r
		}
		l.tree.SourceInfo().SetOffsetRange(id, at)
		l.origins[id] = origin{name: name, id: before, source: from.SourceInfo()}
		if o, ok := origins[before]; ok {
			l.origins[id] = o
		}
		l.nodes++
	}
}
