package http1

import (
	"bytes"
	"strings"

	"github.com/sallyport/sallyport/internal/request"
)

// endOfHead returns the length of the head that buf begins with, or zero if it is
// not complete, and where its last line that was looked at begins. The first from
// bytes are whole lines that were looked at before. Lines end in CRLF: those who
// take LF for an end too see another head than those who do not.
func endOfHead(buf []byte, from, most int) (end, line int, err error) {
	for start := from; ; {
		n := bytes.IndexByte(buf[start:], '\n')
		switch {
		case start+n > most || n < 0 && len(buf) > most:
			return 0, start, Malformed("the head is too large")
		case n < 0:
			return 0, start, nil
		case n == 0 || buf[start+n-1] != '\r':
			return 0, start, Malformed("a line ends in LF alone")
		case n == 1:
			return start + 2, start, nil
		}
		start += n + 1
	}
}

// splitField splits a line at its colon and trims the white space around the
// value, which is no part of it.
func splitField(line string) (name, value string, err error) {
	if line == "" || line[0] == ' ' || line[0] == '\t' {
		return "", "", Malformed("a field is continued on the next line")
	}
	colon := strings.IndexByte(line, ':')
	if colon < 0 || !request.IsToken(line[:colon]) {
		return "", "", Malformed("the name of a field is not a token")
	}
	value = strings.Trim(line[colon+1:], " \t")
	if request.HoldsControl(value) {
		return "", "", Malformed("a field holds a control byte")
	}
	return line[:colon], value, nil
}

// chunkSize reads the line that begins a chunk (RFC 9112, section 7.1).
func chunkSize(line []byte) (int64, error) {
	const digitsOfInt64 = 15 // that are always in range
	text, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok {
		return 0, Malformed("a line ends in LF alone")
	}
	digits, _, extended := bytes.Cut(text, []byte(";"))
	if len(digits) == 0 || len(digits) > digitsOfInt64 || extended && request.HoldsControl(string(text)) {
		return 0, Malformed("the size of a chunk is not a number")
	}
	var size int64
	for _, c := range digits {
		switch {
		case c >= '0' && c <= '9':
			size = size<<4 | int64(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			size = size<<4 | int64(c|0x20-'a'+10)
		default:
			return 0, Malformed("the size of a chunk is not a number")
		}
	}
	return size, nil
}

// contentLength reads a number that nobody reads in another way.
func contentLength(value string) (int64, error) {
	const digitsOfInt64 = 18 // that are always in range
	if value == "" || len(value) > digitsOfInt64 {
		return 0, Malformed("Content-Length is not a number")
	}
	var n int64
	for _, c := range []byte(value) {
		if c < '0' || c > '9' {
			return 0, Malformed("Content-Length is not a number")
		}
		n = n*10 + int64(c-'0')
	}
	return n, nil
}
