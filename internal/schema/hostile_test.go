package schema_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/schema"
)

// whatIsSlow is far more than any of these takes, and far less than it took without
// bounds.
const whatIsSlow = 20 * time.Second

// Schemas of which each level doubles the work of the one before, and bodies that make
// the most of it.
func TestWorkIsBounded(t *testing.T) {
	ladder := func(keyword string) string {
		var b strings.Builder
		fmt.Fprintf(&b, `{"$ref":"#/$defs/s0","$defs":{`)
		for i := range 60 {
			fmt.Fprintf(&b, `"s%d":{%q:[{"$ref":"#/$defs/s%d"},{"$ref":"#/$defs/s%d"}]},`, i, keyword, i+1, i+1)
		}
		return b.String() + `"s60":{"type":"string"}}}`
	}
	nested := strings.Repeat(`{"a":`, 60) + "1" + strings.Repeat("}", 60)
	for name, c := range map[string]struct{ schema, body, findings string }{
		"allOf of allOf":       {ladder("allOf"), `"x"`, "body_too_complex"},
		"anyOf of anyOf":       {ladder("anyOf"), `1`, "body_too_complex"},
		"oneOf of oneOf":       {ladder("oneOf"), `1`, "body_too_complex"},
		"two ways into itself": {`{"properties":{"a":{"allOf":[{"$ref":"#"},{"$ref":"#"}]}}}`, nested, "body_too_complex"},
		"alternatives":         {`{"anyOf":[{"properties":{"a":{"$ref":"#"}},"required":["x"]},{"properties":{"a":{"$ref":"#"}},"required":["y"]}]}`, nested, "body_invalid"},
		"enum of many":         {`{"items":{"enum":[` + strings.Repeat(`"x",`, 5000) + `"y"]}}`, "[" + strings.Repeat(`"z",`, 50_000) + `"z"]`, "body_invalid"},
		"enum that fits last":  {`{"items":{"enum":[` + strings.Repeat(`"x",`, 5000) + `"y"]}}`, "[" + strings.Repeat(`"y",`, 50_000) + `"y"]`, "body_too_complex"},
		"pattern and text":     {`{"pattern":"(.{0,30}a){30}$"}`, `"` + strings.Repeat("a", 1<<20) + `b"`, "body_too_complex"},
		"patterns and names":   {`{"patternProperties":{"(.{0,30}a){30}$":true,"(.{0,30}b){30}$":true}}`, "{" + strings.Join(manyNames(20_000), ":1,") + ":1}", "body_too_complex"},
		"unique elements":      {`{"uniqueItems":true,"items":{"uniqueItems":true}}`, "[" + strings.Join(manyLists(50_000), ",") + "]", ""},
		"numbers":              {`{"items":{"multipleOf":0.0000001}}`, "[" + strings.Repeat("1e400,", 2000) + "1e-400]", "body_invalid"},
		"wrong elements":       {`{"items":{"type":"string"}}`, "[" + strings.Repeat("1,", 150_000) + "1]", "body_invalid"},
		"objects":              {`{"items":{"type":"object"}}`, "[" + strings.Repeat("{},", 5_000_000) + "{}]", "body_invalid"},
		"names":                {`{"required":["x"]}`, "{" + strings.Join(manyNames(100_000), ":1,") + ":1}", "body_invalid"},
	} {
		began := time.Now()
		got, _, _ := strings.Cut(judge(t, c.schema, c.body), "\n")
		took := time.Since(began)
		if got != c.findings {
			t.Errorf("%s: %s, want %s", name, got, c.findings)
		}
		t.Logf("%s took %v", name, took)
		if took > whatIsSlow {
			t.Errorf("%s took %v", name, took)
		}
	}
}

func manyNames(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(`"member-%d-%s"`, i, strings.Repeat("a", 20))
	}
	return all
}

func manyLists(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(`[%d,"%d"]`, i, i)
	}
	return all
}

