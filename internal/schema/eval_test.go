package schema_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sallyport/sallyport/internal/schema"
)

// judge says what is wrong with a body by a JSON Schema: one problem a line.
func judge(t *testing.T, document, body string) string {
	t.Helper()
	s, err := schema.Compile(schema.Source{JSONSchema: document})
	if err != nil {
		t.Fatalf("%s: %v", document, err)
	}
	f, b := s.Head(&schema.Request{
		Method: "POST", Path: "/", HasBody: true, Header: map[string][]string{"Content-Type": {"application/json"}},
	}, schema.Options{})
	if !f.Valid() {
		t.Fatalf("%s: %v", document, f)
	}
	return lines(b.Judge([]byte(body)))
}

func lines(f schema.Findings) string {
	var all []string
	for _, p := range f.Problems {
		all = append(all, strings.TrimSpace(p.Pointer+" "+p.Detail))
	}
	if f.Reason != "" {
		all = append([]string{f.Reason}, all...)
	}
	return strings.Join(all, "\n")
}

func TestBodiesByJSONSchema(t *testing.T) {
	for _, c := range []struct{ schema, body, problems string }{
		{`{type: object, required: [sku, count], properties: {sku: {type: string, pattern: "^[A-Z]{2}-[0-9]+$"}, count: {type: integer, minimum: 1}}, additionalProperties: false}`,
			`{"sku":"AB-1","count":2}`, ""},
		{`{type: object, required: [sku, count], properties: {sku: {type: string, pattern: "^[A-Z]{2}-[0-9]+$"}, count: {type: integer, minimum: 1}}, additionalProperties: false}`,
			`{"sku":"x","count":0.5,"a/b~":1}`, "body_invalid\n/body/sku does not match the pattern\n/body/count is number, not integer\n/body/a~1b~0 is no member that is known here"},
		{`{type: object, required: [sku, count]}`, `{}`, "body_invalid\n/body lacks the member \"sku\"\n/body lacks the member \"count\""},
		{`{items: {type: string, maxLength: 2}}`, `["ab","abc",1]`, "body_invalid\n/body/1 is longer than 2\n/body/2 is number, not string"},
		{`{enum: [1, "a", {"x": [1.0]}]}`, `{"x":[1]}`, ""},
		{`{enum: [1, "a"]}`, `"b"`, "body_invalid\n/body is none of the values that are taken"},
		{`{const: 10}`, `1e1`, ""},
		{`{const: {a: 1, b: 2}}`, `{"b":2,"a":1}`, ""},
		{`{uniqueItems: true}`, `[1,"1",1.0]`, "body_invalid\n/body has an element twice"},
		{`{uniqueItems: true}`, `[{"a":1,"b":2},{"b":2,"a":1}]`, "body_invalid\n/body has an element twice"},
		{`{multipleOf: 0.01}`, `19.99`, ""},
		{`{multipleOf: 0.01}`, `19.999`, "body_invalid\n/body is no multiple of 1/100"},
		{`{minimum: -9223372036854775808, maximum: 9223372036854775807}`, `9223372036854775808`, "body_invalid\n/body is more than 9223372036854775807"},
		{`{exclusiveMinimum: 0, exclusiveMaximum: 1}`, `1`, "body_invalid\n/body is not less than 1"},
		{`{format: date-time}`, `"2026-11-26T09:00:00Z"`, ""},
		{`{format: date-time}`, `"yesterday"`, "body_invalid\n/body is not of the format date-time"},
		{`{format: int32}`, `2147483648`, "body_invalid\n/body is not of the format int32"},
		{`{format: something-of-our-own}`, `"x"`, ""},
		{`{not: {type: string}}`, `"x"`, "body_invalid\n/body is what is not taken here"},
		{`{oneOf: [{type: string}, {type: object, required: [a]}]}`, `{}`, "body_invalid\n/body lacks the member \"a\""},
		{`{oneOf: [{type: number}, {type: integer}]}`, `1`, "body_invalid\n/body is more than one of what is taken here"},
		{`{anyOf: [{required: [a]}, {required: [b]}]}`, `{}`, "body_invalid\n/body is none of what is taken here"},
		{`{if: {required: [card]}, then: {required: [cvc]}, else: {required: [iban]}}`, `{"card":1}`, "body_invalid\n/body lacks the member \"cvc\""},
		{`{if: {required: [card]}, then: {required: [cvc]}, else: {required: [iban]}}`, `{}`, "body_invalid\n/body lacks the member \"iban\""},
		{`{dependentRequired: {a: [b]}, dependentSchemas: {c: {maxProperties: 1}}}`, `{"a":1,"c":1}`, "body_invalid\n/body lacks the member \"b\"\n/body has more than 1 members"},
		{`{allOf: [{properties: {a: true}}], unevaluatedProperties: false}`, `{"a":1,"b":2}`, "body_invalid\n/body/b is not expected here"},
		{`{anyOf: [{required: [a], properties: {a: true}}, {properties: {b: {const: 1}}}], unevaluatedProperties: false}`, `{"a":1,"b":2}`, "body_invalid\n/body/b is not expected here"},
		{`{prefixItems: [{const: 1}], unevaluatedItems: false}`, `[1,2]`, "body_invalid\n/body/1 is not expected here"},
		{`{propertyNames: {pattern: "^[a-z]+$"}}`, `{"A":1}`, "body_invalid\n/body has a member \"A\", whose name is not taken"},
		{`{contains: {const: 1}, maxContains: 1}`, `[1,1]`, "body_invalid\n/body has more than 1 elements of one kind"},
		{`{contains: {const: 1}}`, `[2]`, "body_invalid\n/body has fewer than 1 elements of one kind"},
		{`{$ref: "#/$defs/tree", $defs: {tree: {properties: {left: {$ref: "#/$defs/tree"}, value: {type: integer}}, additionalProperties: false}}}`,
			`{"left":{"left":{"value":"x"}}}`, "body_invalid\n/body/left/left/value is string, not integer"},
		{`{$schema: "http://json-schema.org/draft-07/schema#", items: [{type: string}], additionalItems: false}`, `["a",1]`, "body_invalid\n/body has more than 1 elements"},
		{`{$schema: "http://json-schema.org/draft-04/schema#", minimum: 1, exclusiveMinimum: true}`, `1`, "body_invalid\n/body is not more than 1"},
		{`{$schema: "http://json-schema.org/draft-07/schema#", dependencies: {a: [b], c: {required: [d]}}}`, `{"a":1,"c":1}`, "*"},
		{`{$id: "https://shop.example/order.json", $ref: "#item", $defs: {i: {$anchor: item, type: string}}}`, `1`, "body_invalid\n/body is number, not string"},
		{`false`, `1`, "body_invalid\n/body is not expected here"},
		{`true`, `{"a":1,"a":1}`, "body_invalid\n/body is not JSON that is taken: at byte 7: the member \"a\" is there twice"},
		{`{items: {type: string}}`, `[` + strings.Repeat("1,", 1000) + `1]`, "*"},
	} {
		if got := judge(t, c.schema, c.body); got != c.problems && (c.problems != "*" || got == "") {
			t.Errorf("%s of %.80s:\n%s\nwant\n%s", c.body, c.schema, got, c.problems)
		}
	}
}

