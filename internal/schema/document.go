package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Error is what is wrong with a document, in MaxProblems problems at most.
type Error struct{ Problems []Problem }

func (e *Error) Error() string {
	p := e.Problems[0]
	text := p.Pointer + ": " + p.Detail
	if p.Pointer == "" {
		text = p.Detail
	}
	if p.Line > 0 {
		text = "line " + strconv.Itoa(p.Line) + ": " + text
	}
	if more := len(e.Problems) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return text
}

func wrong(pointer, format string, args ...any) *Error {
	return &Error{[]Problem{{Pointer: pointer, Detail: fmt.Sprintf(format, args...)}}}
}

func wrongAt(line int, format string, args ...any) *Error {
	return &Error{[]Problem{{Line: line, Detail: fmt.Sprintf(format, args...)}}}
}

// parseDocument reads a document of JSON or YAML, with maps for objects. It takes
// neither anchors nor tags, which could make much of little.
func parseDocument(text string) (any, *Error) {
	text = strings.TrimPrefix(text, "\ufeff")
	if strings.HasPrefix(strings.TrimLeft(text, " \t\r\n"), "{") {
		if v, err := parseJSON(text); err == nil {
			return plain(v), nil
		} else if !isFlowStyle(text) {
			return nil, inJSON(text, err)
		}
	}
	if !utf8.ValidString(text) {
		return nil, wrong("", "is not UTF-8")
	}
	root, err := parseYAML(text)
	if err != nil {
		return nil, wrongAt(yamlLine(err), "is not YAML: %s", complaint(err))
	}
	d := yamlReader{left: maxValues}
	return d.value(root, 0)
}

// isFlowStyle reports whether a text that begins with a brace is YAML after all:
// JSON has a quoted name behind it.
func isFlowStyle(text string) bool {
	rest := strings.TrimLeft(strings.TrimLeft(text, " \t\r\n")[1:], " \t\r\n")
	return rest != "" && rest[0] != '"' && rest[0] != '}'
}

func inJSON(text string, err error) *Error {
	var e *syntaxError
	if !errors.As(err, &e) {
		return wrong("", "is not JSON: %v", err)
	}
	return wrongAt(1+strings.Count(text[:min(e.offset, len(text))], "\n"), "is not JSON: %s", e.detail)
}

func parseYAML(text string) (*yaml.Node, error) {
	var n, second yaml.Node
	d := yaml.NewDecoder(bytes.NewReader([]byte(text)))
	switch err := d.Decode(&n); {
	case errors.Is(err, io.EOF):
		return nil, errors.New("is empty")
	case err != nil:
		return nil, err
	}
	if err := d.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, errors.New("holds more than one document")
	}
	return n.Content[0], nil
}

// yamlLine is the line that the parser names, 0 if it names none.
func yamlLine(err error) (line int) {
	if _, rest, ok := strings.Cut(err.Error(), "line "); ok {
		digits, _, _ := strings.Cut(rest, ":")
		line, _ = strconv.Atoi(digits)
	}
	return line
}

// complaint is the parser's text without its line, and in one line.
func complaint(err error) string {
	text, _, _ := strings.Cut(strings.TrimPrefix(err.Error(), "yaml: "), "\n")
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		if _, rest, ok = strings.Cut(rest, ": "); ok {
			text = rest
		}
	}
	const most = 128
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "..."
	}
	return text
}

type yamlReader struct{ left int }

func (y *yamlReader) value(n *yaml.Node, depth int) (any, *Error) {
	y.left--
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		return nil, wrongAt(n.Line, "anchors and aliases are not taken: say it where it is meant, or refer to it")
	case n.Style&yaml.TaggedStyle != 0:
		return nil, wrongAt(n.Line, "tags are not taken")
	case depth > MaxDepth:
		return nil, wrongAt(n.Line, "values are nested deeper than %d", MaxDepth)
	case y.left < 0:
		return nil, wrongAt(n.Line, "has more than %d values", maxValues)
	}
	switch n.Kind {
	case yaml.MappingNode:
		return y.mapping(n, depth)
	case yaml.SequenceNode:
		list := make([]any, len(n.Content))
		for i, element := range n.Content {
			v, err := y.value(element, depth+1)
			if err != nil {
				return nil, err
			}
			list[i] = v
		}
		return list, nil
	}
	return scalar(n)
}

func (y *yamlReader) mapping(n *yaml.Node, depth int) (any, *Error) {
	m := make(map[string]any, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode || key.Anchor != "" || key.Style&yaml.TaggedStyle != 0 {
			return nil, wrongAt(key.Line, "the name of a member is text")
		}
		if _, twice := m[key.Value]; twice {
			return nil, wrongAt(key.Line, "the member %s is there twice", shown(key.Value))
		}
		v, err := y.value(n.Content[i+1], depth+1)
		if err != nil {
			return nil, err
		}
		m[key.Value] = v
	}
	return m, nil
}

// scalar resolves a scalar by the core schema of YAML 1.2, as resources do.
func scalar(n *yaml.Node) (any, *Error) {
	if n.Style != 0 {
		return n.Value, nil
	}
	switch n.Value {
	case "", "~", "null", "Null", "NULL":
		return nil, nil
	case "true", "True", "TRUE":
		return true, nil
	case "false", "False", "FALSE":
		return false, nil
	}
	if strings.Trim(n.Value, "0123456789+-.eE") != "" || !strings.ContainsAny(n.Value, "0123456789") {
		return n.Value, nil
	}
	if v, err := parseJSON(n.Value); err == nil {
		return v, nil
	}
	f, err := strconv.ParseFloat(n.Value, 64)
	if err != nil {
		return n.Value, nil //nolint:nilerr // it is text
	}
	return json.Number(strconv.FormatFloat(f, 'g', -1, 64)), nil
}

// lookup returns what a JSON pointer leads to.
func lookup(document any, pointer string) (any, bool) {
	if pointer == "" {
		return document, true
	}
	if !strings.HasPrefix(pointer, "/") {
		return nil, false
	}
	at := document
	for token := range strings.SplitSeq(pointer[1:], "/") {
		name := strings.ReplaceAll(strings.ReplaceAll(token, "~1", "/"), "~0", "~")
		switch in := at.(type) {
		case map[string]any:
			v, ok := in[name]
			if !ok {
				return nil, false
			}
			at = v
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(in) {
				return nil, false
			}
			at = in[i]
		default:
			return nil, false
		}
	}
	return at, true
}

// names are those of the members of an object, sorted; none of anything else.
func names(v any) []string {
	m, _ := v.(map[string]any)
	all := make([]string, 0, len(m))
	for name := range m {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

func isTrue(v any) bool {
	is, _ := v.(bool)
	return is
}
