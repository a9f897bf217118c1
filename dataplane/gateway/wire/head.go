package wire

import (
	"bytes"
	"errors"
	"net/textproto"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/internal/request"
)

// The reasons that only the wire knows; the others are those of package
// request. All of them mean status 400.
const (
	ReasonLineEnding  = "line_ending"     // a line that ends in LF alone, or holds a CR
	ReasonRequestLine = "request_line"    // not method, target and version with one space between
	ReasonFolding     = "header_folded"   // a field continued on the next line
	ReasonChunk       = "chunk_invalid"   // the chunks of a body contradict themselves
	ReasonTrailer     = "trailer_invalid" // fields behind a body that are malformed or too many
	ReasonEarly       = "early_data"      // bytes behind a wish for another protocol, before the answer
)

func refusal(reason, detail string) *request.Error {
	return &request.Error{Reason: reason, Status: 400, Detail: detail}
}

// head is the head of a request.
type head struct {
	method, target, host string
	header               map[string][]string // without Host, and what only frames
	values               []string            // of the first field of each name in header
	fields               fields
}

// blank returns a head for another request, with the room that h has.
func (h *head) blank() head {
	const most = 32 // fields, beyond which room is not kept
	if len(h.values) > most {
		return head{}
	}
	clear(h.header)
	clear(h.values)
	return head{header: h.header, values: h.values[:0]}
}

// endOfHead returns the length of the head that buf begins with, or zero if it is not
// complete; then the next look goes on at line, as this one has begun at from. Lines
// end in CRLF: those who take LF for an end too see another head than those who do not.
func endOfHead(buf []byte, from, most int) (end, line int, err *request.Error) {
	for start := from; ; {
		n := bytes.IndexByte(buf[start:], '\n')
		switch {
		case start+n > most || n < 0 && len(buf) > most:
			return 0, 0, &request.Error{Reason: request.ReasonHeaderTooLarge, Status: 431, Detail: "the header is too large"}
		case n < 0:
			return 0, start, nil
		case n == 0 || buf[start+n-1] != '\r':
			return 0, 0, refusal(ReasonLineEnding, "a line ends in LF alone")
		case n == 1:
			return start + 2, 0, nil
		}
		start += n + 1
	}
}

// parse reads a head that endOfHead has found. The parts of it are parts of text.
func (h *head) parse(text string) *request.Error {
	line, rest, _ := strings.Cut(text, "\r\n")
	if err := h.readRequestLine(line); err != nil {
		return err
	}
	lines := min(strings.Count(rest, "\n")-1, request.MaxHeaderFields)
	if h.header == nil {
		h.header = make(map[string][]string, lines)
	}
	h.values, h.fields.length = slices.Grow(h.values, lines), -1
	for count := 0; len(rest) > 2; count++ {
		if count == request.MaxHeaderFields {
			return &request.Error{Reason: request.ReasonHeaderTooLarge, Status: 431, Detail: "the header has too many fields"}
		}
		line, rest, _ = strings.Cut(rest, "\r\n")
		name, value, err := splitField(line)
		if err != nil {
			return err
		}
		name = request.CanonicalName(name)
		if keep, err := h.fields.read(name, value); err != nil {
			return err
		} else if !keep {
			continue
		}
		if before := h.header[name]; before != nil {
			h.header[name] = append(before, value)
			continue
		}
		h.values = append(h.values, value)
		last := len(h.values)
		h.header[name] = h.values[last-1 : last : last]
	}
	h.host = h.fields.host
	return h.fields.check()
}

