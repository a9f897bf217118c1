package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
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

// framing says where the body of a message ends, and what may follow.
type framing struct {
	chunked  bool
	length   int64
	upgrades bool // to another protocol, without a body
}

// endOfHead returns the length of the head that buf begins with, or zero if it
// is not complete. Lines end in CRLF: those who take LF for an end too see
// another head than those who do not.
func endOfHead(buf []byte, most int) (int, *request.Error) {
	for start := 0; ; {
		n := bytes.IndexByte(buf[start:], '\n')
		switch {
		case start+n > most || n < 0 && len(buf) > most:
			return 0, &request.Error{Reason: request.ReasonHeaderTooLarge, Status: 431, Detail: "the header is too large"}
		case n < 0:
			return 0, nil
		case n == 0 || buf[start+n-1] != '\r':
			return 0, refusal(ReasonLineEnding, "a line ends in LF alone")
		case n == 1:
			return start + 2, nil
		}
		start += n + 1
	}
}

// checkHead reads a head that endOfHead has found. What it lets through,
// net/http understands in the one way that is meant here.
func checkHead(head []byte) (framing, *request.Error) {
	line, rest, _ := bytes.Cut(head, []byte("\r\n"))
	if err := checkRequestLine(line); err != nil {
		return framing{}, err
	}
	f := fields{length: -1}
	for count := 0; len(rest) > 2; count++ {
		if count == request.MaxHeaderFields {
			return framing{}, &request.Error{Reason: request.ReasonHeaderTooLarge, Status: 431, Detail: "the header has too many fields"}
		}
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		if err := f.read(line); err != nil {
			return framing{}, err
		}
	}
	if err := f.check(); err != nil {
		return framing{}, err
	}
	return framing{chunked: f.chunked, length: max(f.length, 0), upgrades: f.upgrades}, nil
}

// checkRequestLine reads "GET /path HTTP/1.1" (RFC 9112, section 3) and leaves
// what its parts mean to package request.
func checkRequestLine(line []byte) *request.Error {
	method, rest, ok := bytes.Cut(line, []byte(" "))
	target, version, ok2 := bytes.Cut(rest, []byte(" "))
	switch {
	case !ok || !ok2 || len(method) == 0 || len(target) == 0 || !bytes.HasPrefix(version, []byte("HTTP/")):
		return refusal(ReasonRequestLine, "the request line is not method, target and version")
	case holdsControl(line) || bytes.IndexByte(line, '\t') >= 0 || bytes.IndexByte(version, ' ') >= 0:
		return refusal(ReasonRequestLine, "the request line holds a control byte, or a space too many")
	case string(version) != "HTTP/1.1":
		return explain(request.Raw{ProtoMajor: 1, ProtoMinor: 0})
	case !isToken(method) || !isPlainTarget(target):
		return explain(request.Raw{
			Method: string(method), Target: string(target), Host: "refused.invalid",
			ProtoMajor: 1, ProtoMinor: 1,
		})
	}
	return nil
}

// explain has package request say what is wrong with raw. Should it find
// nothing, it is still something that net/http would not understand.
func explain(raw request.Raw) *request.Error {
	var e *request.Error
	if _, err := request.Canonicalise(raw); errors.As(err, &e) {
		return e
	}
	return refusal(ReasonRequestLine, "the request cannot be understood")
}

// isPlainTarget reports whether net/http parses the target: its errors would
// be answered before any handler knows of them.
func isPlainTarget(target []byte) bool {
	if target[0] != '/' {
		return false
	}
	path, _, _ := bytes.Cut(target, []byte("?"))
	for {
		i := bytes.IndexByte(path, '%')
		if i < 0 {
			return true
		}
		if len(path) < i+3 || !isHex(path[i+1]) || !isHex(path[i+2]) {
			return false
		}
		path = path[i+3:]
	}
}

// fields is what the fields of one head say about framing and host.
type fields struct {
	chunked bool
	length  int64 // -1 without Content-Length
	hosts   int
	host    []byte

	upgrades bool
}

// read reads one field line (RFC 9112, section 5).
func (f *fields) read(line []byte) *request.Error {
	name, value, err := splitField(line)
	if err != nil {
		return err
	}
	switch len(name) {
	case len("Host"):
		if strings.EqualFold(string(name), "Host") {
			f.hosts++
			f.host = value
		}
	case len("Expect"):
		if strings.EqualFold(string(name), "Expect") && !strings.EqualFold(string(value), "100-continue") {
			return &request.Error{Reason: request.ReasonExpectation, Status: 417, Detail: "the only expectation that is met is 100-continue"}
		}
	case len("Trailer"): // and of Upgrade
		if strings.EqualFold(string(name), "Trailer") {
			return checkAnnounced(string(value))
		}
		f.upgrades = f.upgrades || strings.EqualFold(string(name), "Upgrade")
	case len("Content-Length"):
		if strings.EqualFold(string(name), "Content-Length") {
			return f.readLength(value)
		}
	case len("Transfer-Encoding"):
		if strings.EqualFold(string(name), "Transfer-Encoding") {
			return f.readEncoding(value)
		}
	}
	return nil
}

