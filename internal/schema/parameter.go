package schema

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Where a parameter stands.
const (
	inPath   = "path"
	inQuery  = "query"
	inHeader = "header"
	inCookie = "cookie"
)

// parameter is one value of a request beside its body.
type parameter struct {
	in, name string
	header   string // the canonical name of a header field
	required bool
	style    string
	explode  bool
	isJSON   bool
	schema   *jsonschema.Schema // nil for any value

	field
	members map[string]field // of an object
}

// parameter reads a Parameter Object; nil for one that nobody looks at.
func (r *reader) parameter(from map[string]any, at string) *parameter {
	p := &parameter{required: isTrue(from["required"])}
	p.in, _ = from["in"].(string)
	p.name, _ = from["name"].(string)
	if p.name == "" {
		r.refuse(at+"/name", "is missing")
		return nil
	}
	if !r.serialisation(p, from, at) {
		return nil
	}
	switch schema := at + "/schema"; {
	case from["schema"] != nil:
		r.value(p, schema)
	case from["content"] != nil:
		r.content(p, from, at)
	}
	return p
}

// serialisation reads how a parameter is written.
func (r *reader) serialisation(p *parameter, from map[string]any, at string) bool {
	var styles []string
	switch p.in {
	case inPath:
		styles, p.required = []string{"simple"}, true
	case inQuery:
		styles = []string{"form", "spaceDelimited", "pipeDelimited", "deepObject"}
	case inHeader:
		styles = []string{"simple"}
		p.header = canonicalHeader(p.name)
		if p.header == "Accept" || p.header == "Content-Type" || p.header == "Authorization" {
			return false // OpenAPI has it said elsewhere
		}
	case inCookie:
		styles = []string{"form"}
	default:
		r.refuse(at+"/in", "is none of path, query, header and cookie")
		return false
	}
	p.style = styles[0]
	if style, ok := from["style"].(string); ok {
		p.style = style
	}
	p.explode = p.style == "form"
	if explode, ok := from["explode"].(bool); ok {
		p.explode = explode
	}
	if !slices.Contains(styles, p.style) {
		r.refuse(at+"/style", "is none of %s", strings.Join(styles, ", "))
	}
	return true
}

func (r *reader) value(p *parameter, at string) {
	r.add(at)
	r.later = append(r.later, func(done *compiled) {
		if p.schema = done.take(at); p.schema == nil {
			return
		}
		p.field, p.members = fieldOf(p.schema), membersOf(p.schema)
	})
}

// content reads a parameter that is a text of some media type.
func (r *reader) content(p *parameter, from map[string]any, at string) {
	all := names(from["content"])
	if len(all) != 1 || !isJSON(all[0]) {
		r.refuse(at+"/content", "is not one media type of JSON")
		return
	}
	p.isJSON = true
	if media, at := r.resolve(at + "/content/" + escapeToken(all[0])); media["schema"] != nil {
		r.add(at + "/schema")
		r.later = append(r.later, func(done *compiled) { p.schema = done.take(at + "/schema") })
	}
}

// coerce makes of a text what types ask for.
func coerce(text string, types jsonschema.Types) any {
	const noText = typeNull | typeBoolean | typeNumber | typeInteger
	if types&noText == 0 {
		return text
	}
	switch v, err := parseJSON(text); v := v.(type) {
	case json.Number:
		if err == nil && isOf(types, v) {
			return v
		}
	case bool:
		if err == nil && isOf(types, v) {
			return v
		}
	}
	if text == "" && types&typeNull != 0 && types&typeString == 0 {
		return nil
	}
	return text
}

// decode makes a value of the texts that are given for a parameter, one or more.
func (p *parameter) decode(texts []string) (any, string) {
	switch {
	case p.isJSON:
		v, err := parseJSON(texts[0])
		if err != nil || len(texts) > 1 {
			return nil, "is not JSON"
		}
		return v, ""
	case p.takes&typeArray != 0:
		return p.array(texts), ""
	case len(texts) > 1:
		return nil, "is there more than once"
	case p.takes&typeObject != 0:
		return p.object(texts[0])
	}
	return coerce(texts[0], p.takes), ""
}

func (p *parameter) array(texts []string) any {
	separator := ","
	switch p.style {
	case "spaceDelimited":
		separator = " "
	case "pipeDelimited":
		separator = "|"
	}
	if !p.explode || p.in == inHeader || p.in == inPath {
		texts = strings.Split(strings.Join(texts, separator), separator)
	}
	list := make([]any, len(texts))
	for i, text := range texts {
		if p.in == inHeader {
			text = strings.Trim(text, " \t")
		}
		list[i] = coerce(text, p.elements)
	}
	return list
}

// object reads "a,1,b,2", or with explode "a=1,b=2".
func (p *parameter) object(text string) (any, string) {
	const notOne = "is not written as an object"
	o := &object{}
	fields := strings.Split(text, ",")
	for len(fields) > 0 {
		name, value, ok := fields[0], "", false
		if p.explode {
			name, value, ok = strings.Cut(fields[0], "=")
			fields = fields[1:]
		} else if len(fields) > 1 {
			value, ok, fields = fields[1], true, fields[2:]
		}
		if !ok || !o.add(name, coerce(value, p.members[name].takes)) {
			return nil, notOne
		}
	}
	return o, ""
}
