package request

import (
	"fmt"
	"net/textproto"
	"strings"
)

// cleanHeader checks every field and removes in place those that are not
// forwarded.
func cleanHeader(method string, header map[string][]string, major int) *Error {
	fields, bytes, ofConnection := 0, 0, false
	for name, values := range header {
		fields += len(values)
		for _, value := range values {
			bytes += len(name) + len(value)
		}
		if fields > MaxHeaderFields || bytes > MaxHeaderBytes {
			return refuse(ReasonHeaderTooLarge, "the header is too large")
		}
		f, err := judge(name, values)
		switch {
		case err != nil:
			return err
		case f == removed:
			delete(header, name)
		case f == connection:
			ofConnection = true
		}
	}
	if err := checkLength(header["Content-Length"]); err != nil {
		return err
	}
	if ofConnection {
		return endConnection(method, header, major)
	}
	return nil
}

// judge checks one field and tells what is to happen to it.
func judge(name string, values []string) (fate, *Error) {
	plain, ok := checkName(name)
	if !ok {
		return removed, refuse(ReasonHeaderName, fmt.Sprintf("the name %.40q is not a token, or not under its canonical key", name))
	}
	for _, value := range values {
		if !isValue(value) {
			return removed, refuse(ReasonHeaderValue, fmt.Sprintf("the field %.40s holds a control byte, or white space at an end", name))
		}
	}
	if !plain || len(values) == 0 {
		return removed, nil
	}
	f := fateOf(name)
	if f == single && len(values) > 1 {
		return removed, refuse(ReasonHeaderDuplicate, fmt.Sprintf("the field %s occurs more than once", name))
	}
	return f, nil
}

// checkName reports whether name is a token under its canonical key, and
// whether it is made of letters, digits and hyphens alone. Tokens with other
// bytes are legal and removed: CGI and its heirs read "X_User" and "X-User" as
// the same variable.
func checkName(name string) (plain, ok bool) {
	var seen kind
	wrong := lower // that begins a word
	for i := range len(name) {
		c := name[i]
		k := kinds[c]
		if k == 0 || k == wrong {
			return false, false
		}
		if seen |= k; c == '-' {
			wrong = lower
		} else {
			wrong = upper
		}
	}
	return seen&special == 0, name != ""
}

// CanonicalName is textproto.CanonicalMIMEHeaderKey for tokens: most of them are their
// own, which costs less to see than to make.
func CanonicalName(token string) string {
	if _, ok := checkName(token); ok {
		return token
	}
	return textproto.CanonicalMIMEHeaderKey(token)
}

// isValue reports whether s is a field value of RFC 9110, section 5.5.
func isValue(s string) bool {
	if s == "" {
		return true
	}
	first, last := s[0], s[len(s)-1]
	return first != ' ' && first != '\t' && last != ' ' && last != '\t' && !HoldsControl(s)
}

func checkLength(lengths []string) *Error {
	const digitsOfInt64 = 18 // that are always in range
	if len(lengths) == 0 || isDigits(lengths[0]) && len(lengths[0]) <= digitsOfInt64 {
		return nil
	}
	return refuse(ReasonLength, "Content-Length is not a number")
}

// endConnection reads and removes the fields that are between the client and
// the gateway. Only "Te: trailers", without which gRPC servers refuse calls,
// and the wish for a WebSocket go on, as statements of the gateway's own.
func endConnection(method string, header map[string][]string, major int) *Error {
	if err := checkConnectionFields(header, major); err != nil {
		return err
	}
	for _, value := range header["Connection"] {
		if err := removeNamed(header, value); err != nil {
			return err
		}
	}
	upgrade := header["Upgrade"] != nil
	if upgrade {
		if err := checkHandshake(method, header); err != nil {
			return err
		}
		delete(header, "Content-Length")
	}
	for _, name := range [...]string{
		"Connection", "Expect", "Http2-Settings", "Keep-Alive", "Proxy-Authenticate",
		"Proxy-Authorization", "Proxy-Connection", "Trailer", "Transfer-Encoding",
	} {
		delete(header, name)
	}
	if !lists(header["Te"], "trailers") {
		delete(header, "Te")
	} else if te := header["Te"]; len(te) > 1 || te[0] != "trailers" {
		header["Te"] = []string{"trailers"}
	}
	if upgrade {
		header["Connection"], header["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
	}
	return nil
}

// checkConnectionFields refuses what changes the framing. Over HTTP/2 such fields make a request malformed (RFC 9113, section 8.2.2).
func checkConnectionFields(header map[string][]string, major int) *Error {
	if major == 2 {
		for _, name := range [...]string{"Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade"} {
			if header[name] != nil {
				return refuse(ReasonConnection, fmt.Sprintf("the field %s does not exist in HTTP/2", name))
			}
		}
	}
	if e := header["Expect"]; e != nil && (len(e) > 1 || !strings.EqualFold(e[0], "100-continue")) {
		return refuse(ReasonExpectation, "the only expectation that is met is 100-continue")
	}
	te := header["Transfer-Encoding"]
	switch {
	case te == nil:
		return nil
	case len(te) > 1 || te[0] != "chunked":
		return refuse(ReasonTransferEncoding, "the only transfer encoding is chunked")
	case header["Content-Length"] != nil:
		return refuse(ReasonLength, "Content-Length stands beside Transfer-Encoding")
	}
	return nil
}

// removeNamed removes the fields that a Connection field names. It refuses to
// remove what says who asks for what: such a name is an attempt to have
// somebody else read another request.
func removeNamed(header map[string][]string, options string) *Error {
	for option := range strings.SplitSeq(options, ",") {
		option = strings.Trim(option, " \t")
		if option == "" || strings.EqualFold(option, "close") || strings.EqualFold(option, "keep-alive") {
			continue
		}
		if !IsToken(option) {
			return refuse(ReasonConnection, "Connection is not a list of tokens")
		}
		name := textproto.CanonicalMIMEHeaderKey(option)
		switch f := fateOf(name); {
		case f == connection:
		case f == single || name == "Host":
			return refuse(ReasonConnection, fmt.Sprintf("Connection names the field %s", name))
		default:
			delete(header, name)
		}
	}
	return nil
}

// CleanTrailer removes from trailer, in place, the fields that may not come
// behind a body, and returns it: what is malformed, what Canonicalise removes
// or takes only once, and what says how to understand what came before
// (RFC 9110, section 6.5.1). Servers that merge trailers into the header would
// otherwise believe in a trailer what is refused in a header.
func CleanTrailer(trailer map[string][]string) map[string][]string {
	for name, values := range trailer {
		if f, err := judge(name, values); err != nil || f != forwarded || !mayTrail(name) {
			delete(trailer, name)
		}
	}
	return trailer
}

func mayTrail(name string) bool {
	switch name {
	case "Cache-Control", "Pragma", "Set-Cookie", "Www-Authenticate":
		return false
	}
	return !strings.HasPrefix(name, "Content-") && !strings.HasPrefix(name, "If-") && !strings.HasPrefix(name, "Accept")
}
