package policy

import (
	"net/textproto"
	"slices"
	"strconv"
	"strings"
)

// Field is a header field or a parameter of the query that conditions look at by
// name. One of Header, which is canonical, and Param is set.
type Field struct {
	Name          string // as conditions call it, such as request.params["page"]
	Header, Param string
}

// ParseField reads a field's name; false where it is none of those.
func ParseField(name string) (Field, bool) {
	whole, rest, indexed := strings.Cut(name, "[")
	key, err := strconv.Unquote(strings.TrimSuffix(rest, "]"))
	switch {
	case !indexed || err != nil:
	case whole == "request.headers":
		return Field{Name: name, Header: textproto.CanonicalMIMEHeaderKey(key)}, true
	case whole == "request.params":
		return Field{Name: name, Param: key}, true
	}
	return Field{}, false
}

// Fields returns those that the conditions of a route's policies look at by name,
// each once, in order.
func (s *Set) Fields(route RouteID) (all []Field) {
	for _, p := range s.Of(route) {
		for _, name := range p.Reads() {
			if f, ok := ParseField(name); ok {
				all = append(all, f)
			}
		}
	}
	slices.SortFunc(all, func(a, b Field) int { return strings.Compare(a.Name, b.Name) })
	return slices.Compact(all)
}

// Value returns what a condition sees in a field of a request; false where it is not
// there.
func (in *Input) Value(f Field) (string, bool) {
	if f.Header != "" {
		return headers(in.Header).first(f.Header)
	}
	params, known := (*facts)(in).params()
	v, ok := params[f.Param]
	return v, known && ok
}
