package resource

import (
	"bytes"
	"errors"
	"io"
	"iter"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/types/known/structpb"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// Bounds of a file of resources.
const (
	MaxFile      = 32 << 20   // bytes
	MaxResources = 20_000     // what one Apply takes
	maxYAML      = 2 * MaxSet // bytes of one resource
	maxDepth     = 32         // of values in values
	maxSearched  = 1 << 20    // bytes of one resource of which the faulty line is searched for
)

// Located is a resource that was read from a file.
type Located struct {
	Resource *adminv1.Resource
	Index    int // in the file, from 0; empty documents do not count
	Line     int // where it begins, from 1

	file position
	root *yaml.Node
}

// ParseYAML reads the resources of a file: documents of YAML 1.2 (core schema),
// divided by "---", or of JSON. It finds what is wrong with their form: text
// that is no YAML, and fields and types that no resource has outside its spec.
// The rest is for Decode. A document with such a problem is not returned, and
// counts for the indexes of the others.
//
// Anchors, aliases and tags are refused: what a resource says stands where it
// is said. Only true and false are booleans, and only "30" is a number.
func ParseYAML(data []byte) ([]Located, Problems) {
	var problems Problems
	if len(data) > MaxFile {
		problems.Add(Problem{Reason: ReasonTooLarge, Message: "is larger than " + strconv.Itoa(MaxFile>>20) + " MiB"})
		return nil, problems
	}
	var all []Located
	index := 0
	for at, text := range documents(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))) {
		if index == MaxResources {
			problems.Add(Problem{Index: index, Reason: ReasonTooMany, Line: at.line(1), Column: 1,
				Message: "has more than " + strconv.Itoa(MaxResources) + " resources"})
			break
		}
		y := yamlDecoder{file: at}
		r := y.resource(text)
		if y.root == nil && y.problems.Total == 0 {
			continue
		}
		problems.Join(index, y.problems)
		if y.problems.Total == 0 {
			all = append(all, Located{Resource: r, Index: index, Line: at.line(y.root.Line), file: at, root: y.root})
		}
		index++
	}
	return all, problems
}

// Locate returns the line of the file that a problem of the resource is about,
// or the nearest line that there is.
func (l Located) Locate(p Problem) int {
	key, value := find(l.root, steps(p.Field))
	switch {
	case p.Line > 0 && value.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		return l.file.line(value.Line + p.Line)
	case p.Line > 0:
		return l.file.line(value.Line + p.Line - 1)
	}
	return l.file.line(key.Line)
}

// find walks from n as far as the steps lead. It returns the value found there
// and its key, or whatever else it begins with.
func find(n *yaml.Node, steps []string) (key, value *yaml.Node) {
	key = n
	for _, step := range steps {
		k, v := child(n, step)
		if v == nil {
			break
		}
		key, n = k, v
	}
	return key, n
}

func child(n *yaml.Node, step string) (key, value *yaml.Node) {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if name := n.Content[i].Value; name == step || value == nil && plainName(name) == plainName(step) {
				key, value = n.Content[i], n.Content[i+1]
			}
		}
		return key, value
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(n.Content) {
			return n.Content[i], n.Content[i]
		}
	}
	return nil, nil
}

// plainName is what the spellings of a field's name have in common.
func plainName(name string) string {
	return strings.ToLower(strings.ReplaceAll(name, "_", ""))
}

// position is how many lines of the file are before a document.
type position int

func (p position) line(n int) int { return int(p) + max(n, 1) }

// documents cuts a file at the markers "---" and "...", which YAML knows at the
// beginning of a line wherever they stand. So a document that is broken does
// not hide what is wrong with those behind it.
func documents(data []byte) iter.Seq2[position, []byte] {
	return func(yield func(position, []byte) bool) {
		start, first, n := 0, 0, 0
		for offset := 0; offset < len(data); n++ {
			end := len(data)
			if i := bytes.IndexByte(data[offset:], '\n'); i >= 0 {
				end = offset + i + 1
			}
			begins, ends := marker(data[offset:end], "---"), marker(data[offset:end], "...")
			if begins || ends {
				if !yield(position(first), data[start:offset]) {
					return
				}
				start, first = offset, n
			}
			if ends {
				start, first = end, n+1
			}
			offset = end
		}
		yield(position(first), data[start:])
	}
}