// Documents are compiled in a time that goes with their size.
func TestDocumentsAreBounded(t *testing.T) {
	var many strings.Builder
	many.WriteString("openapi: 3.0.0\npaths:\n")
	for i := range 1500 {
		fmt.Fprintf(&many, "  /a%d: {post: {requestBody: {content: {application/json: {schema: {$ref: '#/components/schemas/s%d'}}}}}}\n", i, i)
	}
	many.WriteString("components:\n  schemas:\n")
	for i := range 1500 {
		fmt.Fprintf(&many, "    s%d: {properties: {next: {$ref: '#/components/schemas/s%d'}, other: {$ref: '#/components/schemas/s%d'}}}\n", i, (i+1)%1500, (i*7)%1500)
	}
	for name, c := range map[string]struct{ text, problem string }{
		"many operations":         {many.String(), ""},
		"many schemas":            {"openapi: 3.1.0\npaths: {/a: {post: {requestBody: {content: {application/json: {schema: {anyOf: [" + strings.Repeat("{type: string},", 20_000) + "true]}}}}}}}", "/paths/~1a/post/requestBody/content/application~1json/schema/anyOf/7999: has more than 8000 schemas"},
		"aliases of aliases":      {"a: &a [x]\nb: &b [*a, *a]\nopenapi: 3.1.0", "line 1: anchors"},
		"brackets":                {"openapi: 3.1.0\nx: " + strings.Repeat("[", 50_000), "line 2: "},
		"deep":                    {`{"openapi":"3.1.0","x":` + strings.Repeat("[", 100_000), "line 1: is not JSON: values are nested deeper than 64"},
		"a chain of references":   {chain(60_000 / 40), ""},
		"names without an end":    {`{"openapi":"3.1.0","paths":{"/` + strings.Repeat("{", 100_000) + `":{}}}`, "/paths/"},
		"references to nothing":   {"openapi: 3.1.0\npaths: {/a: {get: {parameters: [" + strings.Repeat("{$ref: '#/gone'},", 5000) + "]}}}", "/gone: is no object (and 15 more)"},
		"segments without an end": {`{"openapi":"3.1.0","paths":{"` + strings.Repeat("/{a}b", 20_000) + `":{}}}`, ""},
	} {
		began := time.Now()
		_, err := schema.Compile(schema.Source{OpenAPI: c.text})
		took := time.Since(began)
		if got := text(err); !strings.HasPrefix(got, c.problem) || c.problem == "" && err != nil {
			t.Errorf("%s: %.200s, want %s", name, got, c.problem)
		}
		t.Logf("%s took %v", name, took)
		if took > whatIsSlow {
			t.Errorf("%s took %v", name, took)
		}
	}
}

// chain is a document with references to references, each in a value of the other.
func chain(n int) string {
	var b strings.Builder
	b.WriteString("openapi: 3.1.0\npaths: {/a: {post: {requestBody: {content: {application/json: {schema: {$ref: '#/components/schemas/s0'}}}}}}}\ncomponents:\n  schemas:\n")
	for i := range n {
		fmt.Fprintf(&b, "    s%d: {allOf: [{$ref: '#/components/schemas/s%d'}]}\n", i, i+1)
	}
	fmt.Fprintf(&b, "    s%d: {}\n", n)
	return b.String()
}

// Whatever a document says, to compile it and to judge by it ends without a panic.
func FuzzOpenAPI(f *testing.F) {
	for _, document := range versions {
		f.Add(document, "POST /v1/orders\nContent-Type: application/json\n\n{\"items\":[{\"sku\":\"a\"}]}")
		f.Add(document, "GET /v1/orders?limit=1&filter[min]=2&q=%7B%7D\nCookie: session=abcd")
	}
	f.Add("openapi: 3.0.0\npaths: {/a/{b}: {get: {parameters: [{name: b, in: path, schema: {type: [x]}}]}}}", "GET /a/b")
	f.Fuzz(func(t *testing.T, document, request string) {
		s, err := schema.Compile(schema.Source{OpenAPI: document})
		if err != nil {
			return
		}
		for _, o := range []schema.Options{{}, {UnknownOperations: true, UnknownParameters: true}} {
			if got := ask(s, request, o); got.Valid() != (got.Status() == 200) || len(got.Problems) > schema.MaxProblems {
				t.Fatalf("%v", got)
			}
		}
	})
}

// The same of a JSON Schema, whose verdicts are the library's.
func FuzzJSONSchema(f *testing.F) {
	f.Add(`{"type":"object","required":["a"]}`, `{"a":1}`)
	f.Add(orderSchema, orderBody(1))
	f.Add(`{"items":{"anyOf":[{"$ref":"#"},{"pattern":"^a"}]}}`, `[["a"],1]`)
	f.Fuzz(func(t *testing.T, document, text string) {
		ours, theirs, err := schema.Judged(document, text)
		if err == nil && ours && !theirs {
			t.Fatalf("%q of %q: we let through what the library does not", text, document)
		}
	})
}
