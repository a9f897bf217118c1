package schema

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// bundle gathers the schemas of an OpenAPI document into one JSON Schema, under
// $defs by the JSON pointers that they have in the document. Those of OpenAPI 3.0,
// which are a dialect of their own, are put into the words of draft 2020-12, that of
// OpenAPI 3.1.
type bundle struct {
	document map[string]any
	v30      bool
	defs     map[string]any
	pending  []string
	count    int // of schemas, with those inside others
	problems []Problem
}

func (b *bundle) refuse(pointer, format string, args ...any) {
	if len(b.problems) < MaxProblems {
		b.problems = append(b.problems, Problem{Pointer: pointer, Detail: fmt.Sprintf(format, args...)})
	}
}

// add has the schema at a pointer be one of the bundle.
func (b *bundle) add(pointer string) {
	if _, known := b.defs[pointer]; known {
		return
	}
	b.defs[pointer] = true // until its turn comes
	b.pending = append(b.pending, pointer)
}

// gather puts in what was added, and all that it leads to.
func (b *bundle) gather() {
	for len(b.pending) > 0 && b.count <= maxSchemas {
		pointer := b.pending[len(b.pending)-1]
		b.pending = b.pending[:len(b.pending)-1]
		v, ok := lookup(b.document, pointer)
		if !ok {
			b.refuse(pointer, "is referred to, and not there")
			continue
		}
		b.defs[pointer] = b.schema(v, pointer)
	}
}

// location is where the library finds the schema of a pointer.
func location(pointer string) string {
	return documentURL + "#/$defs/" + url.PathEscape(escapeToken(pointer))
}

// pointerOf is the pointer within the document of a location.
func pointerOf(location string) string {
	_, fragment, _ := strings.Cut(location, "#")
	if text, err := url.PathUnescape(fragment); err == nil {
		fragment = text
	}
	rest, ok := strings.CutPrefix(fragment, "/$defs/")
	if !ok || !strings.HasPrefix(rest, "~1") {
		return fragment // and no pointer that stands for one
	}
	token, inside, more := strings.Cut(rest, "/")
	pointer := strings.ReplaceAll(strings.ReplaceAll(token, "~1", "/"), "~0", "~")
	if more {
		pointer += "/" + inside
	}
	return pointer
}

// How the value of a keyword is read.
type shape uint8

const (
	verbatim  shape = iota + 1
	aSchema         // or a boolean
	schemas         // a list of them
	byName          // an object of them
	notServed       // by which a schema would depend on where it is read from
)

// shapeOf returns how a keyword is read, 0 for those that say nothing of values.
func shapeOf(keyword string) shape {
	switch keyword {
	case "type", "enum", "const", "format", "pattern", "required", "dependentRequired",
		"multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength",
		"minItems", "maxItems", "uniqueItems", "minContains", "maxContains", "minProperties", "maxProperties":
		return verbatim
	case "items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames",
		"unevaluatedItems", "unevaluatedProperties":
		return aSchema
	case "allOf", "anyOf", "oneOf", "prefixItems":
		return schemas
	case "properties", "patternProperties", "dependentSchemas":
		return byName
	case "$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor":
		return notServed
	}
	return 0
}

// schema returns a schema of the document in the words of draft 2020-12.
func (b *bundle) schema(v any, at string) any {
	from, ok := v.(map[string]any)
	if is, boolean := v.(bool); boolean {
		return is
	}
	if b.count++; b.count > maxSchemas {
		b.refuse(at, "%v", errTooMany)
		return false
	}
	if !ok {
		b.refuse(at, "is no schema")
		return false
	}
	if ref, ok := from["$ref"]; ok {
		to := map[string]any{"$ref": b.reference(ref, at)}
		if b.v30 {
			return to // what stands beside it is not looked at
		}
		return b.keywords(from, to, at)
	}
	return b.keywords(from, map[string]any{}, at)
}

func (b *bundle) keywords(from, to map[string]any, at string) any {
	for _, keyword := range names(from) {
		v, inside := from[keyword], at+"/"+escapeToken(keyword)
		switch shapeOf(keyword) {
		case verbatim:
			to[keyword] = v
		case aSchema:
			to[keyword] = b.schema(v, inside)
		case schemas:
			to[keyword] = b.list(v, inside)
		case byName:
			to[keyword] = b.named(v, inside)
		case notServed:
			b.refuse(inside, "is not taken: refer to places of the document, as in #/components/schemas/Pet")
		}
	}
	b.writable(from, to)
	if b.v30 {
		translate(from, to)
	}
	return to
}

