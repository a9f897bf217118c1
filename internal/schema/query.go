package schema

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// head judges the parameters of a request.
func (r *run) head(o *operation, q *Request, values []string, options Options) {
	query := queryOf(q.RawQuery)
	cookies := cookiesOf(q.Header)
	for _, p := range o.parameters {
		switch p.in {
		case inPath:
			if i := slices.Index(o.names, p.name); i >= 0 && i < len(values) {
				r.parameter(p, values[i:i+1])
			}
		case inQuery:
			r.query(p, query)
		case inHeader:
			r.parameter(p, q.Header[p.header])
		case inCookie:
			r.parameter(p, cookies[p.name])
		}
	}
	if options.UnknownParameters {
		return
	}
	for _, given := range query {
		if !o.knows(given.name) {
			r.path = place{{name: inQuery}, {name: given.name}}
			r.fail("is no parameter of the operation")
		}
	}
}

// knows reports whether the query may have a field of that name.
func (o *operation) knows(name string) bool {
	return slices.ContainsFunc(o.parameters, func(p *parameter) bool {
		if p.in != inQuery {
			return false
		}
		_, spread := p.members[name]
		_, inside := p.inside(name)
		return p.name == name || inside || spread && p.spreads()
	})
}

// spreads reports whether the members of an object stand beside each other in the
// query, without the parameter's name.
func (p *parameter) spreads() bool {
	return p.style == "form" && p.explode && p.takes&typeObject != 0 && len(p.members) > 0
}

// inside returns the name of the member that a field of a deepObject is.
func (p *parameter) inside(name string) (string, bool) {
	rest, ok := strings.CutPrefix(name, p.name+"[")
	return strings.TrimSuffix(rest, "]"), p.style == "deepObject" && ok && strings.HasSuffix(rest, "]")
}

// query judges a parameter of the query.
func (r *run) query(p *parameter, all []pair) {
	if p.style != "deepObject" && !p.spreads() {
		var texts []string
		for _, given := range all {
			if given.name == p.name {
				texts = append(texts, given.value)
			}
		}
		r.parameter(p, texts)
		return
	}
	o := &object{}
	r.path = place{{name: inQuery}, {name: p.name}}
	for _, given := range all {
		name, ok := p.inside(given.name)
		if p.spreads() {
			name = given.name
			_, ok = p.members[name]
		}
		if ok && !o.add(name, coerce(given.value, p.members[name].takes)) {
			r.fail("has a member twice")
			return
		}
	}
	switch {
	case len(o.members) > 0:
		r.meets(p.schema, o, nil)
	case p.required:
		r.fail("is missing")
	}
}

// parameter judges the texts that are given for a parameter.
func (r *run) parameter(p *parameter, texts []string) {
	r.path = place{{name: p.in}, {name: p.name}}
	if len(texts) == 0 {
		if p.required {
			r.fail("is missing")
		}
		return
	}
	v, wrong := p.decode(texts)
	switch {
	case wrong != "":
		r.fail("%s", wrong)
	case p.schema != nil && !r.asText(p, v, texts):
		r.meets(p.schema, v, nil)
	}
}

// asText reports whether what looks like a number or a word of JSON fits as the text
// that it is.
func (r *run) asText(p *parameter, v any, texts []string) bool {
	_, isText := v.(string)
	return !isText && p.takes&typeString != 0 && len(texts) == 1 && r.fits(p.schema, texts[0], nil)
}

// pair is a field of a query or form.
type pair struct{ name, value string }

// queryOf reads a query that package request has let through.
func queryOf(raw string) []pair {
	if raw == "" {
		return nil
	}
	all := make([]pair, 0, 1+strings.Count(raw, "&"))
	for text := range strings.SplitSeq(raw, "&") {
		if text == "" {
			continue
		}
		name, value, _ := strings.Cut(text, "=")
		all = append(all, pair{unescaped(name), unescaped(value)})
	}
	return all
}

// unescaped leaves as it is what is not escaped well.
func unescaped(text string) string {
	if plain, err := url.QueryUnescape(text); err == nil {
		return plain
	}
	return text
}

func cookiesOf(header map[string][]string) map[string][]string {
	all := make(map[string][]string)
	for _, line := range header["Cookie"] {
		for field := range strings.SplitSeq(line, ";") {
			name, value, _ := strings.Cut(strings.Trim(field, " \t"), "=")
			all[name] = append(all[name], value)
		}
	}
	return all
}

func canonicalHeader(name string) string { return http.CanonicalHeaderKey(name) }
