package pattern

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// Bounds of a path template.
const (
	MaxPathLength   = 1024
	MaxPathSegments = 64
)

// Path is a template for request paths:
//
//	/v1/orders        this path and no other; case and trailing slash count
//	/v1/orders/{id}   "{id}" (or "*") stands for exactly one non-empty segment
//	/v1/**            "**", last only, for zero or more segments: it matches
//	                  "/v1", "/v1/", "/v1/orders" and "/v1/orders/7/"
//
// A Path is immutable. The zero value matches nothing.
type Path struct {
	text     string
	segments []Segment
	named    bool // some segment has a name
}

// ParsePath reads a path template of at most MaxPathLength bytes and
// MaxPathSegments segments. Literal segments must be spelled in the canonical
// form of package request, since nothing else could ever match: what RFC 3986
// allows in a segment stands for itself, save "+", and every other byte is an
// upper-case escape of valid UTF-8 ("/caf%C3%A9"). Names in braces are
// identifiers and occur once.
func ParsePath(s string) (Path, error) {
	if len(s) > MaxPathLength {
		return Path{}, fmt.Errorf("path template of %d bytes: more than %d", len(s), MaxPathLength)
	}
	if !strings.HasPrefix(s, "/") {
		return Path{}, fmt.Errorf(`path template %q: does not start with "/"`, s)
	}
	if n := strings.Count(s, "/"); n > MaxPathSegments {
		return Path{}, fmt.Errorf("path template of %d segments: more than %d", n, MaxPathSegments)
	}
	segments, err := parsePathSegments(s[1:])
	if err != nil {
		return Path{}, fmt.Errorf("path template %q: %w", s, err)
	}
	return Path{text: s, segments: segments, named: strings.Contains(s, "{")}, nil
}

func parsePathSegments(rest string) ([]Segment, error) {
	segments := make([]Segment, 0, strings.Count(rest, "/")+1)
	var names []string
	for more := true; more; {
		var text string
		text, rest, more = next(rest)
		if text == "" && more {
			return nil, errEmptySegment
		}
		segment, name, err := parsePathSegment(text)
		if err != nil {
			return nil, err
		}
		if segment.Kind == Rest && more {
			return nil, errRestNotLast
		}
		if name != "" {
			if slices.Contains(names, name) {
				return nil, fmt.Errorf("name %q is used twice", name)
			}
			names = append(names, name)
		}
		segments = append(segments, segment)
	}
	return segments, nil
}

func parsePathSegment(text string) (s Segment, name string, err error) {
	switch {
	case text == "*":
		return Segment{Kind: One}, "", nil
	case text == "**":
		return Segment{Kind: Rest}, "", nil
	case strings.HasPrefix(text, "{") && strings.HasSuffix(text, "}"):
		name = text[1 : len(text)-1]
		if !isIdentifier(name) {
			return Segment{}, "", fmt.Errorf("segment %q: a name is a letter or underscore, then letters, digits, underscores", text)
		}
		return Segment{Kind: One}, name, nil
	case strings.ContainsAny(text, "*{}"):
		return Segment{}, "", fmt.Errorf("segment %q: a wildcard stands for a whole segment", text)
	}
	if err := checkLiteral(text); err != nil {
		return Segment{}, "", fmt.Errorf("segment %q: %w", text, err)
	}
	return Segment{Kind: Literal, Text: text}, "", nil
}

func isIdentifier(name string) bool {
	for i := range len(name) {
		c := name[i]
		letter := c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}

// checkLiteral refuses every spelling that package request would not produce.
func checkLiteral(text string) error {
	if stem, _, params := strings.Cut(text, ";"); isDots(stem) || params && stem == "" {
		return errDotSegment
	}
	decoded := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c == '%' {
			var err error
			if c, err = checkEscape(text[i:]); err != nil {
				return err
			}
			i += 2
		} else if !standsForItself(c) {
			return fmt.Errorf("byte %q is written %%%02X", c, c)
		}
		decoded = append(decoded, c)
	}
	if !utf8.Valid(decoded) {
		return errors.New("escapes are not valid UTF-8")
	}
	return nil
}

