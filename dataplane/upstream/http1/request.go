package http1

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/internal/request"
)

// appendHead appends the head of r: what r says, and where its body ends. Header
// fields that would say that are r's fields' business, and left out.
func appendHead(b []byte, r *http.Request) ([]byte, error) {
	target := r.URL.RequestURI()
	host := r.Host
	if host == "" {
		host = r.URL.Host
	}
	if !request.IsToken(r.Method) || r.Method == http.MethodConnect || !isPlain(target) || !isPlain(host) {
		return b, fmt.Errorf("%w: its method, target or host", errUnsupported)
	}
	b = append(b, r.Method...)
	b = append(b, ' ')
	b = append(b, target...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, host...)
	b = append(b, "\r\n"...)
	b, err := appendFraming(b, r)
	if err != nil {
		return b, err
	}
	for name, values := range r.Header {
		if isFraming(name) {
			continue
		}
		for _, value := range values {
			if b, err = appendField(b, name, value); err != nil {
				return b, err
			}
		}
	}
	return append(b, "\r\n"...), nil
}

// isFraming tells the fields that fields of a request stand for.
func isFraming(name string) bool {
	switch name {
	case "Host", "Content-Length", "Transfer-Encoding", "Trailer":
		return true
	}
	return false
}

// hasBody reports whether r has a body, however short.
func hasBody(r *http.Request) bool { return r.Body != nil && r.Body != http.NoBody }

// isChunked reports whether the length of r's body is not known before its end.
func isChunked(r *http.Request) bool { return hasBody(r) && r.ContentLength <= 0 }

func appendFraming(b []byte, r *http.Request) ([]byte, error) {
	switch {
	case isChunked(r):
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		return appendAnnounced(b, r.Trailer)
	case hasBody(r):
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, r.ContentLength, 10)
		b = append(b, "\r\n"...)
	case r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch:
		b = append(b, "Content-Length: 0\r\n"...) // which has been known to be waited for
	}
	if r.Close {
		b = append(b, "Connection: close\r\n"...)
	}
	return b, nil
}

func appendAnnounced(b []byte, trailer http.Header) ([]byte, error) {
	separator := "Trailer: "
	for name := range trailer {
		if !request.IsToken(name) || isFraming(name) {
			return b, fmt.Errorf("%w: the trailer %q", errUnsupported, name)
		}
		b = append(b, separator...)
		b = append(b, name...)
		separator = ", "
	}
	if len(trailer) > 0 {
		b = append(b, "\r\n"...)
	}
	return b, nil
}

func appendField(b []byte, name, value string) ([]byte, error) {
	if !request.IsToken(name) || request.HoldsControl(value) {
		return b, fmt.Errorf("%w: the field %q", errUnsupported, name)
	}
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, "\r\n"...), nil
}

// isPlain reports whether s is something without white space and control bytes.
func isPlain(s string) bool {
	return s != "" && !request.HoldsControl(s) && strings.IndexByte(s, ' ') < 0 && strings.IndexByte(s, '\t') < 0
}

// isSafe reports whether a request changes nothing, so that it may be sent twice
// (RFC 9110, section 9.2.1).
func isSafe(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

// Repeatable reports whether r, for which RoundTrip returned err, may be sent over
// another connection: it has not been seen, or it has no body and changes nothing.
func Repeatable(r *http.Request, err error) bool {
	u, ok := errors.AsType[*Unanswered](err)
	return ok && (!u.Sent || isSafe(r.Method) && !hasBody(r))
}
