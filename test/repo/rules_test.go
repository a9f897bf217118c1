package repo_test

import (
	"encoding/json"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestPackagesSayWhatTheyAre(t *testing.T) {
	for _, p := range ours(t) {
		want := "Package " + p.Name + " "
		if p.Name == "main" {
			want = "Command " + path.Base(p.ImportPath) + " "
		}
		if !strings.HasPrefix(p.Doc, want) || !strings.HasSuffix(p.Doc, ".") {
			t.Errorf("%s: its documentation begins with %q, want a sentence with %q", p.ImportPath, p.Doc, want+"...")
		}
	}
}

func TestPackagesAreNouns(t *testing.T) {
	for _, p := range ours(t) {
		switch p.Name {
		case "base", "common", "core", "helper", "helpers", "lib", "manager", "misc", "shared", "types", "util", "utils":
			t.Errorf("%s is named after nothing: name it for the thing it knows", p.ImportPath)
		}
	}
}

// enginesModule measures other engines beside ours, which must not require them.
const enginesModule = "test/bench/engines"

func TestModulesReplaceNothing(t *testing.T) {
	for _, file := range files(t, "go.mod") {
		out, err := run("go", "mod", "edit", "-json", file)
		if err != nil {
			t.Fatal(err)
		}
		var mod struct{ Replace, Exclude []any }
		if err := json.Unmarshal(out, &mod); err != nil {
			t.Fatal(err)
		}
		if filepath.ToSlash(filepath.Dir(file)) == enginesModule {
			continue // replaces ours by this directory, and nobody requires it
		}
		if len(mod.Replace)+len(mod.Exclude) > 0 {
			t.Errorf("%s replaces or excludes modules: whoever requires ours would build something else", file)
		}
	}
}

var (
	anyNolint  = regexp.MustCompile(`/{2}\s*nolint`)
	goodNolint = regexp.MustCompile(`/{2}nolint:[a-z0-9]+(,[a-z0-9]+)* // \S`)
)

func TestSilencedLintersSayWhy(t *testing.T) {
	eachLine(t, func(file string, n int, line string) {
		if anyNolint.MatchString(line) && !goodNolint.MatchString(line) {
			t.Errorf("%s:%d: write the linter and the reason: \"nolint:NAME // why\"", file, n)
		}
	})
}

func TestFilesStayReadable(t *testing.T) {
	const most = 1000
	eachLine(t, func(file string, n int, _ string) {
		if n == most+1 {
			t.Errorf("%s has more than %d lines: cut it along its subjects", file, most)
		}
	})
}

// eachLine calls f for each line of our Go files, counted from one.
func eachLine(t *testing.T, f func(file string, n int, line string)) {
	t.Helper()
	for _, file := range files(t, ".go") {
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for line := range strings.Lines(string(text)) {
			n++
			f(file, n, line)
		}
	}
}

func TestMakeHelpListsEveryTarget(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	phony := names(`(?m)^\.PHONY: (\S+)$`, text)
	if len(phony) == 0 {
		t.Fatal("the Makefile declares no phony target")
	}
	if ruled := names(`(?m)^([a-z][a-z0-9-]*):( |$)`, text); !slices.Equal(ruled, phony) {
		t.Errorf("the Makefile has rules for %q, but its phony targets are %q", ruled, phony)
	}

	// As a user would see it, even where make runs this test.
	t.Setenv("MAKEFLAGS", "")
	t.Setenv("MAKELEVEL", "")
	help, err := run("make", "help")
	if err != nil {
		t.Fatal(err)
	}
	listed := names(`(?m)^  ([a-z0-9-]+) +\S`, help)
	slices.Sort(listed)
	slices.Sort(phony)
	if !slices.Equal(listed, phony) {
		t.Errorf("make help lists %q, but the phony targets are %q", listed, phony)
	}
}

// names returns what the first group of the expression matches, in order.
func names(expr string, text []byte) []string {
	var found []string
	for _, m := range regexp.MustCompile(expr).FindAllSubmatch(text, -1) {
		found = append(found, string(m[1]))
	}
	return found
}