func (b *bundle) list(v any, at string) any {
	from, ok := v.([]any)
	if !ok {
		b.refuse(at, "is no list of schemas")
		return []any{true}
	}
	to := make([]any, len(from))
	for i, each := range from {
		to[i] = b.schema(each, fmt.Sprintf("%s/%d", at, i))
	}
	return to
}

func (b *bundle) named(v any, at string) any {
	if _, ok := v.(map[string]any); !ok {
		b.refuse(at, "is no object of schemas")
	}
	from, _ := v.(map[string]any)
	to := make(map[string]any, len(from))
	for _, name := range names(from) {
		to[name] = b.schema(from[name], at+"/"+escapeToken(name))
	}
	return to
}

// translate writes what OpenAPI 3.0 says in other words than draft 2020-12.
func translate(from, to map[string]any) {
	if kind, ok := from["type"].(string); ok && isTrue(from["nullable"]) {
		to["type"] = []any{kind, "null"}
	}
	for limit, exclusive := range map[string]string{"minimum": "exclusiveMinimum", "maximum": "exclusiveMaximum"} {
		switch from[exclusive] {
		case true:
			delete(to, exclusive)
			if bound, ok := to[limit]; ok {
				delete(to, limit)
				to[exclusive] = bound
			}
		case false:
			delete(to, exclusive)
		}
	}
}

// writable takes back that members are required which are readOnly: that is said of
// answers alone.
func (b *bundle) writable(from, to map[string]any) {
	required, _ := from["required"].([]any)
	properties, _ := from["properties"].(map[string]any)
	if len(required) == 0 || len(properties) == 0 {
		return
	}
	to["required"] = slices.DeleteFunc(slices.Clone(required), func(name any) bool {
		text, ok := name.(string)
		return ok && b.isReadOnly(properties[text])
	})
}

func (b *bundle) isReadOnly(v any) bool {
	for range maxHops {
		s, _ := v.(map[string]any)
		if isTrue(s["readOnly"]) {
			return true
		}
		pointer, err := localPointer(s["$ref"])
		if err != nil {
			return false
		}
		v, _ = lookup(b.document, pointer)
	}
	return false
}

// maxHops bounds references to references.
const maxHops = 16

// reference adds what a $ref leads to, and returns what to write in its place.
func (b *bundle) reference(ref any, at string) string {
	pointer, err := localPointer(ref)
	if err != nil {
		b.refuse(at+"/$ref", "%v", err)
		return "#"
	}
	if _, ok := lookup(b.document, pointer); !ok {
		b.refuse(at+"/$ref", "leads nowhere")
		return "#"
	}
	b.add(pointer)
	_, fragment, _ := strings.Cut(location(pointer), "#")
	return "#" + fragment
}

var errNoPointer = errors.New(`is no place of this document, as in "#/components/schemas/Pet"`)

// localPointer returns the JSON pointer that a $ref holds.
func localPointer(ref any) (string, error) {
	text, _ := ref.(string)
	fragment, ok := strings.CutPrefix(text, "#")
	if !ok || !strings.HasPrefix(fragment, "/") {
		return "", errNoPointer
	}
	pointer, err := url.PathUnescape(fragment)
	if err != nil {
		return "", errNoPointer
	}
	return pointer, nil
}

// compile compiles what was added.
func (b *bundle) compile() *compiled {
	b.gather()
	c, err := newCompiler(map[string]any{"$schema": jsonschema.Draft2020.String(), "$defs": b.defs})
	if err != nil {
		b.refuse("", "%v", err)
	}
	return &compiled{bundle: b, compiler: c, survey: survey{state: make(map[*jsonschema.Schema]visit)}}
}

// compiled is a bundle from which schemas are taken.
type compiled struct {
	*bundle

	compiler *jsonschema.Compiler
	survey   survey
}

// take returns the schema of a pointer that was added.
func (c *compiled) take(pointer string) *jsonschema.Schema {
	if len(c.problems) > 0 {
		return nil
	}
	s, err := c.compiler.Compile(location(pointer))
	if err == nil {
		err = c.survey.look(s)
	}
	if err != nil {
		c.problems = append(c.problems, problemOf(err))
	}
	return s
}
