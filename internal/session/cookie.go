package session

import (
	"strconv"
	"strings"
	"time"
)

// The names of cookies. Browsers keep those that begin with __Host- to the very
// host that has set them over TLS (RFC 6265bis, section 4.1.3.2).
const (
	CookieName    = prefix + "session"
	PendingPrefix = prefix + "signin-" // a name for each sign-in under way
	LeavingName   = prefix + "leaving" // the session that its person wants to end; it opens nothing
	prefix        = "__Host-sallyport-"
)

// Find returns the value of the cookie of that name in the values of a Cookie
// field. With two of them it is not to be told which one the browser means: one is
// found, and it is empty.
func Find(fields []string, name string) (value string, found bool) {
	for _, field := range fields {
		for pair := range strings.SplitSeq(field, ";") {
			n, v, _ := strings.Cut(strings.Trim(pair, " \t"), "=")
			if n != name {
				continue
			}
			if found {
				return "", true
			}
			value, found = v, true
		}
	}
	return value, found
}

// Ours returns the names of the cookies whose names begin so.
func Ours(fields []string, begin string) []string {
	var names []string
	for _, field := range fields {
		for pair := range strings.SplitSeq(field, ";") {
			if n, _, _ := strings.Cut(strings.Trim(pair, " \t"), "="); strings.HasPrefix(n, begin) {
				names = append(names, n)
			}
		}
	}
	return names
}

// Strip returns the values of a Cookie field without the cookies of this package,
// nil when nothing is left. It returns fields itself when none is in it.
func Strip(fields []string) []string {
	for i, field := range fields {
		if mayBeOurs(field) {
			return strip(fields, i)
		}
	}
	return fields
}

func strip(fields []string, from int) []string {
	kept := append([]string(nil), fields[:from]...)
	for _, field := range fields[from:] {
		var pairs []string
		for pair := range strings.SplitSeq(field, ";") {
			if pair = strings.Trim(pair, " \t"); pair != "" && !IsOurs(pair) {
				pairs = append(pairs, pair)
			}
		}
		if len(pairs) > 0 {
			kept = append(kept, strings.Join(pairs, "; "))
		}
	}
	return kept
}

// mayBeOurs is cheap, and right when it says no.
func mayBeOurs(field string) bool {
	for i := range len(field) {
		if field[i] == '_' && IsOurs(field[i:]) {
			return true
		}
	}
	return false
}

// IsOurs reports whether a cookie, from its name on, has one of our names, in any
// case: browsers look at the prefix so.
func IsOurs(cookie string) bool {
	return len(cookie) >= len(prefix) && strings.EqualFold(cookie[:len(prefix)], prefix)
}

// Set is the value of a Set-Cookie field.
func Set(name, value string, lasts time.Duration) string {
	return name + "=" + value + "; Path=/; Max-Age=" + strconv.Itoa(int(lasts/time.Second)) + "; Secure; HttpOnly; SameSite=Lax"
}

// Clear is the value of a Set-Cookie field that removes a cookie.
func Clear(name string) string { return Set(name, "", 0) }
