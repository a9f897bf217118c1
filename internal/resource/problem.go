package resource

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// The reasons of problems. They are part of the API: programs match them.
const (
	ReasonMalformed         = "malformed"          // not YAML
	ReasonUnsupportedYAML   = "unsupported_yaml"   // an anchor, an alias or a tag
	ReasonTooLarge          = "too_large"          // a resource or a file
	ReasonTooDeep           = "too_deep"           // values nested in values
	ReasonTooMany           = "too_many"           // resources in one file
	ReasonUnknownKind       = "unknown_kind"       //
	ReasonUnknownField      = "unknown_field"      //
	ReasonUnknownValue      = "unknown_value"      // of a field that takes one of several words
	ReasonWrongType         = "wrong_type"         // text for a list, say
	ReasonInvalidValue      = "invalid_value"      // of the right type
	ReasonRequired          = "required"           // is missing
	ReasonConflictingFields = "conflicting_fields" // of which one may be given
	ReasonDuplicateField    = "duplicate_field"    // given twice in one mapping
)

// MaxProblems bounds how many problems are kept.
const MaxProblems = 100

// Problem is one thing that is wrong with a resource.
type Problem struct {
	Resource string // kind/namespace/name as given; empty when the request itself is wrong
	Index    int    // of the resource in the request or file, from 0
	Field    string // such as spec.when or metadata.name; empty when it is none in particular
	Reason   string // a stable code: one of the Reason constants, or of those of package admission
	Message  string // for people

	// Line and Column are within the field's text, from 1, for expressions;
	// within the file for what ParseYAML finds; else 0.
	Line, Column int
}

// String returns the problem on one line.
func (p Problem) String() string {
	parts := make([]string, 0, 3)
	for _, part := range [...]string{p.Resource, p.Field} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	if p.Line > 0 {
		parts = append(parts, fmt.Sprintf("line %d, column %d", p.Line, p.Column))
	}
	return strings.Join(append(parts, p.Message), ": ")
}

// Problems are what is wrong with a request or a file, in order. The zero value
// says that nothing is.
type Problems struct {
	Kept  []Problem // the first MaxProblems
	Total int       // how many there were in all
}

// Add appends a problem.
func (p *Problems) Add(one Problem) {
	p.Total++
	if len(p.Kept) < MaxProblems {
		p.Kept = append(p.Kept, one)
	}
}

// Join appends the problems of the resource at index.
func (p *Problems) Join(index int, of Problems) {
	for _, one := range of.Kept {
		one.Index = index
		p.Add(one)
	}
	p.Total += of.Total - len(of.Kept)
}

// longestQuote bounds, in bytes, what a problem repeats of its resource.
const longestQuote = 64

// quote returns s in quotes, shortened.
func quote(s string) string { return fmt.Sprintf("%q", shorten(s)) }

func shorten(s string) string {
	if len(s) <= longestQuote {
		return s
	}
	cut := longestQuote
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "..."
}

// Merge appends the problems of others as they are.
func (p *Problems) Merge(of Problems) {
	for _, one := range of.Kept {
		p.Add(one)
	}
	p.Total += of.Total - len(of.Kept)
}
