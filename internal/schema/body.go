package schema

import (
	"errors"
	"mime"
	"net/url"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// form is how the bytes of a body are read.
type form uint8

const (
	asIs     form = iota // not at all
	asJSON               //
	asForm               // application/x-www-form-urlencoded
	asEither             // one of the two, as the request says
)

// mediaType is one that a body may be of, and what it is then.
type mediaType struct {
	name   string // or a range: "text/*", "*/*"
	form   form
	schema *jsonschema.Schema // nil for whatever it may be

	members map[string]field // of a form
}

// precision orders media types: a range says less than a name.
func (m *mediaType) precision() int {
	switch {
	case m.name == "*/*":
		return 0
	case strings.Contains(m.name, "*"):
		return 1
	}
	return 2
}

func (m *mediaType) matches(name string) bool {
	switch {
	case m.name == "*/*", m.name == name:
		return true
	case m.name == "*/*+json":
		return isJSON(name)
	}
	kind, isRange := strings.CutSuffix(m.name, "/*")
	return isRange && strings.HasPrefix(name, kind+"/")
}

// Body is what a request's body has to be like.
type Body struct{ *mediaType }

// takes judges whether a request has a body as the operation asks for.
func (o *operation) takes(r *Request) (Findings, *Body) {
	switch {
	case o.body != nil:
		return o.body.judge(r)
	case r.HasBody:
		return inBody(Problem{Pointer: "/body", Detail: "is not taken by the operation"}), nil
	}
	return Findings{}, nil
}

func inBody(all ...Problem) Findings { return Findings{Reason: ReasonBody, Problems: all} }

func (c *content) judge(r *Request) (Findings, *Body) {
	switch {
	case r.HasBody:
	case c.required:
		return inBody(Problem{Pointer: "/body", Detail: "is missing"}), nil
	default:
		return Findings{}, nil
	}
	name, wrong := contentType(r.Header)
	if wrong != "" {
		return Findings{ReasonMediaType, []Problem{{Pointer: "/header/Content-Type", Detail: wrong}}}, nil
	}
	for i := range c.types {
		if c.types[i].matches(name) {
			return c.types[i].judge(r, name)
		}
	}
	return Findings{ReasonMediaType, []Problem{{Pointer: "/header/Content-Type", Detail: "is none of the media types that are taken"}}}, nil
}

func contentType(header map[string][]string) (name, wrong string) {
	values := header["Content-Type"]
	if len(values) != 1 {
		return "", "is missing"
	}
	name, parameters, err := mime.ParseMediaType(values[0])
	if err != nil {
		return "", "is no media type"
	}
	if charset := parameters["charset"]; charset != "" && isJSON(name) && !strings.EqualFold(charset, "utf-8") {
		return "", "has another charset than UTF-8, which JSON is in"
	}
	return name, ""
}

// judge says how the body is to be judged. One that nobody could read here is not
// taken where something is said of what is in it.
func (m *mediaType) judge(r *Request, name string) (Findings, *Body) {
	if m.form == asEither {
		own := *m
		own.form = formOf(name)
		m = &own
	}
	if m.form == asIs {
		return Findings{}, nil
	}
	if encoded := r.Header["Content-Encoding"]; len(encoded) > 1 || len(encoded) == 1 && !strings.EqualFold(encoded[0], "identity") {
		return Findings{ReasonEncoding, []Problem{{Pointer: "/header/Content-Encoding", Detail: "is not identity: what is in the body cannot be seen"}}}, nil
	}
	return Findings{}, &Body{m}
}

func formOf(name string) form {
	switch {
	case isJSON(name):
		return asJSON
	case name == "application/x-www-form-urlencoded":
		return asForm
	}
	return asIs
}

// Judge judges a whole body.
func (b *Body) Judge(body []byte) Findings {
	r := newRun()
	r.path = place{{name: "body"}}
	v, err := b.read(string(body))
	switch {
	case err != nil:
		return inBody(Problem{Pointer: "/body", Detail: err.Error()})
	case b.schema == nil:
		return Findings{}
	}
	ok := r.meets(b.schema, v, nil)
	switch {
	case r.exhausted():
		return Findings{ReasonComplex, []Problem{{Pointer: "/body", Detail: "takes too much work to be judged"}}}
	case !ok:
		return inBody(r.problems...)
	}
	return Findings{}
}

func (b *Body) read(text string) (any, error) {
	if b.form == asJSON {
		v, err := parseJSON(text)
		if err != nil {
			return nil, inWords{"is not JSON that is taken: ", err}
		}
		return v, nil
	}
	return b.fields(text)
}

type inWords struct {
	what string
	err  error
}

func (e inWords) Error() string { return e.what + e.err.Error() }
func (e inWords) Unwrap() error { return e.err }

// Errors of forms.
var (
	errEscape = errors.New("is not escaped as a form is")
	errTwice  = errors.New("has a field twice that is no list")
)

// fields reads a form: every field is a member, and one that may be a list is one.
func (b *Body) fields(text string) (any, error) {
	o, at := &object{}, map[string]int{}
	for text := range strings.SplitSeq(text, "&") {
		if text == "" {
			continue
		}
		before, after, _ := strings.Cut(text, "=")
		name, err := url.QueryUnescape(before)
		if err != nil {
			return nil, errEscape
		}
		value, err := url.QueryUnescape(after)
		if err != nil {
			return nil, errEscape
		}
		of := b.members[name]
		if of.takes&typeArray == 0 {
			if !o.add(name, coerce(value, of.takes)) {
				return nil, errTwice
			}
			continue
		}
		if _, known := at[name]; !known {
			at[name] = len(o.members)
			o.add(name, []any{})
		}
		list, _ := o.members[at[name]].value.([]any)
		list = append(list, coerce(value, of.elements))
		o.members[at[name]].value = list
	}
	return o, nil
}
