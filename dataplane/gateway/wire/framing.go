package wire

import (
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/request"
)

// framing is how the end of an answer is told.
type framing struct {
	set     bool
	chunked bool
	at      int      // where in the head it will stand, until it is set
	trails  bool     // something may come behind the body
	trailer []string // the names that were announced
}

// maxFraming has room for the fields that say it, and a chunk's line.
const maxFraming = 128

// hasBody reports whether an answer with this status has one.
func hasBody(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// begin makes the head of the answer, except for how its end is told, which may depend on
// what is written.
func (w *Response) begin() {
	w.takeRoom()
	f, b := &w.framing, appendStatus(w.out, w.status)
	w.closes = w.closes || w.conn.server.closing.Load()
	_, dated := w.header["Date"]
	for name, values := range w.header {
		switch name {
		case "Content-Length":
			w.announce(values)
		case "Transfer-Encoding": // is not the handler's to say
		case "Connection":
			w.closes = w.closes || slices.ContainsFunc(values, func(v string) bool { return lists(v, "close") })
		case "Content-Type":
			if w.status != http.StatusNotModified {
				b = f.appendFields(b, name, values)
			}
		case "Trailer":
			f.announce(values)
			b = f.appendFields(b, name, values)
		default:
			b = f.appendFields(b, name, values)
		}
	}
	if !dated {
		b = append(w.conn.server.clock.append(append(b, "Date: "...)), "\r\n"...)
	}
	w.out, f.at = b, len(b)
	if w.length >= 0 || !hasBody(w.status) {
		w.frame(false)
	}
}

func (w *Response) announce(values []string) {
	if len(values) == 0 || !hasBody(w.status) {
		return
	}
	if n, err := strconv.ParseInt(values[0], 10, 64); err == nil && n >= 0 {
		w.length = n
	}
}

func (f *framing) announce(values []string) {
	f.trails = true
	for _, value := range values {
		for name := range strings.SplitSeq(value, ",") {
			if name = textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name)); !isFraming(name) {
				f.trailer = append(f.trailer, name)
			}
		}
	}
}

// frame completes the head. done says that the body is what was written.
func (w *Response) frame(done bool) {
	var room [maxFraming]byte
	f, b := &w.framing, room[:0]
	body := len(w.out) - f.at
	f.set = true
	switch {
	case !hasBody(w.status):
	case w.length >= 0:
		b = appendLength(b, w.length)
	case w.head && (!done || w.written == 0 || f.trails): // who knows
	case done && !f.trails:
		b = appendLength(b, w.written)
	default:
		f.chunked = true
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	w.closes = w.closes || w.expects.Load() || w.body.tooMuch()
	if w.closes {
		b = append(b, "Connection: close\r\n"...)
	}
	b = append(b, "\r\n"...)
	if f.chunked && body > 0 {
		b = append(strconv.AppendInt(b, int64(body), 16), "\r\n"...)
		w.out = append(w.out, "\r\n"...)
	}
	w.out = slices.Insert(w.out, f.at, b...)
}

func appendLength(b []byte, n int64) []byte {
	b = strconv.AppendInt(append(b, "Content-Length: "...), n, 10)
	return append(b, "\r\n"...)
}

func appendStatus(b []byte, status int) []byte {
	if status == http.StatusOK {
		return append(b, "HTTP/1.1 200 OK\r\n"...)
	}
	b = strconv.AppendInt(append(b, "HTTP/1.1 "...), int64(status), 10)
	text := http.StatusText(status)
	if text == "" {
		text = "status code " + strconv.Itoa(status)
	}
	b = append(append(b, ' '), text...)
	return append(b, "\r\n"...)
}

// appendFields appends the fields of one name, unless that is none. Nothing in a value
// ends its line.
func (f *framing) appendFields(b []byte, name string, values []string) []byte {
	if !request.IsToken(name) {
		f.trails = f.trails || strings.HasPrefix(name, http.TrailerPrefix)
		return b
	}
	for _, value := range values {
		if request.HoldsControl(value) {
			value = strings.NewReplacer("\r", " ", "\n", " ").Replace(value)
		}
		b = append(append(b, name...), ": "...)
		b = append(append(b, textproto.TrimString(value)...), "\r\n"...)
	}
	return b
}

// appendTrailers appends what comes behind chunks.
func (f *framing) appendTrailers(b []byte, header http.Header) []byte {
	if !f.trails && len(header) == 0 {
		return b
	}
	for _, name := range f.trailer {
		b = f.appendFields(b, name, header[name])
	}
	for name, values := range header {
		if rest, ok := strings.CutPrefix(name, http.TrailerPrefix); ok && !isFraming(rest) {
			b = f.appendFields(b, rest, values)
		}
	}
	return b
}

// clock tells the time as Date says it (RFC 9110, section 6.6.1). It is safe for
// concurrent use.
type clock struct{ last atomic.Pointer[second] }

// second is one of a clock.
type second struct {
	unix int64
	text string
}

func (c *clock) append(b []byte) []byte {
	now := time.Now()
	s := c.last.Load()
	if s == nil || s.unix != now.Unix() {
		s = &second{now.Unix(), now.UTC().Format(http.TimeFormat)}
		c.last.Store(s)
	}
	return append(b, s.text...)
}
