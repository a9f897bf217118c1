package request

import "net/http"

// The reasons for which a request is refused. They are part of the product's
// interface: they appear in answers, decision records and metrics.
const (
	ReasonVersion           = "http_version"          // neither HTTP/1.1 nor HTTP/2
	ReasonMethodInvalid     = "method_invalid"        // not a token, or too long
	ReasonMethodUnsupported = "method_unsupported"    // CONNECT, TRACE and all that the product does not know
	ReasonTargetAbsolute    = "target_absolute_form"  // "GET http://host/path"
	ReasonTargetAuthority   = "target_authority_form" // "GET host:443"
	ReasonTargetAsterisk    = "target_asterisk_form"  // "OPTIONS *"
	ReasonTargetInvalid     = "target_invalid"        // empty, or not starting with a slash
	ReasonTargetFragment    = "target_fragment"       // "#" belongs to the client alone
	ReasonPathTooLong       = "path_too_long"         // more than MaxPathLength
	ReasonPathByte          = "path_invalid_byte"     // a raw byte that RFC 3986 does not allow in a path
	ReasonPathEscape        = "path_invalid_escape"   // "%" without two hexadecimal digits
	ReasonPathControl       = "path_control_byte"     // "%00", "%0a", "%7f"
	ReasonPathAmbiguous     = "path_ambiguous_escape" // "%2f" (see Ambiguity), "%5c", "%3b", and "%25" before what would decode again
	ReasonPathUTF8          = "path_invalid_utf8"     // overlong or broken: "%c0%af"
	ReasonPathDots          = "path_dot_segment"      // ".", "..", "..;x", also when escaped
	ReasonPathEmpty         = "path_empty_segment"    // "//", "/;x"
	ReasonQueryTooLong      = "query_too_long"        // more than MaxQueryLength
	ReasonQueryByte         = "query_invalid_byte"    // a raw control byte, space or byte outside ASCII
	ReasonQueryEscape       = "query_invalid_escape"  // "%" without two hexadecimal digits
	ReasonHostMissing       = "host_missing"          // no Host field or :authority
	ReasonHostInvalid       = "host_invalid"          // not a name or address, or a bad port
	ReasonHostAmbiguous     = "host_ambiguous"        // a second Host, or one beside :authority that differs
	ReasonHeaderTooLarge    = "header_too_large"      // more than MaxHeaderFields or MaxHeaderBytes
	ReasonHeaderName        = "header_invalid_name"   // not a token, or not under its canonical key
	ReasonHeaderValue       = "header_invalid_value"  // a control byte, or white space at an end
	ReasonHeaderDuplicate   = "header_duplicate"      // a field that may occur once occurs twice
	ReasonConnection        = "connection_invalid"    // Connection names what is not the connection's, or comes over HTTP/2
	ReasonUpgrade           = "upgrade_unsupported"   // any Upgrade but to WebSocket, h2c included
	ReasonWebSocket         = "websocket_invalid"     // not the handshake of RFC 6455
	ReasonLength            = "length_invalid"        // Content-Length is not a number, or is beside Transfer-Encoding
	ReasonTransferEncoding  = "transfer_encoding"     // anything but "chunked", or over HTTP/2
	ReasonExpectation       = "expectation"           // anything but "100-continue"
)

// Error says why a request has no canonical form. It is safe to show to the
// client: it repeats none of its bytes but the names of header fields.
type Error struct {
	Reason string // one of the constants above
	Status int    // of the answer
	Detail string // for people
}

func (e *Error) Error() string { return e.Reason + ": " + e.Detail }

func refuse(reason, detail string) *Error {
	status := http.StatusBadRequest
	switch reason {
	case ReasonVersion:
		status = http.StatusHTTPVersionNotSupported
	case ReasonMethodUnsupported:
		status = http.StatusNotImplemented
	case ReasonPathTooLong, ReasonQueryTooLong:
		status = http.StatusRequestURITooLong
	case ReasonHeaderTooLarge:
		status = http.StatusRequestHeaderFieldsTooLarge
	case ReasonExpectation:
		status = http.StatusExpectationFailed
	}
	return &Error{Reason: reason, Status: status, Detail: detail}
}
