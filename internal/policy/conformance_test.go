package policy_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cel.dev/expr"
	_ "cel.dev/expr/conformance/proto2" // the cases hold messages of these packages
	_ "cel.dev/expr/conformance/proto3"
	conformance "cel.dev/expr/conformance/test"
	"google.golang.org/protobuf/encoding/prototext"

	"github.com/sallyport/sallyport/internal/policy"
)

var update = flag.Bool("update", false, "write testdata/conformance-left-out.txt anew")

// TestConformance runs CEL's public conformance cases, in both ways. Those that
// do not fit a condition are left out, each with its reason in a file; of the
// others none that CEL's library passes may fail.
func TestConformance(t *testing.T) {
	var leftOut bytes.Buffer
	counts := map[string]int{}
	for _, path := range conformanceFiles(t) {
		var file conformance.SimpleTestFile
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := prototext.Unmarshal(text, &file); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		for _, section := range file.GetSection() {
			for _, c := range section.GetTest() {
				name := strings.Join([]string{file.GetName(), section.GetName(), c.GetName()}, "/")
				outcome, reason := conforms(t, name, c)
				if counts[outcome]++; reason != "" {
					fmt.Fprintf(&leftOut, "%s: %s\n", name, reason)
				}
			}
		}
	}
	t.Logf("passed by closures %d, by the library alone %d, refused where an error is due %d; left out %d",
		counts["closures"], counts["library"], counts["refused"], counts["left out"])
	if counts["closures"] < 300 {
		t.Error("too few cases reach the closures")
	}
	golden(t, filepath.Join("testdata", "conformance-left-out.txt"), leftOut.Bytes())
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("what is left out is not what %s says; see to it that each reason is a good one, and run with -update", path)
	}
}

// conformanceFiles are in the module cel.dev/expr, beside its packages.
func conformanceFiles(t *testing.T) []string {
	t.Helper()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "cel.dev/expr").Output()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "tests", "simple", "testdata", "*.textproto"))
	if err != nil || len(files) < 20 {
		t.Fatalf("%d files of cases: %v", len(files), err)
	}
	slices.Sort(files)
	return files
}

// conforms runs one case and returns how it went, and why it was left out.
func conforms(t *testing.T, name string, c *conformance.SimpleTest) (outcome, reason string) {
	t.Helper()
	text, want, reason := asCondition(c)
	if reason != "" {
		return "left out", reason
	}
	condition, err := policy.CompileCondition(text)
	switch {
	case err != nil && want == "no value" && !strings.Contains(err.Error(), "undeclared reference"):
		return "refused", ""
	case err != nil:
		return "left out", "refused: " + firstLine(err.Error())
	}
	in := &policy.Input{}
	if library := plainly(condition.Library(in)); library != want {
		return "left out", "the library answers " + library
	}
	got, answered := condition.Closures(in)
	if !answered {
		return "library", ""
	}
	if plainly(got) != want {
		t.Errorf("%s: %s: closures answer %s, want %s", name, text, got, want)
	}
	return "closures", ""
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// plainly leaves out where there is no value.
func plainly(answer string) string {
	if strings.HasPrefix(answer, "condition") {
		return "no value"
	}
	return answer
}

// asCondition makes a condition of a case, which may be of any type, and says
// what is to come out, or why the case is none for conditions.
func asCondition(c *conformance.SimpleTest) (text, want, reason string) {
	switch {
	case len(c.GetTypeEnv()) > 0 || len(c.GetBindings()) > 0:
		return "", "", "declares variables"
	case c.GetContainer() != "":
		return "", "", "is in a container"
	case c.GetDisableCheck() || c.GetDisableMacros() || c.GetCheckOnly():
		return "", "", "is not both checked and evaluated, with macros"
	}
	switch m := c.GetResultMatcher().(type) {
	case *conformance.SimpleTest_EvalError, *conformance.SimpleTest_AnyEvalErrors:
		return "size([" + c.GetExpr() + "]) == 1", "no value", ""
	case *conformance.SimpleTest_Value:
		return compareWith(c.GetExpr(), m.Value)
	case *conformance.SimpleTest_TypedResult:
		return compareWith(c.GetExpr(), m.TypedResult.GetResult())
	case nil:
		return "(" + c.GetExpr() + ") == true", "true", ""
	}
	return "", "", "is about unknown values"
}

func compareWith(text string, v *expr.Value) (condition, want, reason string) {
	if b, ok := v.GetKind().(*expr.Value_BoolValue); ok {
		return text, strconv.FormatBool(b.BoolValue), ""
	}
	literal, ok := literalOf(v)
	if !ok {
		return "", "", "has a result that is no literal"
	}
	return "(" + text + ") == " + literal, "true", ""
}

// literalOf writes v in CEL.
func literalOf(v *expr.Value) (string, bool) {
	switch v := v.GetKind().(type) {
	case *expr.Value_NullValue:
		return "null", true
	case *expr.Value_Int64Value:
		return strconv.FormatInt(v.Int64Value, 10), true
	case *expr.Value_Uint64Value:
		return strconv.FormatUint(v.Uint64Value, 10) + "u", true
	case *expr.Value_DoubleValue:
		text := strconv.FormatFloat(v.DoubleValue, 'e', -1, 64)
		return "double(\"" + text + "\")", text != "NaN"
	case *expr.Value_StringValue:
		return strconv.Quote(v.StringValue), true
	case *expr.Value_BoolValue:
		return strconv.FormatBool(v.BoolValue), true
	case *expr.Value_ListValue:
		var elements []string
		for _, e := range v.ListValue.GetValues() {
			literal, ok := literalOf(e)
			if !ok {
				return "", false
			}
			elements = append(elements, literal)
		}
		return "[" + strings.Join(elements, ", ") + "]", true
	}
	return "", false
}
