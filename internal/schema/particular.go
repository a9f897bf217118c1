package schema

import (
	"encoding/json"
	"math/big"
	"slices"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// particular looks at what is said of values of one type.
func (r *run) particular(s *jsonschema.Schema, v any, seen *seen) bool {
	switch v := v.(type) {
	case string:
		return r.text(s, v)
	case json.Number:
		return r.number(s, v)
	case []any:
		return r.array(s, v, seen)
	case *object:
		return r.object(s, v, seen)
	}
	return true
}

func (r *run) text(s *jsonschema.Schema, v string) bool {
	ok := true
	if s.MinLength != nil || s.MaxLength != nil {
		r.spend(len(v) / bytesPerWork)
		switch n := utf8.RuneCountInString(v); {
		case s.MinLength != nil && n < *s.MinLength:
			ok = r.fail("is shorter than %d", *s.MinLength)
		case s.MaxLength != nil && n > *s.MaxLength:
			ok = r.fail("is longer than %d", *s.MaxLength)
		}
	}
	if s.Pattern != nil && !r.matches(s.Pattern, v) {
		ok = r.fail("does not match the pattern")
	}
	return ok
}

// matches spends the work before it is done.
func (r *run) matches(p jsonschema.Regexp, text string) bool {
	instructions := 1
	if p, ok := p.(*pattern); ok {
		instructions = p.instructions
	}
	return r.spend(1+len(text)*instructions/bytesPerWork) && p.MatchString(text)
}

func (r *run) number(s *jsonschema.Schema, v json.Number) bool {
	switch {
	case s.Minimum != nil && compare(v, s.Minimum) < 0:
		return r.fail("is less than %s", s.Minimum.RatString())
	case s.ExclusiveMinimum != nil && compare(v, s.ExclusiveMinimum) <= 0:
		return r.fail("is not more than %s", s.ExclusiveMinimum.RatString())
	case s.Maximum != nil && compare(v, s.Maximum) > 0:
		return r.fail("is more than %s", s.Maximum.RatString())
	case s.ExclusiveMaximum != nil && compare(v, s.ExclusiveMaximum) >= 0:
		return r.fail("is not less than %s", s.ExclusiveMaximum.RatString())
	case s.MultipleOf != nil && !new(big.Rat).Quo(rational(v), s.MultipleOf).IsInt():
		return r.fail("is no multiple of %s", s.MultipleOf.RatString())
	}
	return true
}

func (r *run) array(s *jsonschema.Schema, v []any, seen *seen) bool {
	ok := true
	switch {
	case s.MinItems != nil && len(v) < *s.MinItems:
		ok = r.fail("has fewer than %d elements", *s.MinItems)
	case s.MaxItems != nil && len(v) > *s.MaxItems:
		ok = r.fail("has more than %d elements", *s.MaxItems)
	}
	if !ok && r.enough() {
		return false
	}
	if s.UniqueItems && !r.unique(v) {
		ok = r.fail("has an element twice")
	}
	ok = r.items(s, v, seen) && ok
	if s.Contains != nil && (ok || !r.enough()) {
		ok = r.contains(s, v, seen) && ok
	}
	return ok
}

func (r *run) unique(v []any) bool {
	if len(v) <= fewMembers && areTexts(v) {
		return !repeats(v)
	}
	found := make(map[string]struct{}, len(v))
	var b []byte
	for _, e := range v {
		if !r.spend(2 + size(e)) {
			return true // what follows from it counts for nothing
		}
		b = canonical(b[:0], e)
		if _, twice := found[string(b)]; twice {
			return false
		}
		found[string(b)] = struct{}{}
	}
	return true
}

func areTexts(v []any) bool {
	for _, e := range v {
		if _, ok := e.(string); !ok {
			return false
		}
	}
	return true
}

func repeats(texts []any) bool {
	for i, e := range texts {
		if slices.Contains(texts[:i], e) {
			return true
		}
	}
	return false
}

// items evaluates the elements: the first ones each by a schema of its own, and the
// others by one for all. In which keywords that is said depends on the draft.
func (r *run) items(s *jsonschema.Schema, v []any, seen *seen) bool {
	first, rest := s.PrefixItems, s.Items2020
	more := true
	switch items := s.Items.(type) {
	case *jsonschema.Schema:
		rest = items
	case []*jsonschema.Schema:
		first = items
		switch additional := s.AdditionalItems.(type) {
		case bool:
			more = additional
		case *jsonschema.Schema:
			rest = additional
		}
	}
	if !more && len(v) > len(first) {
		return r.fail("has more than %d elements", len(first))
	}
	ok := true
	for i, e := range v {
		at := step{index: i, list: true}
		switch {
		case i < len(first):
			ok = r.in(at, first[i], e) && ok
		case rest != nil:
			ok = r.in(at, rest, e) && ok
		case s.AdditionalItems == nil:
			return ok
		}
		seen.note(i)
		if !ok && r.enough() {
			return false
		}
	}
	return ok
}

func (r *run) contains(s *jsonschema.Schema, v []any, seen *seen) bool {
	found := 0
	for i, e := range v {
		if !r.fits(s.Contains, e, nil) {
			continue
		}
		found++
		if s.DraftVersion >= draft2020 {
			seen.note(i)
		}
	}
	least := 1
	if s.MinContains != nil {
		least = *s.MinContains
	}
	switch {
	case found < least:
		return r.fail("has fewer than %d elements of one kind", least)
	case s.MaxContains != nil && found > *s.MaxContains:
		return r.fail("has more than %d elements of one kind", *s.MaxContains)
	}
	return true
}

// Drafts from which on keywords mean something else.
const (
	draft2019 = 2019
	draft2020 = 2020
)

func (r *run) object(s *jsonschema.Schema, v *object, seen *seen) bool {
	ok := r.counts(s, v)
	ok = r.required(v, s.Required) && ok
	if !ok && r.enough() {
		return false
	}
	for i := range v.members {
		ok = r.member(s, v, i, seen) && ok
		if !ok && r.enough() {
			return false
		}
	}
	return r.dependent(s, v, seen) && ok
}

func (r *run) counts(s *jsonschema.Schema, v *object) bool {
	switch n := len(v.members); {
	case s.MinProperties != nil && n < *s.MinProperties:
		return r.fail("has fewer than %d members", *s.MinProperties)
	case s.MaxProperties != nil && n > *s.MaxProperties:
		return r.fail("has more than %d members", *s.MaxProperties)
	}
	return true
}

func (r *run) required(v *object, names []string) bool {
	ok := r.spend(len(names) / 8)
	for _, name := range names {
		if v.find(name) < 0 {
			ok = r.fail("lacks the member %s", shown(name))
		}
		if !ok && r.enough() {
			return false
		}
	}
	return ok
}

// member evaluates one member by all that is said of those with its name.
func (r *run) member(s *jsonschema.Schema, v *object, i int, seen *seen) bool {
	m := &v.members[i]
	at := step{name: m.name}
	ok := true
	if s.PropertyNames != nil && !r.fits(s.PropertyNames, m.name, nil) {
		ok = r.fail("has a member %s, whose name is not taken", shown(m.name))
	}
	evaluated := false
	if property := s.Properties[m.name]; property != nil {
		evaluated = true
		ok = r.in(at, property, m.value) && ok
	}
	if len(s.PatternProperties) > 0 {
		matched, fits := r.patterned(s, m)
		evaluated, ok = evaluated || matched, ok && fits
	}
	if !evaluated {
		switch additional := s.AdditionalProperties.(type) {
		case bool:
			evaluated = true
			ok = (additional || r.unknown(at)) && ok
		case *jsonschema.Schema:
			evaluated = true
			ok = r.in(at, additional, m.value) && ok
		}
	}
	if evaluated {
		seen.note(i)
	}
	return ok
}

// patterned evaluates a member by what is said of those whose names match something.
func (r *run) patterned(s *jsonschema.Schema, m *member) (matched, ok bool) {
	ok = true
	for p, property := range s.PatternProperties {
		if r.matches(p, m.name) {
			matched = true
			ok = r.in(step{name: m.name}, property, m.value) && ok
		}
	}
	return matched, ok
}

func (r *run) unknown(at step) bool {
	r.path = append(r.path, at)
	r.fail("is no member that is known here")
	r.path = r.path[:len(r.path)-1]
	return false
}

// dependent looks at what is asked for because some member is there.
func (r *run) dependent(s *jsonschema.Schema, v *object, seen *seen) bool {
	ok := true
	if len(s.Dependencies)+len(s.DependentRequired)+len(s.DependentSchemas) == 0 {
		return ok
	}
	for name, asked := range s.Dependencies {
		if v.find(name) < 0 {
			continue
		}
		switch asked := asked.(type) {
		case []string:
			ok = r.required(v, asked) && ok
		case *jsonschema.Schema:
			ok = r.meets(asked, v, seen) && ok
		}
	}
	for name, asked := range s.DependentRequired {
		if v.find(name) >= 0 {
			ok = r.required(v, asked) && ok
		}
	}
	for name, asked := range s.DependentSchemas {
		if v.find(name) >= 0 {
			ok = r.meets(asked, v, seen) && ok
		}
	}
	return ok
}
