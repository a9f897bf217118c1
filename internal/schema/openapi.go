package schema

import (
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// operation is what an OpenAPI document says of the requests of one method to the
// paths of one template.
type operation struct {
	names      []string // of the template, in its order
	parameters []*parameter
	body       *content // nil when the operation takes none

	known map[string]bool // names of query parameters
}

// content is what a body may be.
type content struct {
	required bool
	types    []mediaType // what is said most precisely first
}

// reader reads an OpenAPI document.
type reader struct {
	*bundle

	bases []string
	tree  *node
	later []func(*compiled) // what is done once schemas are compiled
}

// methods are those that a path item may have.
func methods() []string {
	return []string{
		http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions,
	}
}

func compileOpenAPI(text, base string) (*Schema, *Error) {
	v, failed := parseDocument(text)
	if failed != nil {
		return nil, failed
	}
	document, _ := v.(map[string]any)
	version, _ := document["openapi"].(string)
	v30 := strings.HasPrefix(version, "3.0.")
	if !v30 && !strings.HasPrefix(version, "3.1.") {
		return nil, wrong("/openapi", "is neither 3.0.x nor 3.1.x")
	}
	r := reader{bundle: &bundle{document: document, v30: v30, defs: make(map[string]any)}, tree: &node{}}
	r.dialect()
	r.servers(base)
	r.paths()
	c := r.compile()
	for _, do := range r.later {
		do(c)
	}
	if len(r.problems) > 0 {
		return nil, &Error{r.problems}
	}
	return &Schema{bases: r.bases, tree: r.tree}, nil
}

// dialect refuses schemas in other words than we read them.
func (r *reader) dialect() {
	switch r.document["jsonSchemaDialect"] {
	case nil, "https://spec.openapis.org/oas/3.1/dialect/base", "https://json-schema.org/draft/2020-12/schema":
	default:
		r.refuse("/jsonSchemaDialect", "is not that of OpenAPI 3.1 or of JSON Schema 2020-12")
	}
}

// servers finds where the paths of the document begin.
func (r *reader) servers(base string) {
	if base != "" {
		r.bases = []string{strings.TrimSuffix(base, "/")}
		return
	}
	servers, _ := r.document["servers"].([]any)
	for i, v := range servers {
		server, _ := v.(map[string]any)
		text, _ := server["url"].(string)
		u, err := url.Parse(substituted(text, server))
		if err != nil {
			r.refuse(fmt.Sprintf("/servers/%d/url", i), "is no URL")
			continue
		}
		if path := strings.TrimSuffix(u.EscapedPath(), "/"); !slices.Contains(r.bases, path) {
			r.bases = append(r.bases, path)
		}
	}
	if len(servers) == 0 {
		r.bases = []string{""}
	}
	// The longest is the one that is meant.
	slices.SortFunc(r.bases, func(a, b string) int { return len(b) - len(a) })
}

// substituted puts the defaults of its variables into a server's URL.
func substituted(text string, server map[string]any) string {
	variables, _ := server["variables"].(map[string]any)
	for _, name := range names(variables) {
		if v, ok := variables[name].(map[string]any); ok {
			value, _ := v["default"].(string)
			text = strings.ReplaceAll(text, "{"+name+"}", value)
		}
	}
	return text
}

func (r *reader) paths() {
	paths := r.document["paths"]
	for _, template := range names(paths) {
		if strings.HasPrefix(template, "x-") {
			continue
		}
		at := "/paths/" + escapeToken(template)
		n, err := r.tree.grow(template)
		if err != nil {
			r.refuse(at, "%v", err)
			continue
		}
		item, at := r.resolve(at)
		if item == nil {
			continue
		}
		n.operations = make(map[string]*operation)
		for _, method := range methods() {
			if word := strings.ToLower(method); item[word] != nil {
				n.operations[method] = r.operation(template, item, at, at+"/"+word)
			}
		}
		if n.operations[http.MethodHead] == nil && n.operations[http.MethodGet] != nil {
			n.operations[http.MethodHead] = n.operations[http.MethodGet]
		}
	}
}

// resolve returns the object at a pointer, or that to which it refers, and where it
// is. It is nil for none, which is refused.
func (r *reader) resolve(at string) (map[string]any, string) {
	for range maxHops {
		v, ok := lookup(r.document, at)
		object, is := v.(map[string]any)
		if !ok || !is {
			r.refuse(at, "is no object")
			return nil, at
		}
		ref, refers := object["$ref"]
		if !refers {
			return object, at
		}
		to, err := localPointer(ref)
		if err != nil {
			r.refuse(at+"/$ref", "%v", err)
			return nil, at
		}
		at = to
	}
	r.refuse(at, "is a reference to references without an end")
	return nil, at
}

func (r *reader) operation(template string, item map[string]any, itemAt, at string) *operation {
	o := &operation{names: templateNames(template), known: make(map[string]bool)}
	from, at := r.resolve(at)
	if from == nil {
		return o
	}
	r.parameters(o, from, at)
	r.parameters(o, item, itemAt)
	for _, name := range o.names {
		if !slices.ContainsFunc(o.parameters, func(p *parameter) bool { return p.in == inPath && p.name == name }) {
			r.refuse(at, "has no parameter %s, which is in its path", shown(name))
		}
	}
	if from["requestBody"] != nil {
		o.body = r.requestBody(at + "/requestBody")
	}
	return o
}

func templateNames(template string) []string {
	var all []string
	for text := range strings.SplitSeq(template, "/") {
		if v, err := parseSegment(text); err == nil {
			all = append(all, v.names...)
		}
	}
	return all
}

// parameters adds those of an operation, or of its path, which the operation's own
// have the better of.
func (r *reader) parameters(o *operation, from map[string]any, at string) {
	list, _ := from["parameters"].([]any)
	for i := range list {
		object, at := r.resolve(fmt.Sprintf("%s/parameters/%d", at, i))
		if object == nil {
			continue
		}
		p := r.parameter(object, at)
		if p == nil || slices.ContainsFunc(o.parameters, func(other *parameter) bool { return other.in == p.in && other.name == p.name }) {
			continue
		}
		o.parameters = append(o.parameters, p)
	}
}

func (r *reader) requestBody(at string) *content {
	from, at := r.resolve(at)
	c := &content{required: isTrue(from["required"])}
	for _, name := range names(from["content"]) {
		media, err := parseMediaType(name)
		if err != nil {
			r.refuse(at+"/content/"+escapeToken(name), "%v", err)
			continue
		}
		inside, at := r.resolve(at + "/content/" + escapeToken(name))
		if inside["schema"] != nil && media.form != asIs {
			r.add(at + "/schema")
			i := len(c.types)
			r.later = append(r.later, func(done *compiled) { c.types[i].take(done, at+"/schema") })
		}
		c.types = append(c.types, media)
	}
	r.later = append(r.later, func(*compiled) {
		slices.SortStableFunc(c.types, func(a, b mediaType) int { return b.precision() - a.precision() })
	})
	return c
}

// take takes the schema of a pointer.
func (m *mediaType) take(from *compiled, pointer string) {
	m.schema = from.take(pointer)
	if m.schema != nil && m.form != asJSON {
		m.members = membersOf(m.schema)
	}
}

func parseMediaType(text string) (mediaType, error) {
	name, _, err := mime.ParseMediaType(text)
	if err != nil || !strings.Contains(name, "/") {
		return mediaType{}, errors.New("is no media type")
	}
	m := mediaType{name: name}
	switch {
	case isJSON(name):
		m.form = asJSON
	case name == "application/x-www-form-urlencoded":
		m.form = asForm
	case strings.Contains(name, "*"):
		m.form = asEither
	}
	return m, nil
}

func isJSON(name string) bool {
	return name == "application/json" || name == "text/json" || strings.HasSuffix(name, "+json")
}
