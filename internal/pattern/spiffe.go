package pattern

import (
	"errors"
	"fmt"
	"strings"
)

// Bounds of a SPIFFE ID, from the SPIFFE ID specification, section 2.
const (
	MaxSPIFFELength      = 2048
	MaxTrustDomainLength = 255
)

const spiffeScheme = "spiffe://"

// SPIFFE is a template for SPIFFE IDs: a literal trust domain, then segments
// as in Path, without names:
//
//	spiffe://prod.example/ns/shop/web   this ID
//	spiffe://prod.example/ns/*/web      one segment of any text
//	spiffe://prod.example/ns/shop/**    this and everything below it
//
// A SPIFFE is immutable. The zero value matches nothing.
type SPIFFE struct {
	text        string
	trustDomain string
	segments    []Segment
}

// ParseSPIFFE reads a template of at most MaxSPIFFELength bytes. What is not a
// wildcard must conform to the SPIFFE ID specification, sections 2.1 and 2.2: a
// trust domain of lower-case letters, digits, ".", "-" and "_"; segments of
// letters, digits, ".", "-" and "_", none empty or a dot segment.
func ParseSPIFFE(s string) (SPIFFE, error) {
	if len(s) > MaxSPIFFELength {
		return SPIFFE{}, fmt.Errorf("SPIFFE ID pattern of %d bytes: more than %d", len(s), MaxSPIFFELength)
	}
	p, err := parseSPIFFE(s)
	if err != nil {
		return SPIFFE{}, fmt.Errorf("SPIFFE ID pattern %q: %w", s, err)
	}
	return p, nil
}

func parseSPIFFE(s string) (SPIFFE, error) {
	rest, ok := strings.CutPrefix(s, spiffeScheme)
	if !ok {
		return SPIFFE{}, fmt.Errorf("does not start with %q", spiffeScheme)
	}
	trustDomain, rest, more := next(rest)
	if !isTrustDomain(trustDomain) {
		return SPIFFE{}, errors.New(`a trust domain is 1 to 255 lower-case letters, digits, ".", "-", "_", and never a wildcard`)
	}
	p := SPIFFE{text: s, trustDomain: trustDomain}
	for more {
		var text string
		text, rest, more = next(rest)
		segment, err := parseSPIFFESegment(text)
		if err != nil {
			return SPIFFE{}, err
		}
		if segment.Kind == Rest && more {
			return SPIFFE{}, errRestNotLast
		}
		p.segments = append(p.segments, segment)
	}
	return p, nil
}

func parseSPIFFESegment(text string) (Segment, error) {
	switch {
	case text == "*":
		return Segment{Kind: One}, nil
	case text == "**":
		return Segment{Kind: Rest}, nil
	case text == "":
		return Segment{}, errEmptySegment
	case isDots(text):
		return Segment{}, errDotSegment
	case !isSPIFFESegment(text):
		return Segment{}, fmt.Errorf(`segment %q: letters, digits, ".", "-", "_", or a wildcard alone`, text)
	}
	return Segment{Kind: Literal, Text: text}, nil
}

func isTrustDomain(s string) bool {
	for i := range len(s) {
		if s[i] >= 'A' && s[i] <= 'Z' || !isSPIFFEByte(s[i]) {
			return false
		}
	}
	return s != "" && len(s) <= MaxTrustDomainLength
}

func isSPIFFESegment(s string) bool {
	for i := range len(s) {
		if !isSPIFFEByte(s[i]) {
			return false
		}
	}
	return s != "" && !isDots(s)
}

func isSPIFFEByte(c byte) bool {
	return c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_'
}

// Match reports whether id conforms to the SPIFFE ID specification and the
// whole of it fits the template. It does not allocate.
func (p SPIFFE) Match(id string) bool {
	if p.trustDomain == "" || len(id) > MaxSPIFFELength {
		return false
	}
	rest, ok := strings.CutPrefix(id, spiffeScheme)
	if !ok {
		return false
	}
	trustDomain, rest, more := next(rest)
	if trustDomain != p.trustDomain {
		return false
	}
	for i := range p.segments {
		want := &p.segments[i]
		if want.Kind == Rest {
			return !more || areSPIFFESegments(rest)
		}
		if !more {
			return false
		}
		var got string
		got, rest, more = next(rest)
		if want.Kind == Literal && got != want.Text || want.Kind == One && !isSPIFFESegment(got) {
			return false
		}
	}
	return !more
}

func areSPIFFESegments(rest string) bool {
	for more := true; more; {
		var segment string
		if segment, rest, more = next(rest); !isSPIFFESegment(segment) {
			return false
		}
	}
	return true
}

// Common returns an ID that both templates match, the shortest there is; false if
// there is none.
func (p SPIFFE) Common(q SPIFFE) (id string, ok bool) {
	if p.trustDomain == "" || p.trustDomain != q.trustDomain || !meet(p.segments, q.segments) {
		return "", false
	}
	var b strings.Builder
	b.WriteString(spiffeScheme + p.trustDomain)
	for i := range max(len(p.segments), len(q.segments)) {
		if text := narrowest(p.segments, q.segments, i); text != "" {
			b.WriteString("/" + text)
		}
	}
	return b.String(), b.Len() <= MaxSPIFFELength
}

// meet reports whether some segments fit both lists, however long they are.
func meet(a, b []Segment) bool {
	for i := 0; ; i++ {
		switch {
		case i < len(a) && a[i].Kind == Rest, i < len(b) && b[i].Kind == Rest:
			return true
		case i == len(a) || i == len(b):
			return len(a) == len(b)
		case a[i].Kind == Literal && b[i].Kind == Literal && a[i].Text != b[i].Text:
			return false
		}
	}
}

// narrowest is the shortest text of a place in lists that meet; empty where there
// need be none.
func narrowest(a, b []Segment, i int) (text string) {
	for _, list := range [...][]Segment{a, b} {
		switch {
		case i >= len(list):
		case list[i].Kind == Literal:
			return list[i].Text
		case list[i].Kind == One:
			text = "x"
		}
	}
	return text
}

// TrustDomain returns the name of the trust domain; empty for the zero value.
func (p SPIFFE) TrustDomain() string { return p.trustDomain }

// String returns the template as it was parsed; empty for the zero value.
func (p SPIFFE) String() string { return p.text }
