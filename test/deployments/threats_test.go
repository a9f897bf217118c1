package deployments_test

import (
	"go/ast"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every test that the threat model and the table of failures name exists, in the
// package that they name.
func TestNamedTestsExist(t *testing.T) {
	there := map[string]bool{}
	for path, file := range sources(t, true, ".") {
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				there[filepath.ToSlash(filepath.Dir(path))+"."+f.Name.Name] = true
			}
		}
	}
	named := regexp.MustCompile("`([a-z0-9/]+\\.(?:Test|Fuzz)[A-Za-z0-9]*)`").FindAllStringSubmatch(read(t, threats)+read(t, failures), -1)
	if len(named) < 80 {
		t.Fatalf("%d tests are named", len(named))
	}
	for _, m := range named {
		if !there[m[1]] {
			t.Errorf("there is no %s", m[1])
		}
	}
}

// No attacker is left without a word on what is not defended yet, and no row
// without a test.
func TestThreatModelIsWhole(t *testing.T) {
	_, text, _ := strings.Cut(read(t, threats), "\n## What is trusted\n")
	attackers := strings.Split(text, "\n## ")[1:]
	if len(attackers) < 7 {
		t.Fatalf("%d attackers", len(attackers))
	}
	for _, a := range attackers {
		name, _, _ := strings.Cut(a, "\n")
		if !strings.Contains(a, "\nNot defended yet:\n\n- ") {
			t.Errorf("%s: nothing is said of what is not defended", name)
		}
		for _, row := range regexp.MustCompile(`(?m)^\|.*\|$`).FindAllString(a, -1) {
			cells := strings.Split(strings.Trim(row, "|"), " | ")
			last := strings.TrimSpace(cells[len(cells)-1])
			header := last == "shown by" || strings.HasPrefix(last, "---")
			if len(cells) != 3 && !strings.HasPrefix(row, "|---") || !header && !strings.Contains(last, "Test") {
				t.Errorf("%s: %s", name, row)
			}
		}
	}
}
