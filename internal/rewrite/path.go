// Package rewrite says what routes make of requests on their way and of the answers
// to them, so that what is forwarded is known before it is, and shown as it is.
package rewrite

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/internal/pattern"
	"github.com/sallyport/sallyport/internal/request"
)

// Path makes another path of one that a route takes. It is immutable; nil makes
// none.
type Path struct {
	templates []pattern.Path // of the route, the most specific first
	parts     [][]part       // for each of them
	target    pattern.Path
}

// part is a piece of the path that is made: a text, or a segment of the other.
type part struct {
	text    string
	segment int  // from 0; -1 for none
	rest    bool // and all that follow
}

// NewPath returns what makes a path by target, a template of package pattern whose
// names are those of the route's templates, and that may end with "**" if all of them
// do. Without templates the route's are "/**".
func NewPath(templates []string, target string) (*Path, error) {
	to, err := pattern.ParsePath(target)
	if err != nil {
		return nil, err
	}
	if len(templates) == 0 {
		templates = []string{"/**"}
	}
	p := &Path{target: to}
	for _, text := range templates {
		from, err := pattern.ParsePath(text)
		if err != nil {
			return nil, err
		}
		p.templates = append(p.templates, from)
	}
	slices.SortFunc(p.templates, pattern.Path.Compare)
	for _, from := range p.templates {
		parts, err := partsOf(from.String(), target)
		if err != nil {
			return nil, err
		}
		p.parts = append(p.parts, parts)
	}
	return p, nil
}

func partsOf(from, target string) ([]part, error) {
	given := strings.Split(from[1:], "/")
	var parts []part
	text := ""
	for segment := range strings.SplitSeq(target[1:], "/") {
		switch {
		case segment == "*":
			return nil, errors.New(`"*" stands for nothing here: give segments names`)
		case segment == "**":
			if given[len(given)-1] != "**" {
				return nil, fmt.Errorf(`it ends with "**", and the path %q does not`, from)
			}
			return append(parts, part{text: text, segment: -1}, part{segment: len(given) - 1, rest: true}), nil
		case strings.HasPrefix(segment, "{"):
			i := slices.Index(given, segment)
			if i < 0 {
				return nil, fmt.Errorf("the path %q has no segment %s", from, segment)
			}
			parts = append(parts, part{text: text + "/", segment: -1}, part{segment: i})
			text = ""
		default:
			text += "/" + segment
		}
	}
	return append(parts, part{text: text, segment: -1}), nil
}

// Of returns what becomes of a canonical path that the route takes. It is false for
// one that it does not take, and where the result would be none that a request can
// have, since it is too long.
func (p *Path) Of(path string) (string, bool) {
	i := slices.IndexFunc(p.templates, func(t pattern.Path) bool { return t.Match(path) })
	if i < 0 {
		return "", false
	}
	// One more than a template has segments: where the last one ends.
	var starts [pattern.MaxPathSegments + 1]int
	cut(path, &starts)
	var b strings.Builder
	b.Grow(len(path) + len(p.target.String()))
	for _, part := range p.parts[i] {
		switch {
		case part.rest:
			b.WriteString(path[min(starts[part.segment], len(path)):])
		case part.segment >= 0:
			b.WriteString(path[starts[part.segment]+1 : starts[part.segment+1]])
		default:
			b.WriteString(part.text)
		}
	}
	if b.Len() == 0 {
		b.WriteByte('/') // all of "/**" is nothing
	}
	return b.String(), request.IsPath(b.String())
}

// cut notes where segments start, with their slashes; those beyond the path start
// at its end.
func cut(path string, starts *[pattern.MaxPathSegments + 1]int) {
	n := 0
	for i := 0; i < len(path) && n < len(starts); i++ {
		if path[i] == '/' {
			starts[n] = i
			n++
		}
	}
	for ; n < len(starts); n++ {
		starts[n] = len(path)
	}
}

// String returns the template by which paths are made.
func (p *Path) String() string { return p.target.String() }
