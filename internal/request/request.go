// Package request turns what a client sent into the one strict form that is
// matched, decided on and forwarded, or refuses it: what two servers could read
// in two ways never gets past a gate that reads it in one.
package request

import (
	"net/http"
	"net/netip"
	"strings"
)

// Bounds of a request. They hold for the canonical form too.
const (
	MaxMethodLength   = 32
	MaxPathLength     = 8 << 10
	MaxQueryLength    = 16 << 10
	MaxHostLength     = 253      // RFC 1035, section 2.3.4, without the root
	MaxHeaderFields   = 128      // lines, not names
	MaxHeaderBytes    = 64 << 10 // names and values
	maxHostPortLength = MaxHostLength + len(":65535")
)

// Raw is a request as a server has parsed it, before anything is believed.
type Raw struct {
	Method string
	Target string // the request target of HTTP/1.1, or :path
	Host   string // the Host field or :authority

	// Header holds the other fields under the canonical keys of net/textproto,
	// as every Go server hands them over; another spelling of a key is refused.
	// A server that leaves Host, Transfer-Encoding or Content-Length in it has
	// them checked.
	Header map[string][]string

	ProtoMajor, ProtoMinor int
}

// Canonical is a request in the one form that is matched and forwarded. The
// zero value is no request: it has no method, host or path to match.
type Canonical struct {
	Method string // GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS

	// Host is in lower case and without a port: a DNS name without trailing
	// dot, an IPv4 address, or an IPv6 address in brackets.
	Host string

	// Target is what is forwarded. Path and RawQuery are its two parts, the
	// query without its question mark and as the client spelled it. "%2F" is the one
	// escape of Path that not every route takes: see Ambiguity.
	Target   string
	Path     string
	RawQuery string

	// Header is the map of Raw without what is the connection's business, what
	// only a gateway may say, and names that some servers confuse with others.
	Header map[string][]string

	// WebSocket says that the request is the handshake of a WebSocket (RFC 6455).
	// Then Header holds "Connection: Upgrade" and "Upgrade: websocket", a valid
	// key and version 13, and there is no body.
	WebSocket bool
}

// Canonicalise returns the canonical form of raw, or an *Error that says why
// there is none. Applied to a canonical form it changes nothing. Whoever does not look
// for a route by the form asks its Ambiguity as well.
//
// It takes over raw.Header and cleans it in place, which keeps the usual
// request free of allocations; after an error the map is in an undefined state.
// Whatever needs a field that is removed here (the address that a trusted hop
// forwards) reads it before.
func Canonicalise(raw Raw) (Canonical, error) {
	c := Canonical{Method: raw.Method, Header: raw.Header}
	if err := checkVersion(raw.ProtoMajor, raw.ProtoMinor); err != nil {
		return Canonical{}, err
	}
	if err := checkMethod(raw.Method); err != nil {
		return Canonical{}, err
	}
	var err *Error
	if c.Target, c.Path, c.RawQuery, err = canonicalTarget(raw.Target); err != nil {
		return Canonical{}, err
	}
	if c.Host, err = canonicalHost(raw.Host); err != nil {
		return Canonical{}, err
	}
	if err := checkSecondHost(raw.Header["Host"], raw.Host); err != nil {
		return Canonical{}, err
	}
	if err := cleanHeader(raw.Method, raw.Header, raw.ProtoMajor); err != nil {
		return Canonical{}, err
	}
	c.WebSocket = raw.Header["Upgrade"] != nil
	return c, nil
}

// MatchesServerName reports whether the host is the one that the client asked
// for in the TLS handshake. Without a name (RFC 6066 forbids addresses as
// names) only an address matches. A request that does not match is misdirected:
// status 421.
func (c Canonical) MatchesServerName(name string) bool {
	if name != "" {
		return strings.EqualFold(c.Host, name)
	}
	_, err := netip.ParseAddr(strings.Trim(c.Host, "[]"))
	return err == nil
}

// checkVersion lets HTTP/1.1 and HTTP/2 through. HTTP/1.0 has neither a
// mandatory Host nor framing that all servers agree on.
func checkVersion(major, minor int) *Error {
	if major == 1 && minor == 1 || major == 2 && minor == 0 {
		return nil
	}
	return refuse(ReasonVersion, "HTTP/1.1 and HTTP/2 are served")
}

func checkMethod(method string) *Error {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut,
		http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return nil
	}
	if len(method) > MaxMethodLength || !IsToken(method) {
		return refuse(ReasonMethodInvalid, "the method is not a token")
	}
	return refuse(ReasonMethodUnsupported, "the method is not served here")
}
