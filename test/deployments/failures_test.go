package deployments_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	failures = "docs/failures.md"
	table    = "test/chaos/table_test.go"
)

// The failures that the document names are those that a fleet is put through, and
// no row is without a test.
func TestFailuresAreShown(t *testing.T) {
	text := read(t, failures)
	var named, shown []string
	for _, m := range regexp.MustCompile("`test/chaos\\.TestFailureTable` \\(([^)]*)\\)").FindAllStringSubmatch(text, -1) {
		named = append(named, strings.Split(m[1], ", ")...)
	}
	for _, m := range regexp.MustCompile(`\{"([^"]+)", \(\*stage\)\.`).FindAllStringSubmatch(read(t, table), -1) {
		shown = append(shown, m[1])
	}
	slices.Sort(named)
	slices.Sort(shown)
	if len(shown) == 0 || !slices.Equal(named, shown) {
		t.Errorf("%s names %q, and %s has %q", failures, named, table, shown)
	}
	for _, row := range regexp.MustCompile(`(?m)^\|.*\|$`).FindAllString(text, -1)[2:] {
		if cells := strings.Split(row, " | "); len(cells) != 3 || !strings.Contains(cells[2], "Test") {
			t.Errorf("a row without a test: %s", row)
		}
	}
}
