package schema

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// node is a place in the tree of path templates: one for each way that templates
// begin, so that a path is looked for in each at most once.
type node struct {
	literals   map[string]*node
	variables  []variable
	template   string                // that ends here; empty for none
	operations map[string]*operation // by method
}

// variable is a segment with names in it: "{id}", "report.{format}".
type variable struct {
	parts []string // the texts before, between and behind the names
	names []string
	to    *node
}

// parseSegment reads a segment that has names in it.
func parseSegment(text string) (variable, error) {
	var v variable
	for rest := text; ; {
		before, after, found := strings.Cut(rest, "{")
		if strings.Contains(before, "}") {
			return v, fmt.Errorf("has a brace that nothing opens, in %s", shown(text))
		}
		v.parts = append(v.parts, before)
		if !found {
			return v, nil
		}
		name, behind, closed := strings.Cut(after, "}")
		switch {
		case !closed || name == "" || strings.Contains(name, "{"):
			return v, fmt.Errorf("has a brace that nothing closes, in %s", shown(text))
		case len(v.names) > 0 && before == "":
			return v, fmt.Errorf("has two names side by side, in %s", shown(text))
		case slices.Contains(v.names, name):
			return v, fmt.Errorf("has a name twice, in %s", shown(text))
		}
		v.names = append(v.names, name)
		rest = behind
	}
}

// grow returns the node of a template, made as far as it was not there.
func (n *node) grow(template string) (*node, error) {
	if !strings.HasPrefix(template, "/") {
		return nil, errors.New("does not begin with a slash")
	}
	for text := range strings.SplitSeq(template[1:], "/") {
		v, err := parseSegment(text)
		if err != nil {
			return nil, err
		}
		n = n.child(v)
	}
	if n.template != "" {
		return nil, fmt.Errorf("matches the same paths as %s", shown(n.template))
	}
	n.template = template
	return n, nil
}

func (n *node) child(v variable) *node {
	if len(v.names) == 0 {
		if n.literals == nil {
			n.literals = make(map[string]*node)
		}
		if n.literals[v.parts[0]] == nil {
			n.literals[v.parts[0]] = &node{}
		}
		return n.literals[v.parts[0]]
	}
	for i := range n.variables {
		if slices.Equal(n.variables[i].parts, v.parts) {
			return n.variables[i].to
		}
	}
	v.to = &node{}
	n.variables = append(n.variables, v)
	// The one that says more goes first.
	slices.SortStableFunc(n.variables, func(a, b variable) int { return len(strings.Join(b.parts, "")) - len(strings.Join(a.parts, "")) })
	return v.to
}

// find returns the node of the template that a path matches, nil if there is none,
// and appends what stands in the place of names to values. Segments are as they were
// escaped.
func (n *node) find(segments, values []string) (*node, []string) {
	if len(segments) == 0 {
		if n.template == "" {
			return nil, nil
		}
		return n, values
	}
	text, err := url.PathUnescape(segments[0])
	if err != nil {
		return nil, nil
	}
	if to := n.literals[text]; to != nil {
		if found, all := to.find(segments[1:], values); found != nil {
			return found, all
		}
	}
	for i := range n.variables {
		own, ok := n.variables[i].match(text, values)
		if !ok {
			continue
		}
		if found, all := n.variables[i].to.find(segments[1:], own); found != nil {
			return found, all
		}
	}
	return nil, nil
}

// match appends what stands in the place of each name, which is not nothing and as
// short as it may be.
func (v *variable) match(text string, values []string) ([]string, bool) {
	rest, ok := strings.CutPrefix(text, v.parts[0])
	for i := 1; ok && i < len(v.parts); i++ {
		last, part := i == len(v.parts)-1, v.parts[i]
		end := len(rest)
		switch {
		case last && !strings.HasSuffix(rest, part):
			return nil, false
		case last:
			end -= len(part)
		default:
			end = strings.Index(rest, part)
		}
		if end <= 0 {
			return nil, false
		}
		values = append(values, rest[:end])
		rest = rest[end+len(part):]
	}
	return values, ok
}
