package rewrite

import (
	"fmt"
	"strings"

	"github.com/sallyport/sallyport/internal/request"
)

// CheckRequest says why a route cannot remove a field of requests, or else give it a
// value: the name, a canonical key, is a gateway's or the connection's, or it says how
// the request is to be read; a value would be a credential that everybody can read.
func CheckRequest(name string, removes bool) error {
	switch name {
	case "Content-Length", "Content-Encoding", "Content-Range":
		return fmt.Errorf("%s says how the body is to be read", name)
	case "Authorization", "Cookie", "Dpop", "X-Api-Key":
		if !removes {
			return fmt.Errorf("%s is a credential, which is no resource's to hold", name)
		}
	}
	if !request.IsForwarded(name) || strings.HasPrefix(name, "Sec-Websocket-") {
		return fmt.Errorf("%s is the gateway's or the connection's own", name)
	}
	return nil
}

// CheckResponse says the same of answers. Names that a gateway takes from clients are
// upstreams' to use.
func CheckResponse(name string, removes bool) error {
	switch name {
	case "Content-Length", "Content-Encoding", "Content-Range", "Trailer", "Transfer-Encoding":
		return fmt.Errorf("%s says how the answer is to be read", name)
	case "Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Connection", "Te", "Upgrade":
		return fmt.Errorf("%s is the connection's own", name)
	case "Set-Cookie", "Alt-Svc":
		if !removes {
			return fmt.Errorf("%s is not a route's to say", name)
		}
	}
	switch {
	case !request.IsFieldName(name):
		return fmt.Errorf("%.40q is no name of a header: letters, digits and hyphens", name)
	case strings.HasPrefix(name, "Sallyport-"), strings.HasPrefix(name, "Sec-Websocket-"), strings.HasPrefix(name, "Grpc-"):
		return fmt.Errorf("%s is not a route's to say", name)
	case strings.HasPrefix(name, "Access-Control-") && !removes:
		return fmt.Errorf("%s is for the route's cors to say", name)
	}
	return nil
}

// CheckValue says why a field cannot have a value.
func CheckValue(value string) error {
	if !request.IsFieldValue(value) {
		return fmt.Errorf("%.40q is no value of a header: no control bytes, and no space at an end", value)
	}
	return nil
}
