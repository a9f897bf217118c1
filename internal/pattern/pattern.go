// Package pattern matches request paths and SPIFFE IDs against templates, one
// whole segment at a time, so that no prefix or substring can pass for a match.
package pattern

import (
	"errors"
	"strings"
)

// Kind says what a segment of a template matches.
type Kind uint8

// The kinds, the most specific first. Zero is no kind: it matches nothing.
const (
	Literal Kind = iota + 1 // exactly its text
	One                     // exactly one non-empty segment: "*" or "{name}"
	Rest                    // zero or more segments: "**", last only
)

// Segment is one segment of a template. Text is set for a Literal alone; it is
// empty only for the last segment of a path template with a trailing slash.
type Segment struct {
	Kind Kind
	Text string
}

var (
	errEmptySegment = errors.New("empty segment")
	errDotSegment   = errors.New(`"." and ".." are not allowed as segments`)
	errRestNotLast  = errors.New(`"**" is allowed as the last segment only`)
)

// next cuts the first segment off rest, which starts behind a slash. more says
// that a slash, and so at least one further (maybe empty) segment, follows.
func next(rest string) (segment, tail string, more bool) {
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		return rest[:i], rest[i+1:], true
	}
	return rest, "", false
}

func isDots(segment string) bool { return segment == "." || segment == ".." }
