package gateway

import (
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/sallyport/sallyport/internal/session"
)

// carry sends an answer to the client and returns how much of its body. An
// error is the upstream's unless the client is gone.
func (x *exchange) carry(answer *http.Response) (int64, error) {
	h := x.takeOver(answer)
	plainLength(h, answer.ContentLength)
	changes := &x.verdict.way.route.Rewrites.Response
	changes.Apply(h)
	x.tag(h)
	var announced []string
	for name := range answer.Trailer {
		if isTrailer(name) && !changes.Removes(name) {
			announced = append(announced, name)
		}
	}
	if len(announced) > 0 {
		h["Trailer"] = announced
		if x.r.ProtoMajor == 1 {
			delete(h, "Content-Length") // only chunks have something behind them
		}
	}
	x.w.WriteHeader(answer.StatusCode)
	sent, err := x.copy(answer)
	if err != nil {
		return sent, err
	}
	for name, values := range answer.Trailer {
		switch {
		case !isTrailer(name) || changes.Removes(name):
		case slices.Contains(announced, name):
			h[name] = values
		default:
			h[http.TrailerPrefix+name] = values
		}
	}
	return sent, nil
}

// buffers holds *[]byte for bodies on their way.
type buffers struct{ pool sync.Pool }

const bufferSize = 32 << 10

func (b *buffers) get() *[]byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return p
	}
	p := make([]byte, bufferSize)
	return &p
}

// copy sends the body as it comes. What has no announced length may be a stream
// whose next part is a long time off: nothing of it is held back.
func (x *exchange) copy(answer *http.Response) (sent int64, err error) {
	if x.r.Method == http.MethodHead || answer.Body == http.NoBody {
		return 0, nil
	}
	control := http.NewResponseController(x.w)
	streams := isStream(answer)
	if streams && !isReady(answer.Body) {
		if err := control.Flush(); err != nil {
			return 0, failure{reason: ReasonClientGone}
		}
	}
	buffer := x.gateway.buffers.get()
	defer x.gateway.buffers.pool.Put(buffer)
	for {
		n, err := answer.Body.Read(*buffer)
		if n > 0 {
			x.idle.touch()
			if streams {
				x.from.part()
			}
			x.from.waits(1)
			_, err := x.w.Write((*buffer)[:n])
			x.from.waits(-1)
			if err != nil {
				return sent, failure{reason: ReasonClientGone}
			}
			sent += int64(n)
		}
		switch {
		case errors.Is(err, io.EOF):
			if streams && len(answer.Trailer) > 0 {
				_ = control.Flush() // else the server finds a length, which nothing may follow
			}
			return sent, nil
		case err != nil:
			_ = control.Flush() // what there is of it tells the decision
			return sent, failure{reason: ReasonInterrupted}
		case streams:
			x.from.waits(1)
			err := control.Flush()
			x.from.waits(-1)
			if err != nil {
				return sent, failure{reason: ReasonClientGone}
			}
		}
	}
}

// isReady reports whether the first of a body can be read without waiting.
func isReady(body io.Reader) bool {
	r, ok := body.(interface{ Ready() bool })
	return ok && r.Ready()
}

const eventStream = "text/event-stream"

func isStream(answer *http.Response) bool {
	if answer.ContentLength < 0 {
		return true
	}
	values := answer.Header["Content-Type"]
	if len(values) == 0 || len(values[0]) < len(eventStream) || !strings.EqualFold(values[0][:len(eventStream)], eventStream) {
		return false
	}
	media, _, err := mime.ParseMediaType(values[0])
	return err == nil && media == eventStream
}

// takeOver makes the header of an upstream's answer that of ours, and returns it.
func (x *exchange) takeOver(answer *http.Response) http.Header {
	h := answer.Header
	strip(h, x.verdict.way.route.ServerHeaders)
	if x.http1 != nil {
		x.http1.UseHeader(h)
		return h
	}
	ours := x.w.Header()
	maps.Copy(ours, h)
	return ours
}

// strip removes from an answer's header what is the connection's, and what would lead
// clients past the gateway. Names that are ours are not the upstream's to use. What says
// which software the upstream is stays if told says so.
func strip(h http.Header, told bool) {
	for _, value := range h["Connection"] {
		for option := range strings.SplitSeq(value, ",") {
			delete(h, textproto.CanonicalMIMEHeaderKey(textproto.TrimString(option)))
		}
	}
	for name := range h {
		if isOfConnection(name) || name == "Alt-Svc" || strings.HasPrefix(name, "Sallyport-") || !told && isOfSoftware(name) {
			delete(h, name)
		}
	}
	if cookies := foreign(h["Set-Cookie"]); len(cookies) > 0 {
		h["Set-Cookie"] = cookies
	} else {
		delete(h, "Set-Cookie")
	}
	for _, name := range [...]string{"Content-Type", "Date"} {
		if _, ok := h[name]; !ok {
			h[name] = nil // else net/http makes one up
		}
	}
}

// plainLength has a length of n with zeros before it said without them: there are
// those who read it as octal.
func plainLength(h http.Header, n int64) {
	if said := h["Content-Length"]; n > 0 && len(said) > 0 && said[0][0] == '0' {
		h["Content-Length"] = []string{strconv.FormatInt(n, 10)}
	}
}

// foreign leaves out cookies of our names: an upstream has no say in who a browser
// is.
func foreign(cookies []string) []string {
	if !slices.ContainsFunc(cookies, session.IsOurs) {
		return cookies
	}
	return slices.DeleteFunc(slices.Clone(cookies), session.IsOurs)
}

// isOfConnection tells the fields of RFC 9110, section 7.6.1, and their kin.
func isOfConnection(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Connection",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// isTrailer tells what may come behind an answer's body.
func isTrailer(name string) bool {
	return !isOfConnection(name) && !strings.HasPrefix(name, "Sallyport-") &&
		!slices.Contains([]string{"Content-Length", "Content-Type", "Content-Encoding", "Set-Cookie"}, name)
}
