package token

import "strings"

// scopes reads "scope", a list with spaces between (RFC 8693 §4.2), or "scp",
// where other issuers have the same list or an array. An absent claim is none.
func scopes(all map[string]any) ([]string, bool) {
	v, given := all["scope"]
	if !given {
		v = all["scp"]
	}
	if list, ok := v.(string); ok {
		return strings.Fields(list), true
	}
	return names(v)
}