func marker(line []byte, mark string) bool {
	rest, ok := bytes.CutPrefix(line, []byte(mark))
	return ok && (len(rest) == 0 || bytes.IndexByte([]byte(" \t\r\n"), rest[0]) >= 0)
}

// yamlDecoder reads one document of a file.
type yamlDecoder struct {
	decoder
	file position
	root *yaml.Node // nil when there is nothing in it
}

func (y *yamlDecoder) resource(text []byte) *adminv1.Resource {
	y.parse(text)
	if y.root == nil {
		return nil
	}
	v := y.node(nil, y.root, 0)
	r := &adminv1.Resource{}
	if s, ok := v.GetKind().(*structpb.Value_StructValue); ok {
		y.message(nil, s.StructValue, r.ProtoReflect())
	} else {
		y.mistyped(nil, v, "a mapping with apiVersion, kind, metadata and spec")
	}
	name := shown(Key{Kind: Kind(r.GetKind()), Namespace: r.GetMetadata().GetNamespace(), Name: r.GetMetadata().GetName()})
	for i := range y.problems.Kept {
		p := &y.problems.Kept[i]
		p.Resource = name
		if p.Line == 0 {
			key, _ := find(y.root, steps(p.Field))
			p.Line, p.Column = y.file.line(key.Line), max(key.Column, 1)
		}
	}
	return r
}

// parse sets root to what is in the document, if there is anything.
func (y *yamlDecoder) parse(text []byte) {
	malformed := func(line int, reason, message string) {
		y.problems.Add(Problem{Reason: reason, Message: message, Line: y.file.line(line), Column: 1})
	}
	switch bad := invalidUTF8(text); {
	case len(text) > maxYAML:
		malformed(1, ReasonTooLarge, "is larger than "+strconv.Itoa(maxYAML>>20)+" MiB")
		return
	case bad >= 0:
		malformed(1+bytes.Count(text[:bad], []byte("\n")), ReasonMalformed, "is not UTF-8")
		return
	}
	root, err := parseNode(text)
	switch {
	case err != nil:
		malformed(faultyLine(text, err), ReasonMalformed, "is not YAML: "+complaint(err))
	case root != nil && (root.Kind != yaml.ScalarNode || root.Value != ""):
		y.root = root
	}
}

func invalidUTF8(text []byte) int {
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

// errSecond says that YAML sees a line, and a marker on it, where we see none:
// it knows more line breaks than "\n".
var errSecond = errors.New("holds a second document: divide documents by lines that end in a line feed")

// parseNode returns the root of a document, nil when there is nothing in it.
func parseNode(text []byte) (*yaml.Node, error) {
	var n, second yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(text))
	switch err := d.Decode(&n); {
	case errors.Is(err, io.EOF):
		return nil, nil //nolint:nilnil // documented: nothing in it
	case err != nil:
		return nil, err
	}
	switch err := d.Decode(&second); {
	case err == nil:
		return nil, errSecond
	case !errors.Is(err, io.EOF):
		return nil, err
	}
	return n.Content[0], nil
}

