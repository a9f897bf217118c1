package policy

import (
	"slices"
	"strconv"
	"sync"

	"cel.dev/cel-go/common/ast"
)

// Of returns the policies that are bound to a route: DENY before ALLOW, those in
// shadow last, each by name.
func (s *Set) Of(route RouteID) []*Policy {
	if s == nil || s.shards == nil {
		return nil
	}
	t := s.shards.table(route)
	if t == nil {
		return nil
	}
	return slices.Concat(t.deny, t.allow, t.shadow)
}

// Covers reports whether the policy has its say on such requests, whoever sends
// them. An empty method or path is any.
func (p *Policy) Covers(method, path string) bool {
	return (method == "" || p.matchMethod(method)) && (path == "" || p.matchPath(path))
}

// Names reports whether the policy is for a principal.
func (p *Policy) Names(who *Principal) bool { return p.principals.match(who) }

// Reads returns what the condition of the policy looks at, sorted, such as
// principal.claims, request.headers["x-tenant"] or request.headers where it looks
// at any. Whether a field is there is not looking at it. The result is not to be
// changed: it is found out once.
func (p *Policy) Reads() []string {
	if p.when == nil {
		return nil
	}
	r := &p.when.reads
	r.once.Do(func() { r.fields = readsOf(p.when.tree) })
	return r.fields
}

// reading is what a condition looks at, when somebody has asked.
type reading struct {
	once   sync.Once
	fields []string
}

func readsOf(tree *ast.AST) (found []string) {
	nav := ast.NavigateAST(tree)
	for _, e := range ast.MatchDescendants(nav, ast.KindMatcher(ast.IdentKind)) {
		if path := reach(e); path != "" {
			found = append(found, path)
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// reach is how far an expression goes into the variable that ident is; empty if it
// is none, or only asks whether something is there.
func reach(ident ast.NavigableExpr) string {
	path := ident.AsIdent()
	switch path {
	case "principal", "request", "route", "signals":
	default:
		return ""
	}
	depth := 0
	for e := ident; ; depth++ {
		outer, ok := e.Parent()
		switch {
		case !ok:
			return path
		case outer.Kind() == ast.SelectKind && outer.AsSelect().IsTestOnly():
			return ""
		case outer.Kind() == ast.SelectKind && depth == 0:
			path += "." + outer.AsSelect().FieldName()
		case outer.Kind() == ast.SelectKind:
			return path + "[" + strconv.Quote(outer.AsSelect().FieldName()) + "]"
		case outer.Kind() == ast.CallKind:
			return looked(path, outer, e)
		default:
			return path
		}
		e = outer
	}
}

// looked is what a call looks at of e, which path leads to.
func looked(path string, outer, e ast.NavigableExpr) string {
	call := outer.AsCall()
	args := call.Args()
	switch {
	case call.FunctionName() == "_[_]" && args[0].ID() == e.ID() && args[1].Kind() == ast.LiteralKind:
		if name, ok := args[1].AsLiteral().Value().(string); ok {
			return path + "[" + strconv.Quote(name) + "]"
		}
	case call.FunctionName() == "@in" && args[1].ID() == e.ID() && args[0].Kind() == ast.LiteralKind:
		return ""
	}
	return path
}

// Note says of a grant from when until when it counts, why, and who approved it.
// It is empty for a policy.
func (p *Policy) Note() string { return p.note }
