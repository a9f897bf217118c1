package resource_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/resource"
)

func TestParseYAMLPointsAtTheLine(t *testing.T) {
	deep := strings.Repeat("{a: ", 40) + "b" + strings.Repeat("}", 40)
	for _, c := range []struct {
		text string
		want []string // "line index reason"
	}{
		{"kind: Route\nspec: [1, 2\nmetadata: {}\n", []string{"2 0 malformed"}},
		{"kind: Route\nspec: {a: 'x\nmetadata: {}\n", []string{"2 0 malformed"}},
		{"kind: Route\n\tspec: {}\n", []string{"2 0 malformed"}},
		{"kind: Route\n  spec: {}\n", []string{"2 0 malformed"}},
		{"kind: Route\n\n# why\nspec:\n- a\n b: c\n", []string{"6 0 malformed"}},
		{"kind: a: b\n", []string{"1 0 malformed"}},
		{"a: 1\nb: 1\nc: 1\nd: 1\n- e\n", []string{"5 0 malformed"}},
		{"kind: Route\nspec: \"\\q\"\n", []string{"2 0 malformed"}},
		{"kind: Route\nspec: @a\n", []string{"2 0 malformed"}},
		{"kind: Route\nspec: \x01\n", []string{"2 0 malformed"}},
		{"kind: Route\nspec: \xff\n", []string{"2 0 malformed"}},
		{"kind: Route\nspec: *nowhere\n", []string{"2 0 malformed"}},

		// One broken document does not hide another, nor move its lines.
		{"kind: Route\n---\nkind: [\n---\nkind: Route\n---\nkind: {\n", []string{"3 1 malformed", "7 3 malformed"}},
		{"kind: Route\r\n---\r\nkind: [\r\n", []string{"3 1 malformed"}},
		{"kind: Route\n# \r---\rkind: Policy\n", []string{"2 0 malformed"}},
		{"# nothing\n---\n---\n# nothing\n...\nkind: [\n", []string{"6 0 malformed"}},

		{"kind: Route\nkind: Policy\n", []string{"2 0 duplicate_field"}},
		{"kind: Route\nspec:\n  a:\n  - {b: 1, c: 2,\n     b: 3}\n", []string{"5 0 duplicate_field"}},
		{"kind: Route\nkind : Policy\napi_version: a\napiVersion: b\n", []string{"2 0 duplicate_field", "4 0 duplicate_field"}},
		{"kind: &k Route\nspec: {a: *k, b: *k}\n", []string{"1 0 unsupported_yaml", "2 0 unsupported_yaml", "2 0 unsupported_yaml"}},
		{"kind: Route\nspec:\n  &k a: b\n", []string{"3 0 unsupported_yaml"}},
		{"kind: !!str Route\nspec: !custom {}\n", []string{"1 0 unsupported_yaml", "2 0 unsupported_yaml"}},
		{"kind: Route\nspec:\n  ? [a, b]\n  : c\n", []string{"3 0 wrong_type"}},
		{"kind: Route\nspec:\n  x: " + deep + "\n", []string{"3 0 too_deep"}},

		{"kind: Route\nmetadata:\n  title: x\n  labels:\n    a: 1\nspce: {}\n", []string{"5 0 wrong_type", "3 0 unknown_field", "6 0 unknown_field"}},
		{"kind: 7\nmetadata: x\nspec: yes\n", []string{"1 0 wrong_type", "2 0 wrong_type", "3 0 wrong_type"}},
		{"kind: Route\nspec:\n", []string{"2 0 wrong_type"}},
		{"just text", []string{"1 0 wrong_type"}},
		{"- kind: Route\n", []string{"1 0 wrong_type"}},
	} {
		_, problems := resource.ParseYAML([]byte(c.text))
		var got []string
		for _, p := range problems.Kept {
			got = append(got, fmt.Sprintf("%d %d %s", p.Line, p.Index, p.Reason))
			if p.Message == "" || p.Column < 1 {
				t.Errorf("%q: problem %+v", c.text, p)
			}
		}
		if !slices.Equal(got, c.want) || problems.Total != len(c.want) {
			t.Errorf("%q\ngot  %q\nwant %q", c.text, got, c.want)
		}
	}
}

// YAML 1.1 made a boolean of Norway and a number of a version.
func TestParseYAMLResolvesByTheCoreSchema(t *testing.T) {
	r := parse(t, `
kind: Policy
spec:
  text: [no, yes, on, off, y, 1_2, 1_000, 0b1, 1:30, "1", '~', 2026-11-24, .nan, .inf, 1e999, 0x, 0xg, 1e, "", -, .]
  bools: [true, True, TRUE, false]
  numbers: [0, -7, +7, 010, 0o10, 0x1F, 1.5, .5, 1., 1e3]
  nulls: [~, null, Null, ]
  block: |
    no
    yes
`)[0].Resource.GetSpec().AsMap()
	want := map[string]any{
		"text": []any{
			"no", "yes", "on", "off", "y", "1_2", "1_000", "0b1", "1:30", "1", "~", "2026-11-24", ".nan", ".inf", "1e999", "0x", "0xg", "1e", "", "-", ".",
		},
		"bools":   []any{true, true, true, false},
		"numbers": []any{0.0, -7.0, 7.0, 10.0, 8.0, 31.0, 1.5, 0.5, 1.0, 1000.0},
		"nulls":   []any{nil, nil, nil},
		"block":   "no\nyes\n",
	}
	for field, values := range want {
		if got := fmt.Sprintf("%#v", r[field]); got != fmt.Sprintf("%#v", values) {
			t.Errorf("%s: %s", field, got)
		}
	}
}