func (f *fields) readLength(value []byte) *request.Error {
	const digitsOfInt64 = 18 // that are always in range
	if f.length >= 0 {
		return refusal(request.ReasonHeaderDuplicate, "the field Content-Length occurs more than once")
	}
	if len(value) == 0 || len(value) > digitsOfInt64 {
		return refusal(request.ReasonLength, "Content-Length is not a number")
	}
	f.length = 0
	for _, c := range value {
		if c < '0' || c > '9' {
			return refusal(request.ReasonLength, "Content-Length is not a number")
		}
		f.length = f.length*10 + int64(c-'0')
	}
	return nil
}

func (f *fields) readEncoding(value []byte) *request.Error {
	if f.chunked || !strings.EqualFold(string(value), "chunked") {
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
		return explain(request.Raw{Method: "GET", Target: "/", Host: string(f.host), ProtoMajor: 1, ProtoMinor: 1})
	}
	return nil
}

// checkAnnounced refuses to have framing announced as a trailer, which net/http
// would not understand either.
func checkAnnounced(names string) *request.Error {
	for name := range strings.SplitSeq(names, ",") {
		name = strings.Trim(name, " \t")
		for _, framing := range [...]string{"Transfer-Encoding", "Content-Length", "Trailer"} {
			if strings.EqualFold(name, framing) {
				return refusal(ReasonTrailer, "framing is announced as a trailer")
			}
		}
	}
	return nil
}

// splitField splits a line at its colon and trims the white space around the
// value, which is no part of it.
func splitField(line []byte) (name, value []byte, err *request.Error) {
	if line[0] == ' ' || line[0] == '\t' {
		return nil, nil, refusal(ReasonFolding, "a field is continued on the next line")
	}
	name, value, ok := bytes.Cut(line, []byte(":"))
	if !ok || !isToken(name) {
		return nil, nil, refusal(request.ReasonHeaderName, "the name of a field is not a token")
	}
	if holdsControl(value) {
		if bytes.IndexByte(value, '\r') >= 0 {
			return nil, nil, refusal(ReasonLineEnding, "a line holds a CR")
		}
		return nil, nil, refusal(request.ReasonHeaderValue, "a field holds a control byte")
	}
	return name, bytes.Trim(value, " \t"), nil
}

// chunkSize reads the line that begins a chunk (RFC 9112, section 7.1).
// Extensions are let through, where net/http drops them.
func chunkSize(line []byte) (int64, *request.Error) {
	const digitsOfInt64 = 15 // that are always in range
	text, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok {
		return 0, refusal(ReasonLineEnding, "a line ends in LF alone")
	}
	digits, _, extended := bytes.Cut(text, []byte(";"))
	if len(digits) == 0 || len(digits) > digitsOfInt64 || extended && holdsControl(text) {
		return 0, refusal(ReasonChunk, "the size of a chunk is not a number")
	}
	var size int64
	for _, c := range digits {
		if !isHex(c) {
			return 0, refusal(ReasonChunk, "the size of a chunk is not a number")
		}
		size = size<<4 | int64(hexValue(c))
	}
	return size, nil
}

// endOfTrailer returns the length of the trailer that buf begins with, or zero
// if it is not complete.
func endOfTrailer(buf []byte) (int, *request.Error) {
	end, err := endOfHead(buf, maxTrailer)
	if err != nil {
		return 0, refusal(ReasonTrailer, "the trailer is too large, or has a line that ends in LF alone")
	}
	if end == 0 {
		return 0, nil
	}
	for rest, count := buf[:end], 0; len(rest) > 2; count++ {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		if _, _, err := splitField(line); err != nil || count == request.MaxHeaderFields {
			return 0, refusal(ReasonTrailer, "the trailer is malformed, or has too many fields")
		}
	}
	return end, nil
}

// holdsControl reports whether b holds a control byte other than a tab. It
// looks at eight bytes at a time: subtracting borrows from a byte's top bit,
// where that was clear, exactly when the byte, or one below it that borrowed,
// is smaller.
func holdsControl(b []byte) bool {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	for ; len(b) >= 8; b = b[8:] {
		x := binary.LittleEndian.Uint64(b)
		del := x ^ 0x7f*ones
		if ((x-' '*ones)&^x|(del-ones)&^del)&tops != 0 && anyControl(b[:8]) {
			return true
		}
	}
	return anyControl(b)
}

func anyControl(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return true
		}
	}
	return false
}

// isToken reports whether b is a token of RFC 9110, section 5.6.2.
func isToken(b []byte) bool {
	const signs = "!#$%&'*+-.^_`|~"
	for _, c := range b {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && c != '-' && (c < '0' || c > '9') && strings.IndexByte(signs, c) < 0 {
			return false
		}
	}
	return len(b) > 0
}

// isPlainHost reports whether net/http takes host for one; what it is worth is
// up to package request.
func isPlainHost(host []byte) bool {
	for _, c := range host {
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
