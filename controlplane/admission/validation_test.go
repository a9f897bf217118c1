package admission_test

import "testing"

// A route has requests compared with a schema that is there, wherever the route is,
// and that proxies can compile.
func TestSchemas(t *testing.T) {
	const fleet = shop + `
		Schema shop/order {jsonSchema: "type: object"}
		Schema shop/aws-only {environments: [aws], openapi: "openapi: 3.1.0"}
		Route shop/v {hosts: [v.example], upstream: orders, authentication: {anonymous: true}, validation: {schema: order}}
	`
	for name, c := range map[string]struct{ apply, want string }{
		"that is not there": {
			`Route shop/v {hosts: [v.example], upstream: orders, authentication: {anonymous: true}, validation: {schema: gone}}`,
			`0 Route/shop/v spec.validation.schema: dangling_reference: there is no Schema/shop/gone`,
		},
		"that is not everywhere": {
			`Route shop/v {hosts: [v.example], upstream: orders, authentication: {anonymous: true}, validation: {schema: aws-only}}`,
			`0 Route/shop/v spec.validation.schema: not_everywhere: Schema/shop/aws-only is not in every environment that this is in`,
		},
		"that leaves": {
			`Schema shop/order {environments: [aws], jsonSchema: "type: object"}`,
			`-1 Route/shop/v spec.validation.schema: not_everywhere: Schema/shop/order is not in every environment that this is in`,
		},
		"that is none": {
			`Schema shop/order {jsonSchema: "type: objekt"}`,
			`0 Schema/shop/order spec.jsonSchema: invalid_value: /type: value must be one of 'array', 'boolean', 'integer', 'null', 'number', 'object', 'string'`,
		},
		"that is no text of YAML": {
			`Schema shop/order {openapi: "openapi: 3.1.0\npaths: {}\npaths: {}"}`,
			`0 Schema/shop/order spec.openapi 3:1: invalid_value: the member "paths" is there twice`,
		},
		"with two documents, and with none": {
			`Schema shop/a {openapi: "openapi: 3.1.0", jsonSchema: "true"}
			 Schema shop/b {}
			 Schema shop/c {jsonSchema: "true", basePath: /v1}
			 Schema shop/d {openapi: "openapi: 3.1.0", basePath: v1/}`,
			`0 Schema/shop/a spec.openapi: conflicting_fields: give it or jsonSchema, not both
			 1 Schema/shop/b spec: required: give one of openapi, jsonSchema
			 2 Schema/shop/c spec.basePath: invalid_value: is of openapi
			 3 Schema/shop/d spec.basePath: invalid_value: ends in a slash: leave it out`,
		},
		"that changes": {`Schema shop/order {openapi: "openapi: 3.0.0", basePath: /v1}`, ""},
	} {
		_, problems := newFleet(t, fleet).apply(t, c.apply)
		if texts(problems) != "" || c.want != "" {
			t.Log(name)
			same(t, texts(problems), c.want)
		}
	}
	_, problems := newFleet(t, fleet).delete(t, "Schema shop/order")
	same(t, texts(problems), `0 Schema/shop/order : still_referenced: Route/shop/v refers to it (spec.validation.schema)`)
}