// No more is told than anybody reads.
func TestProblemsAreBounded(t *testing.T) {
	got := strings.Split(judge(t, `{items: {type: string}}`, `[`+strings.Repeat("1,", 1000)+`1]`), "\n")
	if len(got) != 1+schema.MaxProblems {
		t.Errorf("%d lines", len(got))
	}
	name := strings.Repeat("x", 10_000)
	if got := judge(t, `{additionalProperties: false}`, `{"`+name+`":1}`); len(got) > 400 {
		t.Errorf("a problem of %d bytes", len(got))
	}
}

func TestSchemasThatAreRefused(t *testing.T) {
	deep := strings.Repeat(`{"not":`, 70) + "{}" + strings.Repeat("}", 70)
	for _, c := range []struct{ schema, problem string }{
		{`{a`, "line 1: is not YAML: did not find expected ',' or '}'"},
		{`{"type": "object",}`, "line 1: is not JSON: the name of a member is expected"},
		{"{\n\"a\": 1,\n\"a\": 2}", `line 3: is not JSON: the member "a" is there twice`},
		{"type: object\ntype: string", `line 2: the member "type" is there twice`},
		{"a: &x 1\nb: *x", "line 1: anchors and aliases are not taken: say it where it is meant, or refer to it"},
		{"a: !!str 1", "line 1: tags are not taken"},
		{"a: 1\n---\nb: 2", "is not YAML: holds more than one document"},
		{deep, "line 1: is not JSON: values are nested deeper than 64"},
		{`{type: strin}`, "/type: value must be one of 'array', 'boolean', 'integer', 'null', 'number', 'object', 'string'"},
		{`{properties: {a: {minLength: -1}}}`, "/properties/a/minLength: minimum: got -1, want 0"},
		{`{properties: {a: {pattern: "(?=x)"}}}`, "/properties/a/pattern: '(?=x)' is not valid regex: error parsing regexp: invalid or unsupported Perl syntax: `(?=`"},
		{`{pattern: "(a{1000}){1000}"}`, "*"},
		{`{pattern: "((a{100}){10}){9}b{0,999}c{0,999}d{0,999}e{0,999}"}`, "*"},
		{`{pattern: "` + strings.Repeat("a", 1025) + `"}`, "*"},
		{`{$ref: "https://elsewhere.example/schema.json"}`, `refers to "https://elsewhere.example/schema.json": all of a document has to be in it`},
		{`{$ref: "file:///etc/passwd"}`, `refers to "file:///etc/passwd": all of a document has to be in it`},
		{`{$ref: "other.json"}`, `refers to "sallyport:///other.json": all of a document has to be in it`},
		{`{$schema: "https://elsewhere.example/meta.json"}`, "*"},
		{`{$ref: "#/$defs/gone"}`, "*"},
		{`{$ref: "#"}`, "refers to itself, for one and the same value"},
		{`{allOf: [{$ref: "#/$defs/a"}], $defs: {a: {anyOf: [{$ref: "#/$defs/b"}]}, b: {not: {$ref: "#/$defs/a"}}}}`, "/$defs/a: refers to itself, for one and the same value"},
		{`{$dynamicRef: "#x", $dynamicAnchor: x}`, "*"},
	} {
		_, err := schema.Compile(schema.Source{JSONSchema: c.schema})
		if got := text(err); got != c.problem && (c.problem != "*" || err == nil) {
			t.Errorf("%.80s\n%s\nwant\n%s", c.schema, got, c.problem)
		}
	}
}

