package request

import (
	"strings"
	"unicode/utf8"
)

// canonicalTarget reads a target in origin form (RFC 9112, section 3.2.1). The
// path and the query it returns are parts of the target it returns.
func canonicalTarget(raw string) (target, path, query string, err *Error) {
	if !strings.HasPrefix(raw, "/") {
		return "", "", "", refuseForm(raw)
	}
	// Lengths first: every later step reads the whole.
	path, query, _ = strings.Cut(raw, "?")
	if len(path) > MaxPathLength {
		return "", "", "", refuse(ReasonPathTooLong, "the path is too long")
	}
	if len(query) > MaxQueryLength {
		return "", "", "", refuse(ReasonQueryTooLong, "the query is too long")
	}
	if strings.IndexByte(raw, '#') >= 0 {
		return "", "", "", refuse(ReasonTargetFragment, "a fragment is not sent to servers")
	}
	if err := checkQuery(query); err != nil {
		return "", "", "", err
	}
	canonical, err := canonicalPath(path)
	switch {
	case err != nil:
		return "", "", "", err
	case query == "":
		return canonical, canonical, "", nil
	case canonical == path:
		return raw, path, query, nil
	}
	target = canonical + "?" + query
	return target, target[:len(canonical)], target[len(canonical)+1:], nil
}

// refuseForm names the other forms of a target (RFC 9112, section 3.2). The
// absolute form is refused, although servers are told to take it, because its
// host overrides the Host field for some and not for others.
func refuseForm(raw string) *Error {
	switch {
	case raw == "*":
		return refuse(ReasonTargetAsterisk, "requests about the server itself are not served")
	case strings.Contains(raw, "://"):
		return refuse(ReasonTargetAbsolute, "the target is a path and a query, without scheme and host")
	case strings.Contains(raw, ":") && !strings.Contains(raw, "/"):
		return refuse(ReasonTargetAuthority, "the target is a path and a query, not a host")
	}
	return refuse(ReasonTargetInvalid, "the target does not start with a slash")
}

// checkQuery refuses what could end the request line or be cut short, and
// leaves the rest alone: the gateway never takes a query apart for another.
func checkQuery(query string) *Error {
	for i := range len(query) {
		c := query[i]
		if c <= ' ' || c >= 0x7f {
			return refuse(ReasonQueryByte, "the query holds a byte that must be escaped")
		}
		if c == '%' {
			if _, ok := unescape(query[i:]); !ok {
				return refuse(ReasonQueryEscape, "the query holds a % without two hexadecimal digits")
			}
		}
	}
	return nil
}

// canonicalPath gives every path that servers take for the same one spelling:
// bytes that RFC 3986, section 3.3, allows in a segment stand for themselves
// and all others are upper-case escapes. Some of them are special. "+" is
// escaped, since some servers read it as a space. "%5C" is refused, since some
// servers split segments at it; "%2F" stays, for Ambiguity to tell of. ";" stays as
// it is, but is refused when escaped, since some servers cut a segment at the one
// and not the other.
func canonicalPath(path string) (string, *Error) {
	plain := true
	for i := range len(path) {
		c := path[i]
		if standsForItself(c) || c == '/' {
			continue
		}
		if c != '%' && c != '+' {
			return "", refuse(ReasonPathByte, "the path holds a byte that must be escaped")
		}
		plain = false
	}
	if !plain {
		var err *Error
		if path, err = rewriteEscapes(path); err != nil {
			return "", err
		}
	}
	if err := checkSegments(path); err != nil || plain {
		return path, err
	}
	return path, checkEscapedSlashes(path)
}

// IsPath reports whether path is the Path that some canonical request has, if only one
// for a route that keeps escaped slashes.
func IsPath(path string) bool {
	if len(path) > MaxPathLength || !strings.HasPrefix(path, "/") {
		return false
	}
	canonical, err := canonicalPath(path)
	return err == nil && canonical == path
}

