package schema

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// The library compiles schemas; they are evaluated here, because its own evaluator
// has no bound: a schema that leads into itself in two ways doubles what it does
// with every level of a body, and each of a million wrong elements makes an error
// that holds its place.

// Bounds of an evaluation.
const (
	// MaxProblems is how many problems are told of a request.
	MaxProblems = 16
	// maxWork is how many schemas may meet values, and what else takes about as long.
	maxWork = 1 << 20
	// bytesPerWork are compared, counted or hashed in the time of one such meeting;
	// matching a byte with a pattern takes as long as one of these for each
	// instruction that the pattern has.
	bytesPerWork = 64
)

// Problem is one thing that is wrong with a request, or with a document.
type Problem struct {
	// Pointer is the JSON pointer (RFC 6901) of the place: of a document in it; of a
	// request in an object of path, query, header, cookie and body, as in
	// "/query/limit" or "/body/items/0/sku".
	Pointer string
	// Detail says in words what is wrong, and repeats nothing of a request but names.
	Detail string
	// Line is of the document's text, from 1; 0 where only the pointer is known.
	Line int
}

// run is one evaluation.
type run struct {
	work     int // left
	problems []Problem
	quiet    int   // it is only asked whether a value fits
	path     place // of the value
}

// place is the way to a value.
type place []step

type step struct {
	name  string
	index int // of a list, when name is none
	list  bool
}

// maxPointer bounds what is told of names that a client chose, in bytes.
const maxPointer = 256

func (p place) String() string {
	var b strings.Builder
	for _, s := range p {
		b.WriteByte('/')
		if s.list {
			b.WriteString(strconv.Itoa(s.index))
		} else {
			b.WriteString(escapeToken(s.name))
		}
		if b.Len() > maxPointer {
			return strings.ToValidUTF8(b.String()[:maxPointer], "") + "..."
		}
	}
	return strings.ToValidUTF8(b.String(), "?")
}

// escapeToken writes a name as a token of a JSON pointer.
func escapeToken(name string) string {
	return strings.ReplaceAll(strings.ReplaceAll(name, "~", "~0"), "/", "~1")
}

// spend reports whether there is work left.
func (r *run) spend(n int) bool {
	r.work -= n
	return r.work >= 0
}

func (r *run) exhausted() bool { return r.work < 0 }

// fail notes what is wrong with the value. It returns false.
func (r *run) fail(format string, args ...any) bool {
	if r.quiet == 0 && len(r.problems) < MaxProblems {
		r.problems = append(r.problems, Problem{Pointer: r.path.String(), Detail: fmt.Sprintf(format, args...)})
	}
	return false
}

// enough reports whether it is of no use to look at more of a value that is wrong.
func (r *run) enough() bool {
	return r.quiet > 0 || len(r.problems) >= MaxProblems || r.exhausted()
}

// in evaluates what is in the value.
func (r *run) in(s step, schema *jsonschema.Schema, v any) bool {
	r.path = append(r.path, s)
	ok := r.meets(schema, v, nil)
	r.path = r.path[:len(r.path)-1]
	return ok
}

// fits asks whether the value meets a schema, and notes in seen what that has
// evaluated if it does.
func (r *run) fits(s *jsonschema.Schema, v any, seen *seen) bool {
	r.quiet++
	own := seen.fresh(v)
	ok := r.meets(s, v, own)
	r.quiet--
	if ok {
		seen.merge(own)
	}
	return ok
}

// seen is which members or elements of a value some schema has evaluated. A nil
// seen is nobody's business.
type seen struct {
	all  bool
	each []bool
}

func (s *seen) fresh(v any) *seen {
	if s == nil {
		return nil
	}
	return newSeen(v)
}

func newSeen(v any) *seen {
	switch v := v.(type) {
	case *object:
		return &seen{each: make([]bool, len(v.members))}
	case []any:
		return &seen{each: make([]bool, len(v))}
	}
	return &seen{}
}

func (s *seen) merge(o *seen) {
	if s == nil || o == nil {
		return
	}
	s.all = s.all || o.all
	for i, is := range o.each {
		s.each[i] = s.each[i] || is
	}
}

func (s *seen) note(i int) {
	if s != nil {
		s.each[i] = true
	}
}

// meets reports whether v is as s asks for. What is true while there was no work
// left counts for nothing.
func (r *run) meets(s *jsonschema.Schema, v any, outer *seen) bool {
	if !r.spend(1) {
		return false
	}
	if s.Bool != nil {
		return *s.Bool || r.fail("is not expected here")
	}
	own := outer
	if s.UnevaluatedProperties != nil || s.UnevaluatedItems != nil {
		own = newSeen(v)
		r.spend(len(own.each) / bytesPerWork)
	}
	if !r.general(s, v) {
		return false // of another kind, the rest says nothing
	}
	if s.Ref != nil && s.DraftVersion < draft2019 {
		return r.meets(s.Ref, v, outer) // what stands beside it is not looked at
	}
	ok := r.particular(s, v, own)
	if !ok && r.enough() {
		return false
	}
	if hasInPlace(s) {
		ok = r.inPlace(s, v, own) && ok
	}
	if own != outer {
		if !ok && r.enough() {
			return false
		}
		ok = r.unevaluated(s, v, own) && ok
		outer.merge(own)
	}
	return ok
}