// The verdict is that of the library's own evaluator, whatever the schema and the
// value.
func TestVerdictsAreThoseOfTheLibrary(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		document, err := json.Marshal(schemas(3).Draw(t, "schema"))
		if err != nil {
			t.Fatal(err)
		}
		value, err := json.Marshal(values(3).Draw(t, "value"))
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs, err := schema.Judged(string(document), string(value))
		if err == nil && ours != theirs {
			t.Fatalf("%s of %s: we say %v, the library %v", value, document, ours, theirs)
		}
	})
}

var memberNames = []string{"a", "b", "c"}

func values(depth int) *rapid.Generator[any] {
	scalars := []*rapid.Generator[any]{
		rapid.SampledFrom([]any{nil, true, false, 0, 1, 2, 1.5, -3, "", "a", "ab", "2026-11-26"}),
	}
	if depth == 0 {
		return scalars[0]
	}
	return rapid.OneOf(scalars[0],
		rapid.Map(rapid.SliceOfN(values(depth-1), 0, 3), func(l []any) any { return l }),
		rapid.Map(rapid.MapOfN(rapid.SampledFrom(memberNames), values(depth-1), 0, 3), func(m map[string]any) any { return m }))
}

func schemas(depth int) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		s := map[string]any{}
		if depth == 3 {
			draft := rapid.SampledFrom([]string{
				"", "", "http://json-schema.org/draft-04/schema#", "http://json-schema.org/draft-06/schema#",
				"http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2019-09/schema",
			}).Draw(t, "draft")
			if draft != "" {
				s["$schema"] = draft
			}
			for _, keyword := range []string{"$defs", "definitions"} {
				s[keyword] = map[string]any{"x": schemas(1).Draw(t, "definition")}
			}
		}
		for range rapid.IntRange(1, 3).Draw(t, "keywords") {
			keyword(t, s, depth)
		}
		return s
	})
}