func rewriteEscapes(path string) (string, *Error) {
	out, decoded := make([]byte, 0, len(path)+16), make([]byte, 0, len(path))
	for i := 0; i < len(path); i++ {
		c := path[i]
		escaped := c == '%'
		if escaped {
			var err *Error
			if c, err = decodeEscape(path[i:]); err != nil {
				return "", err
			}
			i += 2
		}
		decoded = append(decoded, c)
		if standsForItself(c) || c == '/' && !escaped {
			out = append(out, c)
		} else {
			const upper = "0123456789ABCDEF"
			out = append(out, '%', upper[c>>4], upper[c&0xf])
		}
	}
	if !utf8.Valid(decoded) {
		return "", refuse(ReasonPathUTF8, "the escapes of the path are not valid UTF-8")
	}
	if isEscapedAgain(string(decoded)) {
		return "", refuse(ReasonPathAmbiguous, "the path is escaped twice")
	}
	if len(out) > MaxPathLength {
		return "", refuse(ReasonPathTooLong, "the path is too long")
	}
	return string(out), nil
}

// decodeEscape returns the byte that s, which starts with a percent sign,
// stands for.
func decodeEscape(s string) (byte, *Error) {
	c, ok := unescape(s)
	switch {
	case !ok:
		return 0, refuse(ReasonPathEscape, "the path holds a % without two hexadecimal digits")
	case isControl(c):
		return 0, refuse(ReasonPathControl, "the path holds an escaped control byte")
	case c == '\\' || c == ';':
		return 0, refuse(ReasonPathAmbiguous, "the path holds an escaped backslash or semicolon")
	}
	return c, nil
}

// isEscapedAgain reports whether a second decoding, which some servers do,
// would find structure in a decoded path, or an escape for a third one.
func isEscapedAgain(decoded string) bool {
	for i := range len(decoded) {
		if decoded[i] != '%' {
			continue
		}
		if c, ok := unescape(decoded[i:]); ok && (isControl(c) || strings.IndexByte(`./\;%`, c) >= 0) {
			return true
		}
	}
	return false
}

// checkSegments refuses dot segments and empty ones instead of resolving them:
// servers disagree on what they mean, and honest clients resolve them. It looks
// at a segment up to its first ";", as servers that know path parameters do.
func checkSegments(path string) *Error {
	if strings.Contains(path, "//") {
		return refuse(ReasonPathEmpty, "the path has an empty segment")
	}
	if !strings.Contains(path, "/.") && !strings.Contains(path, "/;") {
		return nil
	}
	for segment := range strings.SplitSeq(path[1:], "/") {
		switch stem, _, params := strings.Cut(segment, ";"); {
		case stem == "." || stem == "..":
			return refuse(ReasonPathDots, "the path has a dot segment")
		case stem == "" && params:
			return refuse(ReasonPathEmpty, "the path has an empty segment with parameters")
		}
	}
	return nil
}

// escapedSlash is how canonical paths spell a slash that is part of a segment. Since
// none of them is escaped twice, it stands for nothing else.
const escapedSlash = "%2F"

// checkEscapedSlashes wants what is between escaped slashes to be what segments are, and
// not empty: who keeps them apart may still make the name of a file of a segment, and
// wherever a rewrite puts one, it is as good.
func checkEscapedSlashes(path string) *Error {
	if !strings.Contains(path, escapedSlash) {
		return nil
	}
	if strings.HasSuffix(path, escapedSlash) || checkSegments(strings.ReplaceAll(path, escapedSlash, "/")) != nil {
		return refuse(ReasonPathAmbiguous, "the path holds an escaped slash beside dots, or at the end of a segment")
	}
	return nil
}

// Ambiguity says why c is refused unless it is for a route that keeps escaped slashes:
// its path has one, which some servers split segments at. It is nil for all other
// requests. It reads the path itself, so that no copy of c can lack it.
func (c Canonical) Ambiguity() *Error {
	if !strings.Contains(c.Path, escapedSlash) {
		return nil
	}
	return refuse(ReasonPathAmbiguous, "the path holds an escaped slash")
}

// unescape decodes the two hexadecimal digits behind the first byte of s.
func unescape(s string) (byte, bool) {
	if len(s) < 3 {
		return 0, false
	}
	hi, lo := hexDigit(s[1]), hexDigit(s[2])
	return hi<<4 | lo, hi < 16 && lo < 16
}

func hexDigit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10
	}
	return 0xff
}
