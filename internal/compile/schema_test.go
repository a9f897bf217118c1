package compile_test

import (
	"fmt"
	"testing"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/schema"
)

func validating(validation, document string) string {
	return fleet + "---\n{apiVersion: sallyport/v1, kind: Route, metadata: {namespace: shop, name: compared}, spec: " +
		"{hosts: [shop.example], paths: [/compared], upstream: orders, authentication: {anonymous: true}, validation: {" + validation + "}}}\n" +
		fmt.Sprintf("---\n{apiVersion: sallyport/v1, kind: Schema, metadata: {namespace: shop, name: s}, spec: {jsonSchema: %q}}\n", document)
}

// A schema is compiled once for as long as its document stays the same, whatever
// else changes, and is in the proof of what is enforced.
func TestSchemasAreCompiledOnce(t *testing.T) {
	of := func(table *compile.Table) *compile.Validation {
		return table.Route(policy.RouteID{Namespace: "shop", Name: "compared"}).Validation
	}
	first := compile.Compile(nil, snap(t, 1, documents(t, validating("schema: s", "type: object"))))
	checkRoot(t, first)
	if v := of(first); v.Report || v.MaxBody != 1<<20 || v.Options != (schema.Options{}) {
		t.Errorf("what is left out is %+v", v)
	}
	second := compile.Compile(first, snap(t, 2, documents(t, validating("schema: s, mode: REPORT, maxBodyBytes: 7, allowUnknownOperations: true, allowUnknownParameters: true", "type: object"))))
	checkRoot(t, second)
	want := compile.Validation{Schema: of(first).Schema, Report: true, MaxBody: 7, Options: schema.Options{UnknownOperations: true, UnknownParameters: true}}
	if v := of(second); *v != want {
		t.Errorf("validation is %+v, want %+v", v, want)
	}
	third := compile.Compile(second, snap(t, 3, documents(t, validating("schema: s", "type: array"))))
	checkRoot(t, third)
	if of(third).Schema == of(second).Schema {
		t.Error("another document is the same schema")
	}
}

// Without the schema that it names a route denies.
func TestSchemasThatAreNotThereDeny(t *testing.T) {
	for name, c := range map[string]struct{ text, rejected string }{
		"none of that name": {validating("schema: other", "type: object"), "Route/shop/compared: refers to Schema/shop/other, which is not there"},
		"no schema":         {validating("schema: s", "type: objekt"), "Schema/shop/s: /type: value must be one of 'array', 'boolean', 'integer', 'null', 'number', 'object', 'string'"},
	} {
		table := compile.Compile(nil, snap(t, 1, documents(t, c.text)))
		checkRoot(t, table)
		if got := table.Rejects(); len(got) != 1 || got[0].String() != c.rejected {
			t.Errorf("%s: rejected are %v", name, got)
		}
		if got := req("GET shop.example /compared -").answer(table); got != "unavailable" {
			t.Errorf("%s: a request is %s", name, got)
		}
	}
}