// general looks at what is said of values of every type.
func (r *run) general(s *jsonschema.Schema, v any) bool {
	if s.Types != nil && !s.Types.IsEmpty() && !isOf(*s.Types, v) {
		return r.fail("is %s, not %s", typeName(v), strings.Join(s.Types.ToStrings(), " or "))
	}
	if s.Const != nil && !r.isOneOf(v, *s.Const) {
		return r.fail("is not the one value that is taken")
	}
	if s.Enum != nil && !r.isOneOf(v, s.Enum.Values...) {
		return r.fail("is none of the values that are taken")
	}
	if s.Format != nil && s.Format.Name != "regex" && r.spend(size(v)) && s.Format.Validate(v) != nil {
		return r.fail("is not of the format %s", s.Format.Name)
	}
	return true
}

// isOneOf compares the value with each of wanted.
func (r *run) isOneOf(v any, wanted ...any) bool {
	each := 1 + size(v)
	for _, w := range wanted {
		if !r.spend(each) {
			return false
		}
		if equal(v, w) {
			return true
		}
	}
	return false
}

// size is the work of looking at all of a value.
func size(v any) (n int) {
	switch v := v.(type) {
	case string:
		return len(v) / bytesPerWork
	case json.Number:
		return 1
	case []any:
		for _, e := range v {
			n += 1 + size(e)
		}
	case *object:
		for _, m := range v.members {
			n += 1 + len(m.name)/bytesPerWork + size(m.value)
		}
	}
	return n
}

// hasInPlace is false for most schemas.
func hasInPlace(s *jsonschema.Schema) bool {
	return s.Ref != nil || s.RecursiveRef != nil || s.DynamicRef != nil || s.Not != nil || s.If != nil ||
		len(s.AllOf)+len(s.AnyOf)+len(s.OneOf) > 0
}

// inPlace evaluates the schemas of s that are about the same value.
func (r *run) inPlace(s *jsonschema.Schema, v any, seen *seen) bool {
	ok := true
	for _, to := range references(s) {
		if to != nil {
			ok = r.meets(to, v, seen) && ok
		}
	}
	for _, each := range s.AllOf {
		if !ok && r.enough() {
			return false
		}
		ok = r.meets(each, v, seen) && ok
	}
	if !ok && r.enough() {
		return false
	}
	if s.Not != nil && r.fits(s.Not, v, nil) {
		ok = r.fail("is what is not taken here")
	}
	ok = r.anyOf(s, v, seen) && ok
	ok = r.oneOf(s, v, seen) && ok
	if s.If != nil {
		ok = r.conditional(s, v, seen) && ok
	}
	return ok
}

// references are what s leads to by name. That none of them depends on the way by
// which s was reached is seen to when it is compiled.
func references(s *jsonschema.Schema) [3]*jsonschema.Schema {
	to := [3]*jsonschema.Schema{s.Ref, s.RecursiveRef}
	if s.DynamicRef != nil {
		to[2] = s.DynamicRef.Ref
	}
	return to
}

func (r *run) anyOf(s *jsonschema.Schema, v any, seen *seen) bool {
	if len(s.AnyOf) == 0 {
		return true
	}
	fits := false
	for _, each := range s.AnyOf {
		if fits = r.fits(each, v, seen) || fits; fits && seen == nil {
			break
		}
	}
	return fits || r.alternatives(s.AnyOf, v, "is none of what is taken here")
}

func (r *run) oneOf(s *jsonschema.Schema, v any, seen *seen) bool {
	if len(s.OneOf) == 0 {
		return true
	}
	fits := 0
	for _, each := range s.OneOf {
		if r.fits(each, v, seen) {
			if fits++; fits > 1 {
				return r.fail("is more than one of what is taken here")
			}
		}
	}
	return fits == 1 || r.alternatives(s.OneOf, v, "is none of what is taken here")
}

// alternatives says why the value fits none of several: of a single one that takes
// its type, what is wrong by that.
func (r *run) alternatives(all []*jsonschema.Schema, v any, detail string) bool {
	if r.enough() {
		return r.fail("%s", detail)
	}
	var likely *jsonschema.Schema
	for _, each := range all {
		if types := accepted(each); types != 0 && !isOf(types, v) {
			continue
		}
		if likely != nil {
			return r.fail("%s", detail)
		}
		likely = each
	}
	if likely == nil {
		return r.fail("%s", detail)
	}
	return r.meets(likely, v, nil) && r.fail("%s", detail)
}

func (r *run) conditional(s *jsonschema.Schema, v any, seen *seen) bool {
	branch := s.Else
	if r.fits(s.If, v, seen) {
		branch = s.Then
	}
	return branch == nil || r.meets(branch, v, seen)
}

// unevaluated evaluates what nothing else did.
func (r *run) unevaluated(s *jsonschema.Schema, v any, seen *seen) bool {
	ok := true
	switch v := v.(type) {
	case *object:
		for i, m := range v.members {
			if s.UnevaluatedProperties != nil && !seen.all && !seen.each[i] {
				ok = r.in(step{name: m.name}, s.UnevaluatedProperties, m.value) && ok
			}
			if !ok && r.enough() {
				return false
			}
		}
		seen.all = seen.all || s.UnevaluatedProperties != nil
	case []any:
		for i, e := range v {
			if s.UnevaluatedItems != nil && !seen.all && !seen.each[i] {
				ok = r.in(step{index: i, list: true}, s.UnevaluatedItems, e) && ok
			}
			if !ok && r.enough() {
				return false
			}
		}
		seen.all = seen.all || s.UnevaluatedItems != nil
	}
	return ok
}
