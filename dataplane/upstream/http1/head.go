package http1

import (
	"net/http"
	"net/textproto"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/internal/request"
)

// head is the head of an answer.
type head struct {
	status int
	reason string
	minor  int // of HTTP/1
	header http.Header
	values []string // of the first field of each name in header

	length  int64 // -1 without Content-Length
	chunked bool
	closes  bool
	trailer http.Header // announced; nil for none
}

// blank returns a head for another answer, with the room that h has.
func (h *head) blank() head {
	const most = 32 // fields, beyond which room is not kept
	if len(h.values) > most {
		return head{}
	}
	clear(h.header)
	clear(h.values)
	return head{header: h.header, values: h.values[:0]}
}

// parse reads a head that endOfHead has found.
func (h *head) parse(text string) error {
	line, rest, _ := strings.Cut(text, "\r\n")
	h.length = -1
	if err := h.readStatus(line); err != nil {
		return err
	}
	count := strings.Count(rest, "\n") - 1
	if count > maxFields {
		return Malformed("the head has too many fields")
	}
	const more = 4 // that whoever hands the answer on adds to it
	if h.header == nil {
		h.header = make(http.Header, count+more)
	}
	h.values = slices.Grow(h.values, count)
	for len(rest) > 2 {
		line, rest, _ = strings.Cut(rest, "\r\n")
		name, value, err := splitField(line)
		if err != nil {
			return err
		}
		name = request.CanonicalName(name)
		if keep, err := h.read(name, value); err != nil {
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
	return h.check()
}

// readStatus reads "HTTP/1.1 200 OK" (RFC 9112, section 4). What is said after the
// number may be missing, and the space before it with it.
func (h *head) readStatus(line string) error {
	const shortest = len("HTTP/1.1 200")
	if len(line) < shortest || line[:len("HTTP/1.")] != "HTTP/1." || line[len("HTTP/1.1")] != ' ' {
		return Malformed("the status line is not version, number and reason")
	}
	switch line[len("HTTP/1.")] {
	case '0':
	case '1':
		h.minor = 1
	default:
		return Malformed("the version is neither HTTP/1.1 nor HTTP/1.0")
	}
	digits, reason := line[len("HTTP/1.1 "):shortest], line[shortest:]
	for _, c := range []byte(digits) {
		if c < '0' || c > '9' {
			return Malformed("the status is not a number")
		}
		h.status = h.status*10 + int(c-'0')
	}
	if h.status < 100 || reason != "" && reason[0] != ' ' || request.HoldsControl(reason) {
		return Malformed("the status line is not version, number and reason")
	}
	h.reason = line[len("HTTP/1.1 "):]
	return nil
}

// read looks at a field for what it says about the connection. What was understood
// for good is not kept, as net/http does not.
func (h *head) read(name, value string) (keep bool, err error) {
	switch name {
	case "Content-Length":
		if h.length >= 0 {
			return false, Malformed("the field Content-Length occurs more than once")
		}
		h.length, err = contentLength(value)
		return true, err
	case "Transfer-Encoding":
		if h.chunked || !strings.EqualFold(value, "chunked") {
			return false, Malformed("a transfer encoding other than chunked")
		}
		h.chunked = true
		return false, nil
	case "Trailer":
		return false, h.announce(value)
	case "Connection":
		for option := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(textproto.TrimString(option), "close") {
				h.closes = true
			}
		}
	}
	return true, nil
}

func (h *head) announce(names string) error {
	for name := range strings.SplitSeq(names, ",") {
		name = textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name))
		switch {
		case name == "":
			continue
		case !request.IsToken(name):
			return Malformed("the name of a trailer is not a token")
		case isFraming(name):
			return Malformed("framing is announced as a trailer")
		case h.trailer == nil:
			h.trailer = http.Header{}
		}
		h.trailer[name] = nil
	}
	return nil
}

// check looks at the head as a whole.
func (h *head) check() error {
	bodyless := h.status < 200 || h.status == http.StatusNoContent
	switch {
	case h.chunked && h.length >= 0:
		return Malformed("Content-Length stands beside Transfer-Encoding")
	case h.chunked && h.minor == 0:
		return Malformed("a transfer encoding in HTTP/1.0")
	case bodyless && (h.chunked || h.length > 0):
		return Malformed("a body where there is none")
	case h.minor == 0 && h.status < 200:
		return Malformed("an interim answer in HTTP/1.0")
	}
	return nil
}

// fill makes a the answer that h begins.
func (h *head) fill(a *http.Response) {
	a.Status, a.StatusCode = h.reason, h.status
	a.Proto, a.ProtoMajor, a.ProtoMinor = [...]string{"HTTP/1.0", "HTTP/1.1"}[h.minor], 1, h.minor
	a.Header, a.ContentLength, a.Close = h.header, h.length, h.closes || h.minor == 0
	if h.chunked {
		a.TransferEncoding, a.Trailer = []string{"chunked"}, h.trailer
	}
}
