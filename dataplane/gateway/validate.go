package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/request"
	"github.com/sallyport/sallyport/internal/schema"
)

// The reasons for which a body that is to be compared with a schema cannot be, beside
// those of package schema.
const (
	ReasonBodyTooLarge = "body_too_large" // more than the route's validation takes
	ReasonBodyTimeout  = "body_timeout"   // all of it did not come in the route's time
	ReasonBusy         = "proxy_busy"     // as many bodies are in memory as may be
)

// maxHolding bounds the bodies in memory, of all requests, in bytes.
const maxHolding = 256 << 20

// difference is a member of the errors of a problem.
type difference struct {
	Pointer string `json:"pointer"`
	Detail  string `json:"detail"`
}

func differences(f schema.Findings) []difference {
	var all []difference
	for _, p := range f.Problems {
		if p.Pointer != "" {
			all = append(all, difference{p.Pointer, p.Detail})
		}
	}
	return all
}

// validate compares a request that is let through with the schema of its route, if
// it has one. What differs is not let through after all, or is told. A body is held
// until all of it has come, and sent on as it came.
func (x *exchange) validate() {
	v := x.verdict.way.route.Validation
	if v == nil {
		return
	}
	x.compared = x.gateway.now()
	c := &x.verdict.request
	found, body := v.Schema.Head(&schema.Request{
		Method: c.Method, Path: c.Path, RawQuery: c.RawQuery, Header: c.Header, HasBody: x.sent != nil,
	}, v.Options)
	if body != nil && found.Valid() {
		held, err := x.hold(v)
		var f failure
		switch {
		case err == nil:
			found = body.Judge(held)
		case errors.As(err, &f) && f.reason == ReasonBodyTooLarge:
			found = schema.Findings{Reason: f.reason, Problems: []schema.Problem{{Pointer: "/body", Detail: f.detail}}}
		default:
			x.verdict.deny(x.unread(err))
			return
		}
	}
	if !found.Valid() {
		x.differ(v, found)
	}
}

// differ refuses a request that is not as it should be, or lets it through.
func (x *exchange) differ(v *compile.Validation, found schema.Findings) {
	mode := "enforce"
	if v.Report {
		mode = "report"
	}
	x.gateway.metrics.differing.WithLabelValues(x.verdict.way.name, mode, found.Reason).Inc()
	detail := ""
	if len(found.Problems) > 0 {
		p := found.Problems[0]
		detail = p.Pointer + " " + p.Detail
		if p.Pointer == "" {
			detail = p.Detail
		}
	}
	if v.Report {
		x.verdict.detail = "differs from its schema: " + found.Reason + ": " + detail
		return
	}
	x.differs = found
	status := found.Status()
	if found.Reason == ReasonBodyTooLarge {
		status = http.StatusRequestEntityTooLarge
	}
	x.verdict.deny(failure{reason: found.Reason, status: status, detail: detail})
}

// hold reads all of the body, and has it read again by whoever sends it on. A
// failure with ReasonBodyTooLarge leaves it whole as well.
func (x *exchange) hold(v *compile.Validation) ([]byte, error) {
	tooLarge := failure{reason: ReasonBodyTooLarge, status: http.StatusRequestEntityTooLarge, detail: "has more bytes than are taken here"}
	if x.r.ContentLength > int64(v.MaxBody) {
		return nil, tooLarge
	}
	timer := time.AfterFunc(x.verdict.way.route.Timeout, func() { x.life.End(errTimeout) })
	defer timer.Stop()
	stop := context.AfterFunc(x.out.Context(), x.sent.unblock)
	defer stop()
	h := holder{exchange: x, most: v.MaxBody, from: x.sent.from}
	err := h.read()
	switch {
	case errors.Is(err, io.EOF):
		// Nobody has to be kept from reading what is here.
		x.sent.from, x.sent.unblock = io.NopCloser(bytes.NewReader(h.bytes)), func() {}
		return h.bytes, nil
	case err != nil:
		return nil, err
	}
	x.sent.from = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(h.bytes), h.from), h.from}
	return nil, tooLarge
}

// holder takes a body into memory.
type holder struct {
	exchange *exchange
	from     io.ReadCloser
	most     int
	bytes    []byte
}

// read returns io.EOF at the end of the body, and nil when there is more than most.
func (h *holder) read() error {
	for len(h.bytes) <= h.most {
		if len(h.bytes) == cap(h.bytes) && !h.grow() {
			return failure{reason: ReasonBusy, status: http.StatusServiceUnavailable}
		}
		n, err := h.from.Read(h.bytes[len(h.bytes):cap(h.bytes)])
		h.bytes = h.bytes[:len(h.bytes)+n]
		if err != nil {
			return err
		}
	}
	return nil
}

// grow makes place as bytes come, and not as they are announced. It reports whether
// there may be more.
func (h *holder) grow() bool {
	const least, announced = 2 << 10, 64 << 10
	size := max(2*cap(h.bytes), least)
	if length := h.exchange.r.ContentLength; length > 0 && cap(h.bytes) == 0 {
		size = int(min(length+1, announced)) // the end is seen in the same step
	}
	more := int64(min(size, h.most+1) - cap(h.bytes))
	h.exchange.held += more
	if h.exchange.gateway.holding.Add(more) > maxHolding {
		return false
	}
	h.bytes = append(make([]byte, 0, cap(h.bytes)+int(more)), h.bytes...)
	return true
}

// unread says why a body did not come.
func (x *exchange) unread(err error) failure {
	var known failure
	var malformed *request.Error
	closed := x.stream.why()
	switch {
	case closed != nil:
		return closed.failure()
	case errors.As(err, &known):
		return known
	case errors.As(err, &malformed):
		return failure{reason: malformed.Reason, status: malformed.Status, detail: malformed.Detail}
	case errors.Is(context.Cause(x.out.Context()), errTimeout):
		return failure{reason: ReasonBodyTimeout, status: http.StatusRequestTimeout, detail: "the body did not come in time"}
	}
	return failure{reason: ReasonClientGone, status: statusClientClosed}
}
