package schema_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/schema"
)

// shop30 and shop31 say the same in the words of two versions.
const shop = `
info: {title: Shop, version: "1"}
servers:
  - url: https://{region}.shop.example/{base}
    variables: {region: {default: eu}, base: {default: v1}}
paths:
  /orders:
    get:
      parameters:
        - {name: limit, in: query, schema: {type: integer, minimum: 1, maximum: 100}}
        - {name: state, in: query, schema: {type: array, items: {enum: [open, sent]}}}
        - {name: ids, in: query, explode: false, schema: {type: array, items: {type: integer}, maxItems: 3}}
        - {name: filter, in: query, style: deepObject, schema: {type: object, properties: {min: {type: number}, gift: {type: boolean}}, additionalProperties: false}}
        - {name: X-Trace, in: header, schema: {type: string, format: uuid}}
        - {name: session, in: cookie, required: true, schema: {type: string, minLength: 4}}
        - {name: q, in: query, content: {application/json: {schema: {type: object, required: [text]}}}}
      responses: {}
    post:
      requestBody: {$ref: '#/components/requestBodies/Order'}
      responses: {}
  /orders/{id}:
    parameters:
      - {$ref: '#/components/parameters/id'}
    get: {responses: {}}
    put:
      parameters: [{name: id, in: path, required: true, schema: {type: string, pattern: "^new$"}}]
      requestBody: {content: {application/merge-patch+json: {schema: {}}, text/*: {}, application/x-www-form-urlencoded: {schema: {$ref: '#/components/schemas/Form'}}}}
      responses: {}
  /orders/latest: {get: {responses: {}}}
  /reports/{name}.{format}:
    get:
      parameters:
        - {name: name, in: path, required: true, schema: {type: string}}
        - {name: format, in: path, required: true, schema: {enum: [csv, pdf]}}
      responses: {}
components:
  parameters:
    id: {name: id, in: path, required: true, schema: {type: integer, format: int32}}
  requestBodies:
    Order: {required: true, content: {application/json: {schema: {$ref: '#/components/schemas/Order'}}}}
  schemas:
    Form: {type: object, required: [name], properties: {name: {type: string}, count: {type: integer}, tags: {type: array, items: {type: string, maxLength: 3}}}, additionalProperties: false}
    Id: {type: integer, readOnly: true}
    Order:
      type: object
      required: [id, number, items]
      properties:
        id: {$ref: '#/components/schemas/Id'}
        number: {type: string, readOnly: true}
        note: NOTE
        total: TOTAL
        items: {type: array, minItems: 1, items: {$ref: '#/components/schemas/Item'}}
    Item:
      type: object
      required: [sku]
      properties:
        sku: {type: string}
        parts: {type: array, items: {$ref: '#/components/schemas/Item'}}
      additionalProperties: false
`

var versions = map[string]string{
	"3.0": "openapi: 3.0.3" + strings.NewReplacer("NOTE", "{type: string, nullable: true}", "TOTAL", "{type: number, minimum: 0, exclusiveMinimum: true}").Replace(shop),
	"3.1": "openapi: 3.1.0" + strings.NewReplacer("NOTE", "{type: [string, 'null']}", "TOTAL", "{type: number, exclusiveMinimum: 0}").Replace(shop),
}

// ask judges "METHOD TARGET" with lines of a header, and behind an empty line a body.
func ask(s *schema.Schema, text string, o schema.Options) schema.Findings {
	head, body, hasBody := strings.Cut(text, "\n\n")
	fields := strings.Split(head, "\n")
	method, target, _ := strings.Cut(fields[0], " ")
	r := schema.Request{Method: method, Header: http.Header{}, HasBody: hasBody}
	r.Path, r.RawQuery, _ = strings.Cut(target, "?")
	for _, field := range fields[1:] {
		name, value, _ := strings.Cut(field, ": ")
		http.Header(r.Header).Add(name, value)
	}
	f, b := s.Head(&r, o)
	if b == nil {
		return f
	}
	return b.Judge([]byte(body))
}

