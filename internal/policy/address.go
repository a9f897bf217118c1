package policy

import (
	"strings"

	"cel.dev/cel-go/common/ast"
)

// LooksAtAddress reports whether the outcome of a condition may depend on where a
// request comes from. It is false for what does not parse. It only parses, and is
// quick for conditions that have nothing of the kind.
func LooksAtAddress(when string) bool {
	if !strings.Contains(when, "signals") || !strings.Contains(when, "ip") && !strings.Contains(when, "geo") && !strings.Contains(when, "denials") {
		return false
	}
	if len(when) > MaxWhenLength {
		return false // it does not compile
	}
	v, err := language()
	if err != nil {
		return false
	}
	tree, issues := v.env.Parse(when)
	if issues.Err() != nil {
		return false
	}
	found := ast.MatchDescendants(ast.NavigateAST(tree.NativeRep()), func(e ast.NavigableExpr) bool {
		if e.Kind() != ast.SelectKind {
			return false
		}
		of := e.AsSelect().Operand()
		return of.Kind() == ast.IdentKind && of.AsIdent() == "signals" && isOfAddress(e)
	})
	return len(found) > 0
}

// isOfAddress tells the fields of signals that follow from the client's address.
func isOfAddress(e ast.NavigableExpr) bool {
	switch e.AsSelect().FieldName() {
	case "ip", "geo":
		return true
	case "denials":
		outer, ok := e.Parent()
		return !ok || outer.Kind() != ast.SelectKind || outer.AsSelect().FieldName() != "principal"
	}
	return false
}
