package trace

import (
	"encoding/hex"
	"net/http"
	"strings"
)

// The fields of W3C Trace Context, as net/http writes them.
const (
	headerParent = "Traceparent"
	headerState  = "Tracestate"
)

// ID is that of a trace; the zero ID is none.
type ID [16]byte

// SpanID is that of a span; the zero SpanID is none.
type SpanID [8]byte

// String is the ID as traces are looked up by it, empty for none.
func (id ID) String() string {
	if id == (ID{}) {
		return ""
	}
	return hex.EncodeToString(id[:])
}

// Bits of the flags.
const (
	flagSampled = 0x01
	flagRandom  = 0x02 // of Trace Context, level 2: passed on as it came
)

// parent is what a request says of the trace that it is in.
type parent struct {
	trace ID
	span  SpanID
	flags byte
}

const (
	lengthParent = len("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	// Bounds of tracestate, of which all that is needed has to be passed on and no more
	// need be (W3C Trace Context, section 3.3.1).
	maxState   = 512 // characters
	maxMembers = 32
)

// readParent reads traceparent (W3C Trace Context, section 3.2). What is malformed, or
// there twice, says nothing.
func readParent(header http.Header) (p parent, ok bool) {
	values := header[headerParent]
	if len(values) != 1 {
		return parent{}, false
	}
	v := values[0]
	if len(v) < lengthParent || v[2] != '-' || v[35] != '-' || v[52] != '-' {
		return parent{}, false
	}
	var version, flags [1]byte
	if !unhex(version[:], v[:2]) || version[0] == 0xff || !unhex(p.trace[:], v[3:35]) || !unhex(p.span[:], v[36:52]) || !unhex(flags[:], v[53:55]) {
		return parent{}, false
	}
	// Later versions may have more behind a hyphen.
	if len(v) > lengthParent && (version[0] == 0 || v[lengthParent] != '-') {
		return parent{}, false
	}
	if p.trace == (ID{}) || p.span == (SpanID{}) {
		return parent{}, false
	}
	p.flags = flags[0]
	return p, true
}

// unhex reads lower-case digits, of which there are twice as many as bytes.
func unhex(to []byte, digits string) bool {
	for i := range to {
		high, low := digit(digits[2*i]), digit(digits[2*i+1])
		if high > 15 || low > 15 {
			return false
		}
		to[i] = high<<4 | low
	}
	return true
}

// digit is more than 15 for what is none.
func digit(c byte) byte {
	if d := c - '0'; d < 10 {
		return d
	}
	if d := c - 'a'; d < 6 {
		return d + 10
	}
	return 0xff
}

// isState reports whether tracestate may be passed on (section 3.3). It is passed on
// as a whole, or not at all.
func isState(values []string) bool {
	length, members := 0, 0
	for _, v := range values {
		length += len(v)
		if length > maxState {
			return false
		}
		for more := true; more; {
			var member string
			member, v, more = strings.Cut(v, ",")
			member = strings.Trim(member, " \t")
			if member == "" {
				continue
			}
			if members++; members > maxMembers || !isMember(member) {
				return false
			}
		}
	}
	return true
}

func isMember(member string) bool {
	key, value, ok := strings.Cut(member, "=")
	if !ok || key == "" || value == "" {
		return false
	}
	for i := range len(key) {
		if c := key[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || i > 0 && strings.IndexByte("_-*/@", c) >= 0) {
			return false
		}
	}
	for i := range len(value) {
		if c := value[i]; c < ' ' || c > '~' || c == ',' || c == '=' {
			return false
		}
	}
	return true
}

// write is traceparent for who is asked next, as of version 00.
func write(trace ID, span SpanID, flags byte) string {
	const digits = "0123456789abcdef"
	b := [lengthParent]byte{'0', '0', '-', 35: '-', 52: '-', 53: '0'}
	for i, c := range trace {
		b[3+2*i], b[4+2*i] = digits[c>>4], digits[c&15]
	}
	for i, c := range span {
		b[36+2*i], b[37+2*i] = digits[c>>4], digits[c&15]
	}
	b[54] = digits[flags&(flagSampled|flagRandom)]
	return string(b[:])
}
