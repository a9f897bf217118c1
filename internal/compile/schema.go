package compile

import (
	"errors"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/schema"
	"github.com/sallyport/sallyport/internal/snapshot"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// defaultMaxBody is that of routes that do not say how large a body may be that is
// compared with a schema.
const defaultMaxBody = 1 << 20

// Schema is a Schema that is enforced. Tables share it, compiled once, while its
// document stays the same.
type Schema struct {
	Key    resource.Key
	Digest snapshot.Digest
	Schema *schema.Schema

	document *document
}

// Validation is what a route's requests are compared with, and how.
type Validation struct {
	Schema  *schema.Schema
	Options schema.Options
	Report  bool // what differs is told and let through
	MaxBody int  // bytes of a body that is compared
}

func sourceOf(spec *resourcev1.Schema) schema.Source {
	return schema.Source{OpenAPI: spec.GetOpenapi(), JSONSchema: spec.GetJsonSchema(), BasePath: spec.GetBasePath()}
}

func newSchema(d *document, spec *resourcev1.Schema) (*Schema, error) {
	s, err := schema.Compile(sourceOf(spec))
	if err != nil {
		return nil, err
	}
	return &Schema{Key: d.entry.Key, Digest: d.entry.Digest, Schema: s, document: d}, nil
}

// DocumentOf says what is wrong with the document of a Schema that package resource
// has accepted, each problem with its line, or with the JSON pointer of its place.
func DocumentOf(key resource.Key, spec *resourcev1.Schema) []resource.Problem {
	_, err := schema.Compile(sourceOf(spec))
	var wrong *schema.Error
	if !errors.As(err, &wrong) {
		return nil
	}
	field := "spec.jsonSchema"
	if spec.GetOpenapi() != "" {
		field = "spec.openapi"
	}
	var problems []resource.Problem
	for _, p := range wrong.Problems {
		problem := resource.Problem{Resource: key.String(), Field: field, Reason: resource.ReasonInvalidValue, Message: p.Detail}
		if p.Pointer != "" {
			problem.Message = p.Pointer + ": " + p.Detail
		}
		if p.Line > 0 {
			problem.Line, problem.Column = p.Line, 1
		}
		problems = append(problems, problem)
	}
	return problems
}

// validates resolves what a route's requests are compared with.
func (t *Table) validates(r *Route, spec *resourcev1.Validation) {
	if spec == nil {
		return
	}
	d := t.referred(r, resource.KindSchema, spec.GetSchema())
	if d == nil {
		return
	}
	r.Validation = &Validation{
		Schema: d.schema.Schema,
		Options: schema.Options{
			UnknownOperations: spec.GetAllowUnknownOperations(), UnknownParameters: spec.GetAllowUnknownParameters(),
		},
		Report:  spec.GetMode() == resourcev1.ValidationMode_VALIDATION_MODE_REPORT,
		MaxBody: defaultMaxBody,
	}
	if most := spec.GetMaxBodyBytes(); most > 0 {
		r.Validation.MaxBody = int(most)
	}
}