// readRequestLine reads "GET /path HTTP/1.1" (RFC 9112, section 3) and leaves
// what its parts mean to package request.
func (h *head) readRequestLine(line string) *request.Error {
	method, rest, ok := strings.Cut(line, " ")
	target, version, ok2 := strings.Cut(rest, " ")
	switch {
	case !ok || !ok2 || method == "" || target == "" || !strings.HasPrefix(version, "HTTP/"):
		return refusal(ReasonRequestLine, "the request line is not method, target and version")
	case request.HoldsControl(line) || strings.IndexByte(line, '\t') >= 0 || strings.IndexByte(version, ' ') >= 0:
		return refusal(ReasonRequestLine, "the request line holds a control byte, or a space too many")
	case version != "HTTP/1.1":
		return explain(request.Raw{ProtoMajor: 1, ProtoMinor: 0})
	case !request.IsToken(method) || !isPlainTarget(target):
		return explain(request.Raw{Method: method, Target: target, Host: "refused.invalid", ProtoMajor: 1, ProtoMinor: 1})
	}
	h.method, h.target = method, target
	return nil
}

// explain has package request say what is wrong with raw. Should it find
// nothing, it is still something that is not read here.
func explain(raw request.Raw) *request.Error {
	var e *request.Error
	if _, err := request.Canonicalise(raw); errors.As(err, &e) {
		return e
	}
	return refusal(ReasonRequestLine, "the request cannot be understood")
}

// isPlainTarget reports whether target is a path whose escapes are some, and perhaps a
// query: what handlers find in the URL of their request.
func isPlainTarget(target string) bool {
	if target[0] != '/' {
		return false
	}
	path, _, _ := strings.Cut(target, "?")
	for {
		i := strings.IndexByte(path, '%')
		if i < 0 {
			return true
		}
		if len(path) < i+3 || !isHex(path[i+1]) || !isHex(path[i+2]) {
			return false
		}
		path = path[i+3:]
	}
}

// fields is what the fields of one head say about framing, host and connection.
type fields struct {
	chunked bool
	length  int64 // -1 without Content-Length
	hosts   int
	host    string
	trailer []string // as announced

	upgrades bool // to another protocol
	closes   bool // the connection, behind the answer
	expects  bool // to be told to go on
}

// read reads one field, and says whether handlers see it in the header.
func (f *fields) read(name, value string) (keep bool, err *request.Error) {
	switch name {
	case "Host":
		f.hosts++
		f.host = value
		return false, nil
	case "Expect":
		if !strings.EqualFold(value, "100-continue") {
			return false, &request.Error{Reason: request.ReasonExpectation, Status: 417, Detail: "the only expectation that is met is 100-continue"}
		}
		f.expects = true
	case "Trailer":
		return true, f.readTrailer(value)
	case "Upgrade":
		f.upgrades = true
	case "Connection":
		f.closes = f.closes || lists(value, "close")
	case "Content-Length":
		return true, f.readLength(value)
	case "Transfer-Encoding":
		return false, f.readEncoding(value)
	}
	return true, nil
}

// lists reports whether a list of tokens has option.
func lists(value, option string) bool {
	for v := range strings.SplitSeq(value, ",") {
		if strings.EqualFold(textproto.TrimString(v), option) {
			return true
		}
	}
	return false
}

func (f *fields) readLength(value string) *request.Error {
	const digitsOfInt64 = 18 // that are always in range
	if f.length >= 0 {
		return refusal(request.ReasonHeaderDuplicate, "the field Content-Length occurs more than once")
	}
	if len(value) == 0 || len(value) > digitsOfInt64 {
		return refusal(request.ReasonLength, "Content-Length is not a number")
	}
	f.length = 0
	for _, c := range []byte(value) {
		if c < '0' || c > '9' {
			return refusal(request.ReasonLength, "Content-Length is not a number")
		}
		f.length = f.length*10 + int64(c-'0')
	}
	return nil
}

func (f *fields) readEncoding(value string) *request.Error {
	if f.chunked || !strings.EqualFold(value, "chunked") {
		return refusal(request.ReasonTransferEncoding, "the only transfer encoding is chunked")
	}
	f.chunked = true
	return nil
}