// faultyLine returns the first line with which the document fails as it does.
// The parser itself names, if any, the line on which the construct began that
// it could not make sense of: in a long document, which takes long to parse,
// that has to do.
func faultyLine(text []byte, err error) int {
	if len(text) > maxSearched {
		return namedLine(err)
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	ends, end := make([]int, len(lines)), 0
	for i, l := range lines {
		end += len(l)
		ends[i] = end
	}
	return 1 + sort.Search(len(lines)-1, func(i int) bool {
		_, sooner := parseNode(text[:ends[i]])
		return sooner != nil && sooner.Error() == err.Error()
	})
}

// complaint is the parser's text without its idea of the line.
func complaint(err error) string {
	_, text := cutLine(err)
	return shorten(text)
}

// namedLine is the parser's idea of the line, the first when it has none.
func namedLine(err error) int {
	line, _ := cutLine(err)
	n, err := strconv.Atoi(line)
	if err != nil {
		return 1
	}
	return n
}

// cutLine takes the parser's text apart.
func cutLine(err error) (line, text string) {
	text = strings.TrimPrefix(err.Error(), "yaml: ")
	if numbered, ok := strings.CutPrefix(text, "line "); ok {
		if line, rest, ok := strings.Cut(numbered, ": "); ok {
			return line, rest
		}
	}
	return "", text
}

// node returns n as a value. What it refuses becomes null, which nothing takes.
func (y *yamlDecoder) node(at *place, n *yaml.Node, depth int) *structpb.Value {
	refuse := func(reason, message string) *structpb.Value {
		y.problems.Add(Problem{Field: at.String(), Reason: reason, Message: message,
			Line: y.file.line(n.Line), Column: max(n.Column, 1)})
		return structpb.NewNullValue()
	}
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		return refuse(ReasonUnsupportedYAML, "anchors and aliases are not taken: say it where it is meant")
	case n.Style&yaml.TaggedStyle != 0:
		return refuse(ReasonUnsupportedYAML, "tags are not taken")
	case depth > maxDepth:
		return refuse(ReasonTooDeep, "is nested deeper than "+strconv.Itoa(maxDepth))
	}
	switch n.Kind {
	case yaml.MappingNode:
		return y.mapping(at, n, depth)
	case yaml.SequenceNode:
		list := &structpb.ListValue{Values: make([]*structpb.Value, len(n.Content))}
		for i, element := range n.Content {
			list.Values[i] = y.node(at.element(i), element, depth+1)
		}
		return structpb.NewListValue(list)
	case yaml.ScalarNode:
		return scalar(n)
	}
	return refuse(ReasonMalformed, "is no mapping, list or scalar")
}

func (y *yamlDecoder) mapping(at *place, n *yaml.Node, depth int) *structpb.Value {
	s := &structpb.Struct{Fields: make(map[string]*structpb.Value, len(n.Content)/2)}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, in := n.Content[i], at
		refuse := func(reason, message string) {
			y.problems.Add(Problem{Field: in.String(), Reason: reason, Message: message,
				Line: y.file.line(key.Line), Column: max(key.Column, 1)})
		}
		if key.Kind != yaml.ScalarNode {
			refuse(ReasonWrongType, "the name of a field is text")
			continue
		}
		in = at.to(key.Value)
		switch _, twice := s.Fields[key.Value]; {
		case key.Anchor != "" || key.Style&yaml.TaggedStyle != 0:
			refuse(ReasonUnsupportedYAML, "anchors and tags are not taken")
		case twice:
			refuse(ReasonDuplicateField, quote(key.Value)+" is given twice")
		default:
			s.Fields[key.Value] = y.node(in, n.Content[i+1], depth+1)
		}
	}
	return structpb.NewStructValue(s)
}

// scalar resolves a scalar by the core schema of YAML 1.2, section 10.3.2,
// except that .inf and .nan, which JSON does not know, are text.
func scalar(n *yaml.Node) *structpb.Value {
	if n.Style != 0 {
		return structpb.NewStringValue(n.Value)
	}
	switch n.Value {
	case "", "~", "null", "Null", "NULL":
		return structpb.NewNullValue()
	case "true", "True", "TRUE":
		return structpb.NewBoolValue(true)
	case "false", "False", "FALSE":
		return structpb.NewBoolValue(false)
	}
	if f, ok := number(n.Value); ok {
		return structpb.NewNumberValue(f)
	}
	return structpb.NewStringValue(n.Value)
}

func number(text string) (float64, bool) {
	for _, base := range []struct {
		prefix string
		base   int
	}{{"0o", 8}, {"0x", 16}} {
		if digits, ok := strings.CutPrefix(text, base.prefix); ok {
			n, err := strconv.ParseUint(digits, base.base, 64)
			return float64(n), err == nil
		}
	}
	if strings.Trim(text, "0123456789+-.eE") != "" {
		return 0, false
	}
	f, err := strconv.ParseFloat(text, 64)
	return f, err == nil
}
