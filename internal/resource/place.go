package resource

import (
	"fmt"
	"strconv"
	"strings"
)

// place is a place within a resource. Places are linked to the one they are in,
// so that text is made of them only when something is wrong there. A nil place
// is the resource itself.
type place struct {
	in    *place
	field string // a field's JSON name, or the key of a map
	index int    // of a list, when kind is inList
	kind  step
}

type step uint8

const (
	inMessage step = iota
	inMap
	inList
)

func (p *place) to(field string) *place   { return &place{in: p, field: field} }
func (p *place) entry(key string) *place  { return &place{in: p, field: key, kind: inMap} }
func (p *place) element(index int) *place { return &place{in: p, index: index, kind: inList} }

// String returns the path as problems show it: spec.principals[2].spiffe,
// metadata.labels["app"]. What is no name is quoted like the key of a map.
func (p *place) String() string {
	if p == nil {
		return ""
	}
	in := p.in.String()
	switch {
	case p.kind == inList:
		return fmt.Sprintf("%s[%d]", in, p.index)
	case p.kind == inMap || !isName(p.field):
		return in + "[" + quote(p.field) + "]"
	case in == "":
		return p.field
	}
	return in + "." + p.field
}

func isName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c|0x20 < 'a' || c|0x20 > 'z' {
			if i == 0 || c != '_' && (c < '0' || c > '9') {
				return false
			}
		}
	}
	return s != "" && len(s) <= longestQuote
}

// steps takes the text of a path apart: field names, keys of maps, and indexes
// of lists as decimal text. It stops at what it cannot read.
func steps(field string) []string {
	var out []string
	for field != "" {
		switch {
		case strings.HasPrefix(field, `["`):
			quoted, err := strconv.QuotedPrefix(field[1:])
			if err != nil {
				return out
			}
			key, err := strconv.Unquote(quoted)
			if err != nil {
				return out
			}
			out = append(out, key)
			field = strings.TrimPrefix(field[1+len(quoted):], "]")
		case field[0] == '[':
			index, rest, _ := strings.Cut(field[1:], "]")
			out, field = append(out, index), rest
		default:
			field = strings.TrimPrefix(field, ".")
			end := strings.IndexAny(field, ".[")
			if end < 0 {
				end = len(field)
			}
			out, field = append(out, field[:end]), field[end:]
		}
	}
	return out
}

// within reports whether the path inner is outer or a place inside it.
func within(inner, outer string) bool {
	rest, ok := strings.CutPrefix(inner, outer)
	return ok && (rest == "" || outer != "" && (rest[0] == '.' || rest[0] == '['))
}