// check looks at the head as a whole.
func (f *fields) check() *request.Error {
	switch {
	case f.chunked && f.length >= 0:
		return refusal(request.ReasonLength, "Content-Length stands beside Transfer-Encoding")
	case f.upgrades && (f.chunked || f.length > 0):
		return refusal(request.ReasonUpgrade, "a request with a body cannot change the protocol")
	case f.hosts > 1:
		return refusal(request.ReasonHostAmbiguous, "the request names two hosts")
	case f.hosts == 0 || !isPlainHost(f.host):
		return explain(request.Raw{Method: "GET", Target: "/", Host: f.host, ProtoMajor: 1, ProtoMinor: 1})
	}
	return nil
}

// readTrailer refuses to have framing announced as a trailer.
func (f *fields) readTrailer(names string) *request.Error {
	for name := range strings.SplitSeq(names, ",") {
		name = textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name))
		if isFraming(name) {
			return refusal(ReasonTrailer, "framing is announced as a trailer")
		}
		if name != "" {
			f.trailer = append(f.trailer, name)
		}
	}
	return nil
}

// isFraming tells the fields that say where a message ends.
func isFraming(name string) bool {
	return name == "Transfer-Encoding" || name == "Content-Length" || name == "Trailer"
}

// splitField splits a line at its colon and trims the white space around the
// value, which is no part of it (RFC 9112, section 5).
func splitField(line string) (name, value string, err *request.Error) {
	if line[0] == ' ' || line[0] == '\t' {
		return "", "", refusal(ReasonFolding, "a field is continued on the next line")
	}
	name, value, ok := strings.Cut(line, ":")
	if !ok || !request.IsToken(name) {
		return "", "", refusal(request.ReasonHeaderName, "the name of a field is not a token")
	}
	if request.HoldsControl(value) {
		if strings.IndexByte(value, '\r') >= 0 {
			return "", "", refusal(ReasonLineEnding, "a line holds a CR")
		}
		return "", "", refusal(request.ReasonHeaderValue, "a field holds a control byte")
	}
	return name, textproto.TrimString(value), nil
}

// chunkSize reads the line that begins a chunk (RFC 9112, section 7.1), and drops its
// extensions.
func chunkSize(line string) (int64, *request.Error) {
	const digitsOfInt64 = 15 // that are always in range
	text, ok := strings.CutSuffix(line, "\r\n")
	if !ok {
		return 0, refusal(ReasonLineEnding, "a line ends in LF alone")
	}
	digits, _, extended := strings.Cut(text, ";")
	if digits == "" || len(digits) > digitsOfInt64 || extended && request.HoldsControl(text) {
		return 0, refusal(ReasonChunk, "the size of a chunk is not a number")
	}
	var size int64
	for _, c := range []byte(digits) {
		if !isHex(c) {
			return 0, refusal(ReasonChunk, "the size of a chunk is not a number")
		}
		size = size<<4 | int64(hexValue(c))
	}
	return size, nil
}

// readTrailer reads the fields behind a body, up to the empty line at the end of text,
// and hands over those that into has a place for: what was announced.
func readTrailer(text string, into map[string][]string) *request.Error {
	for rest, count := text, 0; len(rest) > 2; count++ {
		var line string
		line, rest, _ = strings.Cut(rest, "\r\n")
		name, value, err := splitField(line)
		if err != nil || count == request.MaxHeaderFields {
			return refusal(ReasonTrailer, "the trailer is malformed, or has too many fields")
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		if _, announced := into[name]; announced {
			into[name] = append(into[name], value)
		}
	}
	return nil
}

// isPlainHost reports whether host is made of what hosts are made of; what it is worth
// is up to package request.
func isPlainHost(host string) bool {
	for _, c := range []byte(host) {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && strings.IndexByte("-._:[]", c) < 0 {
			return false
		}
	}
	return len(host) > 0
}

func isHex(c byte) bool { return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f' }

func hexValue(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c | 0x20 - 'a' + 10
}
