package deployments_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/evaluate"
	"github.com/sallyport/sallyport/internal/resource"
)

// The tests beside the example policies hold, and so does the one in the text.
func TestExamplePoliciesPassTheirTests(t *testing.T) {
	var parsed []resource.Parsed
	for _, r := range examples(t, "resources") {
		p, problems := resource.Decode(r)
		if problems.Total > 0 {
			t.Fatal(problems.Kept[0].String())
		}
		parsed = append(parsed, p)
	}
	files := map[string][]byte{"docs/debugging.md": []byte(exampleTest(t))}
	found, err := filepath.Glob(filepath.Join(root, "deployments", "resources", "*_test.yaml"))
	if err != nil || len(found) == 0 {
		t.Fatalf("%d files of tests: %v", len(found), err)
	}
	for _, file := range found {
		if files[file], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	for file, text := range files {
		tests, problems := evaluate.ParseTests(file, text)
		for _, p := range problems.Kept {
			t.Error(p.String())
		}
		for _, one := range tests {
			table, err := evaluate.Offline(one.Environment, parsed)
			if err != nil {
				t.Fatal(err)
			}
			if res := one.Run(table, time.Date(2026, time.November, 26, 12, 0, 0, 0, time.UTC)); !res.GetOk() {
				t.Errorf("%s:%d: %s: %q", one.File, one.Line, one.Name, res.GetFailures())
			}
		}
	}
}

// exampleTest is the file of tests in the text.
func exampleTest(t *testing.T) string {
	t.Helper()
	for block := range strings.SplitSeq(read(t, "docs/debugging.md"), "```yaml\n") {
		if text, _, ok := strings.Cut(block, "```"); ok && strings.Contains(text, "\ntests:\n") {
			return text
		}
	}
	t.Fatal("docs/debugging.md shows no tests")
	return ""
}
