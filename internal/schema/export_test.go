package schema

import "github.com/santhosh-tekuri/jsonschema/v6"

// Judged says what package schema makes of a value, and what the library does, whose
// evaluator is another.
func Judged(document, text string) (ours, theirs bool, err error) {
	s, failed := compile(Source{JSONSchema: document})
	if failed != nil {
		return false, false, failed
	}
	v, err := parseJSON(text)
	if err != nil {
		return false, false, err
	}
	r := newRun()
	ours = r.meets(s.body, v, nil) && !r.exhausted()
	return ours, theirVerdict(s.body, v), nil
}

func theirVerdict(s *jsonschema.Schema, v any) bool { return s.Validate(plain(v)) == nil }

// ParseJSON returns a value as encoding/json would.
func ParseJSON(text string) (any, error) {
	v, err := parseJSON(text)
	return plain(v), err
}
