package token

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Claims is what a verified token says.
type Claims struct {
	Issuer  string
	Subject string   // never empty, no control characters
	Groups  []string // none is empty
	Scopes  []string // likewise
	ID      string   // jti, or empty
	Session string   // sid, or empty

	Expires   time.Time
	NotBefore time.Time // zero when the token has no nbf
	IssuedAt  time.Time // zero when the token has no iat

	// All holds every claim: string, bool, nil, int64 (integers of that range),
	// float64 (other numbers), []any and map[string]any.
	All map[string]any
}

// Requirement is a claim that a token has to have.
type Requirement struct {
	Claim string // a claim path, as in Rules
	// Values: the claim has to be one of them, or an array that holds one of
	// them. Integers and booleans are compared as JSON writes them. None
	// refuses.
	Values []string
}

// at returns what stands at a claim path. A path that leads to several claims
// is not ok: whoever wrote it meant one of them, and nobody can tell which.
func at(claims map[string]any, path string) (v any, ok bool) {
	var found []any
	follow(claims, path, &found)
	switch len(found) {
	case 0:
		return nil, true
	case 1:
		return found[0], true
	}
	return nil, false
}

// follow tries the path as a name, and each of its beginnings as the name of an
// object in which the rest goes on: the names of claims may hold dots.
func follow(object map[string]any, path string, found *[]any) {
	if v, given := object[path]; given {
		*found = append(*found, v)
	}
	for i := range len(path) {
		if path[i] != '.' {
			continue
		}
		if inner, ok := object[path[:i]].(map[string]any); ok {
			follow(inner, path[i+1:], found)
		}
	}
}

func (r *Requirement) met(claims map[string]any) bool {
	v, ok := at(claims, r.Claim)
	if !ok {
		return false
	}
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	return slices.ContainsFunc(list, func(v any) bool {
		s, ok := scalar(v)
		return ok && slices.Contains(r.Values, s)
	})
}

func scalar(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case bool:
		return strconv.FormatBool(v), true
	case int64:
		return strconv.FormatInt(v, 10), true
	}
	return "", false
}

func (r *Rules) read(all map[string]any) (*Claims, error) {
	c := &Claims{Issuer: r.Issuer, All: all}
	var ok [8]bool
	c.Subject, ok[0] = subject(all, or(r.SubjectClaim, "sub"))
	c.Groups, ok[1] = groups(all, or(r.GroupsClaim, "groups"))
	c.ID, ok[2] = optionalString(all, "jti")
	c.Expires, ok[3] = date(all, "exp")
	c.NotBefore, ok[4] = date(all, "nbf")
	c.IssuedAt, ok[5] = date(all, "iat")
	c.Session, ok[6] = optionalString(all, "sid")
	c.Scopes, ok[7] = scopes(all)
	if slices.Contains(ok[:], false) || c.Expires.IsZero() {
		return nil, refuse(BadClaim)
	}
	return c, nil
}

func or(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

// subject refuses control characters: it ends up in headers and records.
func subject(all map[string]any, path string) (string, bool) {
	v, ok := at(all, path)
	s, _ := v.(string)
	return s, ok && s != "" && !strings.ContainsFunc(s, unicode.IsControl)
}

// groups refuses a token that says its groups have to be asked for elsewhere
// (OpenID Connect Core 1.0 §5.6.2): taken for a token without groups, it would
// pass by a policy that denies one of them.
func groups(all map[string]any, path string) ([]string, bool) {
	elsewhere, _ := all["_claim_names"].(map[string]any)
	if _, given := elsewhere[path]; given {
		return nil, false
	}
	v, ok := at(all, path)
	if !ok {
		return nil, false
	}
	return names(v)
}

// names reads an absent claim, a string, or an array of strings. Anything else
// is no list that a policy denying one of its members could rely on.
func names(v any) ([]string, bool) {
	switch v := v.(type) {
	case nil:
		return nil, true
	case string:
		return []string{v}, v != ""
	case []any:
		list := make([]string, len(v))
		for i := range v {
			list[i], _ = v[i].(string)
		}
		return list, !slices.Contains(list, "")
	}
	return nil, false
}

func optionalString(all map[string]any, name string) (string, bool) {
	v, given := all[name]
	s, ok := v.(string)
	return s, ok || !given
}

// date reads a NumericDate (RFC 7519 §2); absent is the zero time. Dates
// before 1970 or after the year 9999 are refused.
func date(all map[string]any, name string) (time.Time, bool) {
	const latest = 253402300799
	v, given := all[name]
	var seconds float64
	switch v := v.(type) {
	case int64:
		seconds = float64(v)
	case float64:
		seconds = v
	default:
		return time.Time{}, !given
	}
	if !(seconds >= 0 && seconds <= latest) {
		return time.Time{}, false
	}
	whole, fraction := math.Modf(seconds)
	return time.Unix(int64(whole), int64(fraction*1e9)).UTC(), true
}