func TestRequestsByOpenAPI(t *testing.T) {
	const list, json = "\nCookie: a=b; session=abcd", "\nContent-Type: application/json\n\n"
	for _, c := range []struct{ request, findings string }{
		{"GET /v1/orders" + list, ""},
		{"HEAD /v1/orders" + list, ""},
		{"GET /v1/orders?limit=10&state=open&state=sent&ids=1,2,3&filter[min]=1.5&filter[gift]=true" + list, ""},
		{"GET /v1/orders?limit=0" + list, "parameters_invalid\n/query/limit is less than 1"},
		{"GET /v1/orders?limit=ten" + list, "parameters_invalid\n/query/limit is string, not integer"},
		{"GET /v1/orders?limit=1&limit=2" + list, "parameters_invalid\n/query/limit is there more than once"},
		{"GET /v1/orders?state=lost" + list, "parameters_invalid\n/query/state/0 is none of the values that are taken"},
		{"GET /v1/orders?ids=1,x" + list, "parameters_invalid\n/query/ids/1 is string, not integer"},
		{"GET /v1/orders?ids=1%2C2%2C3%2C4" + list, "parameters_invalid\n/query/ids has more than 3 elements"},
		{"GET /v1/orders?filter[max]=1" + list, "parameters_invalid\n/query/filter/max is no member that is known here"},
		{"GET /v1/orders?filter[min]=1&filter[min]=2" + list, "parameters_invalid\n/query/filter has a member twice"},
		{"GET /v1/orders?q=%7B%22text%22%3A1%7D" + list, ""},
		{"GET /v1/orders?q=%7B%7D" + list, "parameters_invalid\n/query/q lacks the member \"text\""},
		{"GET /v1/orders?q=text" + list, "parameters_invalid\n/query/q is not JSON"},
		{"GET /v1/orders?debug=1" + list, "parameters_invalid\n/query/debug is no parameter of the operation"},
		{"GET /v1/orders", "parameters_invalid\n/cookie/session is missing"},
		{"GET /v1/orders\nCookie: session=abc", "parameters_invalid\n/cookie/session is shorter than 4"},
		{"GET /v1/orders" + list + "\nX-Trace: 1", "parameters_invalid\n/header/X-Trace is not of the format uuid"},
		{"GET /v1/orders" + list + json + "{}", "body_invalid\n/body is not taken by the operation"},
		{"GET /v1/orders/7", ""},
		{"GET /v1/orders/latest", ""},
		{"GET /v1/orders/x", "parameters_invalid\n/path/id is string, not integer"},
		{"GET /v1/orders/2147483648", "parameters_invalid\n/path/id is not of the format int32"},
		{"GET /v1/orders/%37", ""},
		{"PUT /v1/orders/new", ""},
		{"PUT /v1/orders/7", "parameters_invalid\n/path/id does not match the pattern"},
		{"GET /v1/orders/", "operation_unknown\nis no operation of the document"},
		{"GET /v1/orders/7/x", "operation_unknown\nis no operation of the document"},
		{"GET /orders", "operation_unknown\nis no operation of the document"},
		{"GET /v1", "operation_unknown\nis no operation of the document"},
		{"GET /v10/orders", "operation_unknown\nis no operation of the document"},
		{"DELETE /v1/orders/7", "operation_unknown\nis no operation of the document"},
		{"GET /v1/reports/2026-11.csv", ""},
		{"GET /v1/reports/2026.doc", "parameters_invalid\n/path/format is none of the values that are taken"},
		{"GET /v1/reports/a%2Fb.csv", ""}, // a slash within a segment, of a route that keeps it
		{"GET /v1/reports/a%2Fb%2Fc.doc", "parameters_invalid\n/path/format is none of the values that are taken"},
		{"GET /v1/orders%2Flatest" + list, "operation_unknown\nis no operation of the document"},
		{"GET /v1%2Forders" + list, "operation_unknown\nis no operation of the document"},
		{"GET /v1/reports/.csv", "operation_unknown\nis no operation of the document"},
		{"POST /v1/orders" + json + `{"items":[{"sku":"a","parts":[{"sku":"b"}]}],"note":null,"total":0.5}`, ""},
		{"POST /v1/orders" + json + `{"items":[{"sku":"a","parts":[{"sku":1,"x":2}]}]}`,
			"body_invalid\n/body/items/0/parts/0/sku is number, not string\n/body/items/0/parts/0/x is no member that is known here"},
		{"POST /v1/orders" + json + `{"items":[]}`, "body_invalid\n/body/items has fewer than 1 elements"},
		{"POST /v1/orders" + json + `{"items":[{"sku":"a"}],"total":0}`, "body_invalid\n/body/total is not more than 0"},
		{"POST /v1/orders" + json + `{"items":[{"sku":"a"}],"items":[]}`, "body_invalid\n/body is not JSON that is taken: at byte 23: the member \"items\" is there twice"},
		{"POST /v1/orders", "body_invalid\n/body is missing"},
		{"POST /v1/orders\n\n{}", "media_type_unsupported\n/header/Content-Type is missing"},
		{"POST /v1/orders\nContent-Type: text/plain\n\n{}", "media_type_unsupported\n/header/Content-Type is none of the media types that are taken"},
		{"POST /v1/orders\nContent-Type: application/json; charset=utf-16\n\n{}", "media_type_unsupported\n/header/Content-Type has another charset than UTF-8, which JSON is in"},
		{"POST /v1/orders\nContent-Encoding: gzip" + json + "{}", "content_encoding_unsupported\n/header/Content-Encoding is not identity: what is in the body cannot be seen"},
		{"PUT /v1/orders/new\nContent-Type: text/csv\nContent-Encoding: gzip\n\nwhat is said of it is its type", ""},
		{"PUT /v1/orders/new\nContent-Type: application/merge-patch+json\n\n{", "body_invalid\n/body is not JSON that is taken: at byte 1: the name of a member is expected"},
		{"PUT /v1/orders/new\nContent-Type: application/x-www-form-urlencoded\n\nname=12&count=3&tags=a&tags=b", ""},
		{"PUT /v1/orders/new\nContent-Type: application/x-www-form-urlencoded\n\ncount=x&tags=long&y=1", "body_invalid\n/body lacks the member \"name\"\n/body/count is string, not integer\n/body/tags/0 is longer than 3\n/body/y is no member that is known here"},
		{"PUT /v1/orders/new\nContent-Type: application/x-www-form-urlencoded\n\nname=a&name=b", "body_invalid\n/body has a field twice that is no list"},
	} {
		for version, document := range versions {
			s, err := schema.Compile(schema.Source{OpenAPI: document})
			if err != nil {
				t.Fatalf("%s: %v", version, err)
			}
			if got := lines(ask(s, c.request, schema.Options{})); got != c.findings {
				t.Errorf("%s: %s\n%s\nwant\n%s", version, c.request, got, c.findings)
			}
		}
	}
}