// keyword draws one keyword and what it says.
func keyword(t *rapid.T, s map[string]any, depth int) {
	few := func() int { return rapid.IntRange(0, 2).Draw(t, "count") }
	list := rapid.SliceOfN(rapid.SampledFrom(memberNames), 1, 2)
	type way func() any
	plain := map[string]way{
		"type": func() any {
			return rapid.SampledFrom([]any{"string", "number", "integer", "object", "array", "null", []string{"string", "object"}}).Draw(t, "type")
		},
		"enum":  func() any { return rapid.SliceOfN(values(1), 1, 3).Draw(t, "enum") },
		"const": func() any { return values(1).Draw(t, "const") },
		"required": func() any {
			return rapid.SliceOfNDistinct(rapid.SampledFrom(memberNames), 1, 2, rapid.ID[string]).Draw(t, "required")
		},
		"minLength": func() any { return few() }, "maxLength": func() any { return few() }, "minItems": func() any { return few() },
		"maxItems": func() any { return few() }, "minProperties": func() any { return few() }, "maxProperties": func() any { return few() },
		"minimum": func() any { return few() }, "maximum": func() any { return few() }, "multipleOf": func() any { return 1 + few() },
		"uniqueItems": func() any { return true }, "minContains": func() any { return few() }, "maxContains": func() any { return few() },
		"pattern":           func() any { return rapid.SampledFrom([]string{"^a", "b$", "^[0-9-]+$"}).Draw(t, "pattern") },
		"format":            func() any { return rapid.SampledFrom([]string{"date", "int32"}).Draw(t, "format") },
		"dependentRequired": func() any { return map[string]any{"a": list.Draw(t, "required")} },
		"$ref":              func() any { return rapid.SampledFrom([]string{"#/$defs/x", "#/definitions/x"}).Draw(t, "ref") },
	}
	nested := map[string]way{}
	if depth > 0 {
		one := func() any {
			if rapid.IntRange(0, 5).Draw(t, "boolean") == 0 {
				return rapid.Bool().Draw(t, "schema")
			}
			return schemas(depth-1).Draw(t, "schema")
		}
		some := func() any {
			all := []any{}
			for range rapid.IntRange(1, 3).Draw(t, "schemas") {
				all = append(all, one())
			}
			return all
		}
		named := func(names ...string) way {
			return func() any { return map[string]any{rapid.SampledFrom(names).Draw(t, "name"): one()} }
		}
		for _, k := range []string{
			"items", "additionalItems", "contains", "not", "if", "then", "else", "additionalProperties", "propertyNames",
			"unevaluatedProperties", "unevaluatedItems",
		} {
			nested[k] = one
		}
		for _, k := range []string{"allOf", "anyOf", "oneOf", "prefixItems"} {
			nested[k] = some
		}
		nested["properties"], nested["patternProperties"] = named(memberNames...), named("^a", "b")
		nested["dependentSchemas"], nested["dependencies"] = named(memberNames...), named(memberNames...)
	}
	all := slices.Sorted(maps.Keys(plain))
	for range 2 { // which are more often what goes wrong
		all = append(all, slices.Sorted(maps.Keys(nested))...)
	}
	k := rapid.SampledFrom(all).Draw(t, "keyword")
	if w, ok := nested[k]; ok {
		s[k] = w()
		return
	}
	s[k] = plain[k]()
}