func TestParseYAMLBounds(t *testing.T) {
	for name, c := range map[string]struct {
		text   string
		reason string
		line   int
	}{
		"file":     {strings.Repeat("#", resource.MaxFile+1), resource.ReasonTooLarge, 0},
		"document": {"kind: a\n---\nkind: " + strings.Repeat("a", 2*resource.MaxSet), resource.ReasonTooLarge, 2},
		"many":     {strings.Repeat("kind: a\n---\n", resource.MaxResources) + "kind: a\n", resource.ReasonTooMany, 2 * resource.MaxResources},
	} {
		_, problems := resource.ParseYAML([]byte(c.text))
		if problems.Total != 1 || problems.Kept[0].Reason != c.reason || problems.Kept[0].Line != c.line {
			t.Errorf("%s: %v", name, problems.Kept)
		}
	}
}

// In a document that takes long to parse the line is where it went wrong, or
// where that began.
func TestFaultyLineOfALongDocument(t *testing.T) {
	text := setOf("cidrs", members(many, network6)+"  - [\n")
	_, problems := resource.ParseYAML([]byte(text))
	if problems.Total != 1 || problems.Kept[0].Reason != resource.ReasonMalformed || problems.Kept[0].Line < many {
		t.Errorf("%v", problems.Kept)
	}
}

func TestParseYAMLOfNothing(t *testing.T) {
	for _, text := range []string{"", "\n", "# nothing\n", "---\n", "---\n...\n---\n", "~\n", "\xef\xbb\xbf"} {
		all, problems := resource.ParseYAML([]byte(text))
		if text == "~\n" {
			if problems.Total != 1 {
				t.Errorf("%q: %d resources, %v", text, len(all), problems.Kept)
			}
			continue
		}
		if len(all) != 0 || problems.Total != 0 {
			t.Errorf("%q: %d resources, %v", text, len(all), problems.Kept)
		}
	}
}

// Good documents are returned beside bad ones, each with its place.
func TestParseYAMLReturnsTheRest(t *testing.T) {
	all, problems := resource.ParseYAML([]byte("\n# first\nkind: A\n---\nkind: [\n--- {kind: B}\n---\n# none\n...\nkind: C\n"))
	var got []string
	for _, l := range all {
		got = append(got, fmt.Sprint(l.Resource.GetKind(), l.Index, l.Line))
	}
	if want := []string{"A0 3", "B2 6", "C3 10"}; !slices.Equal(got, want) || problems.Total != 1 {
		t.Errorf("got %q, %v", got, problems.Kept)
	}
}

func TestLocate(t *testing.T) {
	const file = `# line 1
apiVersion: sallyport/v1
kind: Policy
metadata:
  namespace: shop
  name: X
  labels:
    a.b/c: "é"
spec:
  routes:
    all: true
  effect: SOMETIMES
  principals:
  - group: shop
    identity_provider: P
  - subject: bob
    identityProvider: P
  paths: [
    "/a",
    "b",
  ]
  when: |
    true &&
    nonsense
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: y}
spec:
  hosts:
  - a.example
  timeout: 5 m
`
	var got []string
	for _, l := range parse(t, file) {
		_, problems := resource.Decode(l.Resource)
		if l.Index == 0 {
			problems.Add(resource.Problem{Field: "spec.when", Line: 2, Column: 1})
		}
		for _, p := range problems.Kept {
			got = append(got, fmt.Sprint(l.Locate(p), " ", p.Field))
		}
	}
	want := []string{
		`6 metadata.name`, `8 metadata.labels["a.b/c"]`, "12 spec.effect", "15 spec.principals[0].identityProvider",
		"17 spec.principals[1].identityProvider", "20 spec.paths[1]", "24 spec.when",
		"32 spec.timeout", "29 spec.upstream", "29 spec.authentication",
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestParseYAMLIsNotABomb(t *testing.T) {
	const n = 1 << 18
	for name, text := range map[string]string{
		"flow":     strings.Repeat("[", n),
		"maps":     strings.Repeat("{a: ", n),
		"dashes":   strings.Repeat("- ", n),
		"keys":     strings.Repeat("? ", n),
		"comments": "a:\n" + strings.Repeat(" # x\n", n),
		"quotes":   "a: '" + strings.Repeat("\n", n) + "'",
		"markers":  strings.Repeat("---\n", n),
		"broken":   strings.Repeat("---\na: [\n", n/16),
		"aliases":  "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: &d [*c,*c]\n",
	} {
		_, problems := resource.ParseYAML([]byte(text))
		if name != "markers" && problems.Total == 0 {
			t.Errorf("%s: no problem", name)
		}
	}
}

func FuzzParseYAML(f *testing.F) {
	f.Add("kind: Route\nspec: [1, 2\n---\na: &b *b\n")
	f.Add("{\"kind\": \"Route\", \"metadata\": {\"labels\": {\"a\": \"b\"}}}")
	f.Add("--- |\n a\n...\n? a\n: - b\n  - !t c\n")
	f.Add(of("Route", goodRoute))
	f.Fuzz(func(t *testing.T, text string) {
		all, problems := resource.ParseYAML([]byte(text))
		lines := 1
		for _, lineBreak := range []string{"\n", "\r", "\u0085", "\u2028", "\u2029"} {
			lines += strings.Count(text, lineBreak)
		}
		for _, p := range problems.Kept {
			if p.Line < 1 || p.Line > lines+1 || p.Reason == "" {
				t.Errorf("problem %+v in %d lines", p, lines)
			}
		}
		for _, l := range all {
			_, problems := resource.Decode(l.Resource)
			for _, p := range problems.Kept {
				if n := l.Locate(p); n < l.Line || n > lines+1 {
					t.Errorf("problem %+v of line %d at line %d of %d", p, l.Line, n, lines)
				}
			}
		}
	})
}