func TestWhatARouteTakesThatTheDocumentDoesNotHave(t *testing.T) {
	s, err := schema.Compile(schema.Source{OpenAPI: versions["3.1"], BasePath: "/api/shop"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		request  string
		options  schema.Options
		findings string
	}{
		{"GET /api/shop/orders/7", schema.Options{}, ""},
		{"GET /v1/orders/7", schema.Options{}, "operation_unknown\nis no operation of the document"},
		{"GET /v1/orders/7", schema.Options{UnknownOperations: true}, ""},
		{"GET /api/shop/orders/7?debug", schema.Options{UnknownOperations: true}, "parameters_invalid\n/query/debug is no parameter of the operation"},
		{"GET /api/shop/orders/7?debug", schema.Options{UnknownParameters: true}, ""},
		{"GET /api/shop/orders/x?debug", schema.Options{UnknownParameters: true}, "parameters_invalid\n/path/id is string, not integer"},
	} {
		if got := lines(ask(s, c.request, c.options)); got != c.findings {
			t.Errorf("%s with %v:\n%s\nwant\n%s", c.request, c.options, got, c.findings)
		}
	}
}

func TestOpenAPIDocumentsThatAreRefused(t *testing.T) {
	const head = "openapi: 3.1.0\npaths:\n"
	for _, c := range []struct{ document, problem string }{
		{"swagger: '2.0'", "/openapi: is neither 3.0.x nor 3.1.x"},
		{"openapi: 3.2.0", "/openapi: is neither 3.0.x nor 3.1.x"},
		{"- a", "/openapi: is neither 3.0.x nor 3.1.x"},
		{"openapi: 3.1.0\njsonSchemaDialect: https://elsewhere.example/x", "/jsonSchemaDialect: is not that of OpenAPI 3.1 or of JSON Schema 2020-12"},
		{head + "  orders: {}", "/paths/orders: does not begin with a slash"},
		{head + "  /a/{x}: {}\n  /a/{y}: {}", `/paths/~1a~1{y}: matches the same paths as "/a/{x}"`},
		{head + "  /a/{x: {}", `*`},
		{head + "  '/a/{x': {}", `/paths/~1a~1{x: has a brace that nothing closes, in "{x"`},
		{head + "  '/a/x}': {}", `/paths/~1a~1x}: has a brace that nothing opens, in "x}"`},
		{head + "  '/a/{x}{y}': {}", `/paths/~1a~1{x}{y}: has two names side by side, in "{x}{y}"`},
		{head + "  '/a/{x}': {get: {}}", `/paths/~1a~1{x}/get: has no parameter "x", which is in its path`},
		{head + "  /a: {get: {parameters: [{name: x, in: body}]}}", "/paths/~1a/get/parameters/0/in: is none of path, query, header and cookie"},
		{head + "  /a: {get: {parameters: [{in: query}]}}", "/paths/~1a/get/parameters/0/name: is missing"},
		{head + "  '/{a}': {get: {parameters: [{name: a, in: path, style: matrix}]}}", "/paths/~1{a}/get/parameters/0/style: is none of simple"},
		{head + "  /a: {get: {parameters: [{$ref: 'other.yaml#/x'}]}}", `/paths/~1a/get/parameters/0/$ref: is no place of this document, as in "#/components/schemas/Pet"`},
		{head + "  /a: {get: {parameters: [{$ref: '#/gone'}]}}", "/gone: is no object"},
		{head + "  /a: {$ref: '#/paths/~1b'}\n  /b: {$ref: '#/paths/~1a'}", "*"},
		{head + "  /a: {post: {requestBody: {content: {json: {}}}}}", "/paths/~1a/post/requestBody/content/json: is no media type"},
		{head + "  /a: {post: {requestBody: {content: {application/json: {schema: {$ref: 'https://elsewhere.example/a.json'}}}}}}",
			`/paths/~1a/post/requestBody/content/application~1json/schema/$ref: is no place of this document, as in "#/components/schemas/Pet"`},
		{head + "  /a: {post: {requestBody: {content: {application/json: {schema: {$ref: '#/components/schemas/gone'}}}}}}",
			"/paths/~1a/post/requestBody/content/application~1json/schema/$ref: leads nowhere"},
		{head + "  /a: {post: {requestBody: {content: {application/json: {schema: {properties: {b: {type: strin}}}}}}}}",
			"/paths/~1a/post/requestBody/content/application~1json/schema/properties/b/type: value must be one of 'array', 'boolean', 'integer', 'null', 'number', 'object', 'string'"},
		{head + "  /a: {post: {requestBody: {content: {application/json: {schema: {pattern: '(?!x)'}}}}}}",
			"/paths/~1a/post/requestBody/content/application~1json/schema/pattern: '(?!x)' is not valid regex: error parsing regexp: invalid or unsupported Perl syntax: `(?!`"},
		{head + "  /a: {post: {requestBody: {content: {application/json: {schema: {$id: x}}}}}}",
			"/paths/~1a/post/requestBody/content/application~1json/schema/$id: is not taken: refer to places of the document, as in #/components/schemas/Pet"},
		{head + "  /a: {post: {requestBody: {content: {application/json: {schema: {$ref: '#/components/schemas/A'}}}}}}\ncomponents: {schemas: {A: {allOf: [{$ref: '#/components/schemas/A'}]}}}",
			"/components/schemas/A: refers to itself, for one and the same value"},
	} {
		_, err := schema.Compile(schema.Source{OpenAPI: c.document})
		if got := text(err); got != c.problem && (c.problem != "*" || err == nil) {
			t.Errorf("%s\n%s\nwant\n%s", c.document, got, c.problem)
		}
	}
}
