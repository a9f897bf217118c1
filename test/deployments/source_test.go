package deployments_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// sources returns the Go files below some folders: ours that are shipped, or
// the tests.
func sources(t *testing.T, tests bool, below ...string) map[string]*ast.File {
	t.Helper()
	found, set := map[string]*ast.File{}, token.NewFileSet()
	for _, dir := range below {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") != tests {
				return err
			}
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			found[rel], err = parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(found) == 0 {
		t.Fatalf("no Go file below %q", below)
	}
	return found
}

// shippedSources are those of the servers: without what only serves the demo
// and tests.
func shippedSources(t *testing.T) map[string]*ast.File {
	t.Helper()
	all := sources(t, false, "controlplane", "dataplane", "internal", "storage")
	maps.DeleteFunc(all, func(path string, _ *ast.File) bool {
		return slices.ContainsFunc([]string{"internal/identity/issuer/", "storage/local/", "storage/storagetest/"},
			func(dir string) bool { return strings.HasPrefix(path, dir) })
	})
	return all
}

// logged is one call of a logger.
type logged struct {
	level   string // of the method; Error for Log where that is among its levels
	message string
	keys    []string
}

// logs returns every call of a logger in the servers, With included.
func logs(t *testing.T) []logged {
	t.Helper()
	var all []logged
	for _, file := range shippedSources(t) {
		for _, d := range file.Decls {
			all = append(all, logsOf(d)...)
		}
	}
	if len(all) < 20 {
		t.Fatalf("%d calls of loggers were found", len(all))
	}
	return all
}

func logsOf(d ast.Decl) []logged {
	var found []logged
	alarms := false
	ast.Inspect(d, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			alarms = alarms || n.Sel.Name == "LevelError"
		case *ast.CallExpr:
			if l, ok := logCall(n); ok {
				found = append(found, l)
			}
		}
		return true
	})
	for i := range found {
		if alarms && found[i].level == "Log" {
			found[i].level = "Error"
		}
	}
	return found
}

func logCall(call *ast.CallExpr) (logged, bool) {
	var name string
	switch f := call.Fun.(type) {
	case *ast.SelectorExpr:
		name = f.Sel.Name
	case *ast.Ident:
		name = f.Name
	}
	args, level := call.Args, strings.TrimSuffix(name, "Context")
	switch level {
	case "Debug", "Info", "Warn", "Error":
	case "Log": // (ctx, level, message, ...)
		args = args[min(1, len(args)):]
	case "level": // a local variable that holds one of the methods
	case "With":
		return logged{level: level, keys: literals(args, 0)}, len(literals(args, 0)) > 0
	default:
		return logged{}, false
	}
	if level == "Log" || level != name {
		args = args[min(1, len(args)):]
	}
	if len(args) == 0 {
		return logged{}, false
	}
	message, ok := literal(args[0])
	return logged{level: level, message: message, keys: literals(args, 1)}, ok
}

// literals returns every second argument that is a string literal.
func literals(args []ast.Expr, from int) []string {
	var found []string
	for i := from; i < len(args); i += 2 {
		if s, ok := literal(args[i]); ok {
			found = append(found, s)
		}
	}
	return found
}

func literal(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(lit.Value)
	return s, err == nil
}

// metricNames returns the names of all metrics of ours: what stands as Name in
// their options, or goes first to a function that makes them.
func metricNames(t *testing.T) []string {
	t.Helper()
	found := map[string]bool{}
	for _, file := range shippedSources(t) {
		ast.Inspect(file, func(n ast.Node) bool {
			var name ast.Expr
			switch n := n.(type) {
			case *ast.KeyValueExpr:
				if key, ok := n.Key.(*ast.Ident); ok && key.Name == "Name" {
					name = n.Value
				}
			case *ast.CallExpr:
				if len(n.Args) > 1 {
					name = n.Args[0]
				}
			}
			if s, ok := literal(name); ok && strings.HasPrefix(s, "sallyport_") {
				found[s] = true
			}
			return true
		})
	}
	return slices.Sorted(maps.Keys(found))
}

// reasonsOf returns the values of the constants of a package that are reasons:
// of a type Reason, or called so.
func reasonsOf(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	for path, file := range sources(t, false, dir) {
		if filepath.Dir(path) != filepath.FromSlash(dir) {
			continue
		}
		for _, d := range file.Decls {
			if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.CONST {
				for _, s := range g.Specs {
					found = append(found, reasonIn(s)...)
				}
			}
		}
	}
	if len(found) == 0 {
		t.Fatalf("%s has no reasons", dir)
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func reasonIn(s ast.Spec) []string {
	v, ok := s.(*ast.ValueSpec)
	if !ok {
		return nil
	}
	of, _ := v.Type.(*ast.Ident)
	var found []string
	for i, name := range v.Names {
		if !strings.HasPrefix(name.Name, "Reason") && (of == nil || of.Name != "Reason") || i >= len(v.Values) {
			continue
		}
		if s, ok := literal(v.Values[i]); ok && !strings.HasSuffix(s, "_") { // a prefix is no reason
			found = append(found, s)
		}
	}
	return found
}
