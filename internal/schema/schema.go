package schema

import (
	"net/http"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Source is the text of a document. Exactly one of the first two is given.
type Source struct {
	// OpenAPI is a document of OpenAPI 3.0 or 3.1, in JSON or YAML.
	OpenAPI string
	// JSONSchema is one for bodies, of draft 4, 6, 7, 2019-09 or 2020-12, which is the
	// one that counts when it does not say; in JSON or YAML.
	JSONSchema string
	// BasePath is where the paths of an OpenAPI document begin in requests. When it is
	// empty, the document's own servers say it.
	BasePath string
}

// Schema is a compiled document. It is immutable and safe for concurrent use.
type Schema struct {
	// Of OpenAPI.
	bases []string
	tree  *node
	// Of JSON Schema.
	body *jsonschema.Schema
}

// Compile compiles a document. Its error is an *Error. It loads nothing: what a
// document refers to is in it.
func Compile(s Source) (*Schema, error) {
	compiled, failed := compile(s)
	if failed != nil {
		return nil, failed
	}
	return compiled, nil
}

func compile(s Source) (*Schema, *Error) {
	if s.OpenAPI != "" {
		return compileOpenAPI(s.OpenAPI, s.BasePath)
	}
	document, failed := parseDocument(s.JSONSchema)
	if failed != nil {
		return nil, failed
	}
	if left := maxSchemas; !fewObjects(document, &left) {
		return nil, wrong("", "has more than %d objects", maxSchemas)
	}
	c, err := newCompiler(document)
	if err != nil {
		return nil, &Error{[]Problem{problemOf(err)}}
	}
	body, err := c.Compile(documentURL)
	if err == nil {
		x := survey{state: make(map[*jsonschema.Schema]visit)}
		err = x.look(body)
	}
	if err != nil {
		return nil, &Error{[]Problem{problemOf(err)}}
	}
	return &Schema{body: body}, nil
}

// fewObjects reports whether a document has no more objects than are left, each of
// which may be a schema.
func fewObjects(v any, left *int) bool {
	switch v := v.(type) {
	case map[string]any:
		*left--
		for _, e := range v {
			if *left < 0 || !fewObjects(e, left) {
				return false
			}
		}
	case []any:
		for _, e := range v {
			if !fewObjects(e, left) {
				return false
			}
		}
	}
	return *left >= 0
}

// IsOpenAPI reports whether the document says more than what bodies look like.
func (s *Schema) IsOpenAPI() bool { return s.tree != nil }

// The reasons for which requests are not as their schema says. They are part of the
// product's interface: they appear in answers, decision records and metrics.
const (
	ReasonOperation  = "operation_unknown"            // the document has no such path, or no such method there
	ReasonParameters = "parameters_invalid"           // path, query, header or cookies
	ReasonMediaType  = "media_type_unsupported"       // the body is of a type that is not taken
	ReasonEncoding   = "content_encoding_unsupported" // the body is compressed
	ReasonBody       = "body_invalid"
	ReasonComplex    = "body_too_complex" // to find out would take too much work
)

// Findings is what is wrong with a request. The zero value says that nothing is.
type Findings struct {
	Reason   string
	Problems []Problem // MaxProblems at most
}

// Valid reports whether nothing is wrong.
func (f Findings) Valid() bool { return f.Reason == "" }

// Status returns the status of the answer to a request with these findings.
func (f Findings) Status() int {
	switch f.Reason {
	case "":
		return http.StatusOK
	case ReasonOperation:
		return http.StatusNotFound
	case ReasonMediaType, ReasonEncoding:
		return http.StatusUnsupportedMediaType
	case ReasonComplex:
		return http.StatusRequestEntityTooLarge
	}
	return http.StatusBadRequest
}

// Request is what is known of a request before its body, in its canonical form.
type Request struct {
	Method   string
	Path     string // as it is escaped
	RawQuery string
	Header   map[string][]string
	HasBody  bool
}

// Options are what a route takes that the document does not have.
type Options struct {
	UnknownOperations bool // let through without another look
	UnknownParameters bool // of the query
}

// Head judges a request by what comes before its body. The body that it returns is
// to be judged as well; it is nil when there is none, or nothing is said of it.
func (s *Schema) Head(r *Request, o Options) (Findings, *Body) {
	if !s.IsOpenAPI() {
		return s.headOfBody(r)
	}
	op, values := s.operation(r)
	switch {
	case op != nil:
	case o.UnknownOperations:
		return Findings{}, nil
	default:
		return Findings{Reason: ReasonOperation, Problems: []Problem{{Pointer: "", Detail: "is no operation of the document"}}}, nil
	}
	w := newRun()
	w.head(op, r, values, o)
	if w.exhausted() {
		return Findings{Reason: ReasonComplex}, nil
	}
	if len(w.problems) > 0 {
		return Findings{Reason: ReasonParameters, Problems: w.problems}, nil
	}
	return op.takes(r)
}

func newRun() *run { return &run{work: maxWork} }

// operation finds what the document says of a request's method and path.
func (s *Schema) operation(r *Request) (*operation, []string) {
	for _, base := range s.bases {
		rest, ok := strings.CutPrefix(r.Path, base)
		if !ok || !strings.HasPrefix(rest, "/") {
			continue
		}
		if n, values := s.tree.find(strings.Split(rest[1:], "/"), nil); n != nil && n.operations[r.Method] != nil {
			return n.operations[r.Method], values
		}
	}
	return nil, nil
}

// headOfBody judges a request of which only the body's schema is known: JSON, and
// needed where the method is one that has a body.
func (s *Schema) headOfBody(r *Request) (Findings, *Body) {
	c := content{types: []mediaType{{name: "application/json", form: asJSON, schema: s.body}, {name: "*/*+json", form: asJSON, schema: s.body}}}
	switch r.Method {
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		c.required = true
	}
	return c.judge(r)
}
