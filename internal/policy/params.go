package policy

import "net/url"

// params are the first values of the query by name, decoded as a form is. They
// are not known of a query that is malformed.
func (f *facts) params() (map[string]string, bool) {
	values, err := url.ParseQuery(f.Query)
	if err != nil {
		return nil, false
	}
	first := make(map[string]string, len(values))
	for name, all := range values {
		first[name] = all[0]
	}
	return first, true
}

// pathParams are what the names of the route's template stand for.
func (f *facts) pathParams() (map[string]string, bool) {
	for i := range f.Templates {
		if f.Templates[i].Match(f.Path) {
			return f.Templates[i].Capture(f.Path), true
		}
	}
	return nil, true
}
