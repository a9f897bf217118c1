package schema

import (
	"encoding/json"
	"slices"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// field is what is known of a value that is written as text.
type field struct {
	takes    jsonschema.Types // 0 when it is not known
	elements jsonschema.Types // of an array; 0 when they are not known
}

func fieldOf(s *jsonschema.Schema) field {
	f := field{takes: accepted(s)}
	around(s, func(s *jsonschema.Schema) {
		switch {
		case s.Items2020 != nil:
			f.elements |= accepted(s.Items2020)
		case len(s.PrefixItems) > 0:
			f.elements |= accepted(s.PrefixItems[0])
		}
	})
	return f
}

// membersOf returns what is known of an object's members.
func membersOf(s *jsonschema.Schema) map[string]field {
	all := make(map[string]field)
	around(s, func(s *jsonschema.Schema) {
		for name, of := range s.Properties {
			if _, known := all[name]; !known {
				all[name] = fieldOf(of)
			}
		}
	})
	return all
}

// around calls do for a schema and all that it has the same value evaluated by, once
// for each.
func around(s *jsonschema.Schema, do func(*jsonschema.Schema)) {
	known := map[*jsonschema.Schema]bool{s: true}
	for pending := []*jsonschema.Schema{s}; len(pending) > 0; {
		at := pending[0]
		pending = pending[1:]
		do(at)
		for _, to := range sameValue(at) {
			if !known[to] {
				known[to] = true
				pending = append(pending, to)
			}
		}
	}
}

// accepted returns the types that a schema takes, as far as it says so at once or by
// few others; 0 when it does not.
func accepted(s *jsonschema.Schema) jsonschema.Types {
	const most = 256
	left := most
	return acceptedBy(s, &left)
}

func acceptedBy(s *jsonschema.Schema, left *int) (types jsonschema.Types) {
	*left--
	switch {
	case *left < 0 || s.Bool != nil:
		return 0
	case s.Types != nil && !s.Types.IsEmpty():
		return *s.Types
	case s.Const != nil:
		return typeOf(*s.Const)
	case s.Enum != nil:
		for _, v := range s.Enum.Values {
			types |= typeOf(v)
		}
		return types
	case s.Ref != nil:
		return acceptedBy(s.Ref, left)
	}
	for _, each := range s.AllOf {
		if types := acceptedBy(each, left); types != 0 {
			return types
		}
	}
	for _, each := range slices.Concat(s.AnyOf, s.OneOf) {
		own := acceptedBy(each, left)
		if own == 0 {
			return 0
		}
		types |= own
	}
	return types
}

// The types of the library, which has no names for them.
const (
	typeNull jsonschema.Types = 1 << (iota + 1)
	typeBoolean
	typeNumber
	typeInteger
	typeString
	typeArray
	typeObject
)

func isOf(types jsonschema.Types, v any) bool {
	if n, ok := v.(json.Number); ok && types&typeInteger != 0 && types&typeNumber == 0 {
		return isInteger(n)
	}
	return types&typeOf(v) != 0
}

func typeOf(v any) jsonschema.Types {
	switch v.(type) {
	case nil:
		return typeNull
	case bool:
		return typeBoolean
	case json.Number:
		return typeNumber
	case string:
		return typeString
	case []any:
		return typeArray
	}
	return typeObject
}

func typeName(v any) string { return typeOf(v).ToStrings()[0] }
