package schema

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Bounds of a schema.
const (
	maxSchemas      = 8000 // in all, with those inside others
	maxPattern      = 1024 // bytes
	maxInstructions = 4096 // of a compiled pattern
)

// pattern is a regular expression of RE2, which takes time in proportion to the
// text, and how many instructions it has, which is in what proportion.
type pattern struct {
	*regexp.Regexp
	instructions int
}

func newPattern(text string) (jsonschema.Regexp, error) {
	if len(text) > maxPattern {
		return nil, fmt.Errorf("has more than %d bytes", maxPattern)
	}
	parsed, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return nil, err
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return nil, err
	}
	if len(program.Inst) > maxInstructions {
		return nil, errors.New("repeats too much")
	}
	compiled, err := regexp.Compile(text)
	if err != nil {
		return nil, err
	}
	return &pattern{compiled, len(program.Inst)}, nil
}

// nowhere is where other documents are loaded from.
type nowhere struct{}

var errElsewhere = errors.New("refers to another document: all of it has to be in this one")

func (nowhere) Load(string) (any, error) { return nil, errElsewhere }

// documentURL is what a document is called that does not call itself something.
const documentURL = "sallyport:///document"

// newCompiler returns a compiler that knows one document.
func newCompiler(document any) (*jsonschema.Compiler, error) {
	c := jsonschema.NewCompiler()
	c.UseLoader(nowhere{})
	c.UseRegexpEngine(newPattern)
	c.AssertFormat()
	for _, f := range integerFormats() {
		c.RegisterFormat(f)
	}
	err := c.AddResource(documentURL, document)
	return c, err
}

// survey looks at all that a schema leads to.
type survey struct {
	state map[*jsonschema.Schema]visit
}

type visit uint8

const (
	under visit = iota + 1 // what it leads to for the same value is being looked at
	done
)

// errors of schemas that the library compiles.
var (
	errCircular = errors.New("refers to itself, for one and the same value")
	errDynamic  = errors.New("refers to what depends on the way that leads there: $dynamicRef and $recursiveRef are not taken")
	errTooMany  = fmt.Errorf("has more than %d schemas", maxSchemas)
)

// faultError is what is wrong with a schema, by its place.
type faultError struct {
	location string
	err      error
}

func (e *faultError) Error() string { return e.location + ": " + e.err.Error() }
func (e *faultError) Unwrap() error { return e.err }

// look refuses what could not be evaluated. Schemas that are about what is in a value
// are looked at one after the other, as they lead into each other ever so deep.
func (x *survey) look(root *jsonschema.Schema) error {
	for pending := []*jsonschema.Schema{root}; len(pending) > 0; {
		s := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		inside, err := x.visit(s, nil)
		if err != nil {
			return err
		}
		pending = append(pending, inside...)
	}
	return nil
}

// visit looks at s and all that it leads to for the same value. It adds to inside
// what those lead to for what is in it.
func (x *survey) visit(s *jsonschema.Schema, inside []*jsonschema.Schema) (_ []*jsonschema.Schema, err error) {
	switch x.state[s] {
	case done:
		return inside, nil
	case under:
		return nil, &faultError{s.Location, errCircular}
	}
	if len(x.state) >= maxSchemas {
		return nil, &faultError{s.Location, errTooMany}
	}
	if isDynamic(s) {
		return nil, &faultError{s.Location, errDynamic}
	}
	x.state[s] = under
	for _, to := range sameValue(s) {
		if inside, err = x.visit(to, inside); err != nil {
			return nil, err
		}
	}
	x.state[s] = done
	return append(inside, insideValue(s)...), nil
}

func isDynamic(s *jsonschema.Schema) bool {
	if s.RecursiveRef != nil && s.RecursiveRef.RecursiveAnchor {
		return true
	}
	d := s.DynamicRef
	return d != nil && d.Anchor != "" && d.Ref.DynamicAnchor == d.Anchor
}

// sameValue are the schemas by which s has the same value evaluated.
func sameValue(s *jsonschema.Schema) []*jsonschema.Schema {
	var all []*jsonschema.Schema
	references := references(s)
	for _, to := range append(references[:], s.Not, s.If, s.Then, s.Else) {
		if to != nil {
			all = append(all, to)
		}
	}
	all = append(append(append(all, s.AllOf...), s.AnyOf...), s.OneOf...)
	for _, to := range s.DependentSchemas {
		all = append(all, to)
	}
	for _, asked := range s.Dependencies {
		if to, ok := asked.(*jsonschema.Schema); ok {
			all = append(all, to)
		}
	}
	return all
}

// insideValue are the schemas by which s has evaluated what is in a value, or its
// names.
func insideValue(s *jsonschema.Schema) []*jsonschema.Schema {
	var all []*jsonschema.Schema
	add := func(to *jsonschema.Schema) {
		if to != nil {
			all = append(all, to)
		}
	}
	for _, to := range [...]*jsonschema.Schema{s.PropertyNames, s.UnevaluatedProperties, s.Contains, s.Items2020, s.UnevaluatedItems} {
		add(to)
	}
	for _, either := range [...]any{s.Items, s.AdditionalItems, s.AdditionalProperties} {
		switch to := either.(type) {
		case *jsonschema.Schema:
			add(to)
		case []*jsonschema.Schema:
			all = append(all, to...)
		}
	}
	for _, to := range s.Properties {
		add(to)
	}
	for _, to := range s.PatternProperties {
		add(to)
	}
	return append(all, s.PrefixItems...)
}