// checkEscape returns the byte that s, which starts with a percent sign, stands
// for, unless package request refuses that escape or spells it otherwise.
func checkEscape(s string) (byte, error) {
	c, ok := unescape(s)
	switch {
	case !ok:
		return 0, errors.New("an escape is % and two hexadecimal digits")
	case c == '/':
		return 0, errors.New("escape %2F is for {name}, * and ** to match, where a route keeps it")
	case c < 0x20 || c == 0x7f || c == '\\' || c == ';':
		return 0, fmt.Errorf("escape %s is never let through", s[:3])
	case standsForItself(c):
		return 0, fmt.Errorf("escape %s is written %c", s[:3], c)
	case s[:3] != strings.ToUpper(s[:3]):
		return 0, fmt.Errorf("escape %s is written in upper case", s[:3])
	}
	if c == '%' {
		again, ok := unescape(s[2:])
		if ok && (again < 0x20 || again == 0x7f || strings.IndexByte(`./\;%`, again) >= 0) {
			return 0, fmt.Errorf("double escape %s is never let through", s[:5])
		}
	}
	return c, nil
}

// unescape decodes the two hexadecimal digits behind the first byte of s.
func unescape(s string) (byte, bool) {
	if len(s) < 3 {
		return 0, false
	}
	hi, lo := hexDigit(s[1]), hexDigit(s[2])
	return byte(hi<<4 | lo), hi >= 0 && lo >= 0 //nolint:gosec // two digits, or not ok
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}

// standsForItself tells the bytes that a canonical path holds unescaped: those
// of RFC 3986 section 3.3 without "+", which some servers read as a space.
func standsForItself(c byte) bool {
	switch {
	case c|0x20 >= 'a' && c|0x20 <= 'z', c >= '0' && c <= '9':
		return true
	}
	return strings.IndexByte("-._~!$&'()*,;=:@", c) >= 0
}

// Match reports whether the whole path fits the template. The path is the
// canonical one of package request; one with an empty inner segment or a dot
// segment matches nothing. Match does not allocate.
func (p Path) Match(path string) bool {
	if len(p.segments) == 0 || path == "" || path[0] != '/' {
		return false
	}
	rest, more := path[1:], true
	for i := range p.segments {
		want := &p.segments[i]
		if want.Kind == Rest {
			return !more || isClean(rest)
		}
		if !more {
			return false
		}
		var got string
		got, rest, more = next(rest)
		if want.Kind == Literal && got != want.Text {
			return false
		}
		if want.Kind == One && (got == "" || isDots(got)) {
			return false
		}
	}
	return !more
}

// Capture returns what the names of the template stand for in a path that it
// matches, unescaped; nil when it has none.
func (p Path) Capture(path string) map[string]string {
	if !p.named {
		return nil
	}
	found := make(map[string]string)
	template, rest := strings.TrimPrefix(p.text, "/"), strings.TrimPrefix(path, "/")
	for more := true; more; {
		var want, got string
		want, template, more = next(template)
		got, rest, _ = next(rest)
		if name, ok := strings.CutPrefix(want, "{"); ok {
			if text, err := url.PathUnescape(got); err == nil {
				found[strings.TrimSuffix(name, "}")] = text
			}
		}
	}
	return found
}

// isClean reports whether rest, which starts behind a slash, has neither empty
// inner segments nor dot segments. The usual path costs two fast searches.
func isClean(rest string) bool {
	if strings.HasPrefix(rest, "/") || strings.Contains(rest, "//") {
		return false
	}
	if !strings.HasPrefix(rest, ".") && !strings.Contains(rest, "/.") {
		return true
	}
	for more := true; more; {
		var segment string
		if segment, rest, more = next(rest); isDots(segment) {
			return false
		}
	}
	return true
}

// Compare orders templates for matching, the most specific first. At the first
// segment in which they differ, the end of a template comes before a literal, a
// literal before one segment of any text, and that before "**"; two literals
// are ordered by their bytes. It is zero exactly for templates that match the
// same paths: names do not count.
func (p Path) Compare(q Path) int {
	for i := range min(len(p.segments), len(q.segments)) {
		a, b := p.segments[i], q.segments[i]
		if c := cmp.Or(cmp.Compare(a.Kind, b.Kind), strings.Compare(a.Text, b.Text)); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(p.segments), len(q.segments))
}

// Segments yields the segments in order; none for the zero value.
func (p Path) Segments() iter.Seq[Segment] {
	return func(yield func(Segment) bool) {
		for _, s := range p.segments {
			if !yield(s) {
				return
			}
		}
	}
}

// String returns the template as it was parsed; empty for the zero value.
func (p Path) String() string { return p.text }
