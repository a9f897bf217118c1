package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"sync"
	"time"

	"github.com/sallyport/sallyport/dataplane/record"
	"github.com/sallyport/sallyport/dataplane/upstream"
	"github.com/sallyport/sallyport/internal/request"
)

// The reasons for which a request that was let through fails, beside those of
// package upstream, and of packages request and wire for what is wrong with its
// body.
const (
	ReasonTimeout      = "upstream_timeout"     // no answer in the route's time
	ReasonSwitched     = "upstream_switched"    // an answer that changes the protocol
	ReasonInterrupted  = "upstream_interrupted" // the answer ended before its end
	ReasonClientGone   = "client_gone"          // nobody waits for the answer
	ReasonNoUpstream   = "upstream_unavailable" // the route's upstream is not in force
	statusClientClosed = 499                    // in records alone
)

// Why a forwarded request is given up.
var (
	errTimeout    = errors.New("no answer in the route's time")
	errClientGone = errors.New("nobody waits for the answer")
	errFinished   = errors.New("exchange has ended")
)

// forward sends the request on and the answer back, and records how it ended.
func (x *exchange) forward(expects bool) {
	m := x.gateway.metrics
	m.inFlight.Inc()
	defer m.inFlight.Dec()
	sent := x.body()
	ctx, cancel := x.context(sent)
	defer cancel(errFinished)
	timer := time.AfterFunc(x.verdict.way.route.Timeout, func() { cancel(errTimeout) })
	defer timer.Stop()

	o := record.Outcome{ID: x.id}
	answer, err := x.send(x.outgoing(ctx, sent, expects), &o)
	timer.Stop()
	m.answering.Observe(x.gateway.now().Sub(x.began).Seconds())
	if err == nil {
		o.Status = answer.StatusCode
		o.Sent, err = x.carry(answer)
	}
	// The body goes first: until it is not read any more, an answer over HTTP/2
	// does not close.
	var broken error
	o.Received, broken = sent.finish()
	if answer != nil {
		_ = answer.Body.Close() // whatever was wrong with it is in err
	}
	if sent != nil && !sent.ended.Load() {
		x.abandonBody()
	}
	x.end(&o, explain(ctx, err, broken))
}

// context ends when the client is gone. That we stop reading a body which
// nobody wants looks the same to the server, and must not end the answer.
func (x *exchange) context(sent *body) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(x.r.Context()))
	stop := context.AfterFunc(x.r.Context(), func() {
		if sent == nil || !sent.interrupted.Load() {
			cancel(errClientGone)
		}
	})
	return ctx, func(cause error) {
		if cause == errFinished { //nolint:errorlint // it is this value
			stop()
		}
		cancel(cause)
	}
}

// outgoing is the request as the upstream gets it: what was decided on, and what
// only a gateway may add.
func (x *exchange) outgoing(ctx context.Context, sent *body, expects bool) *http.Request {
	c := &x.verdict.request
	h := http.Header(c.Header)
	h[headerDecision] = []string{x.id}
	if x.from.address.IsValid() {
		h["X-Forwarded-For"] = []string{x.from.address.WithZone("").String()}
	}
	h["X-Forwarded-Host"] = []string{c.Host}
	h["X-Forwarded-Proto"] = []string{"https"}
	if h["X-Request-Id"] == nil {
		h["X-Request-Id"] = []string{x.id}
	}
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = nil // else net/http adds its own
	}
	out := x.r.WithContext(ctx)
	out.Method, out.Host, out.Header = c.Method, c.Host, h
	// Opaque is sent as it is, where Path would be escaped anew.
	out.URL, out.RequestURI = &url.URL{Opaque: c.Target}, ""
	out.Close, out.TransferEncoding, out.Body, out.Trailer = false, nil, nil, nil
	if sent == nil {
		return out
	}
	out.Body, out.Trailer = sent, sent.trailer
	if expects {
		h["Expect"] = []string{"100-continue"}
	}
	return out
}

// send returns the head of the answer.
func (x *exchange) send(out *http.Request, o *record.Outcome) (*http.Response, error) {
	u := x.verdict.way.upstream
	if u == nil {
		return nil, failure{reason: ReasonNoUpstream, status: http.StatusBadGateway}
	}
	if out.Body != nil && x.r.ProtoMajor == 1 {
		// An answer may begin before the request has ended.
		if err := http.NewResponseController(x.w).EnableFullDuplex(); err != nil {
			return nil, err
		}
	}
	hints := &hints{w: x.w}
	out = out.WithContext(httptrace.WithClientTrace(out.Context(), hints.trace()))
	answer, endpoint, err := u.Send(out)
	hints.end()
	o.Endpoint = endpoint
	if err == nil && answer.StatusCode == http.StatusSwitchingProtocols {
		_ = answer.Body.Close() // it is another protocol's
		return nil, failure{reason: ReasonSwitched, status: http.StatusBadGateway}
	}
	return answer, err
}

// failure is what went wrong, as clients and records name it.
type failure struct {
	reason string
	status int    // of the answer if none has begun; zero for no answer at all
	detail string // fit for clients
}

func (f failure) Error() string { return f.reason }

// explain says what went wrong with an exchange that ended with err, and whose
// request's body could not be read because of broken.
func explain(ctx context.Context, err, broken error) error {
	var malformed *request.Error
	var known failure
	var unsent *upstream.Error
	switch {
	case err == nil:
		return nil
	case errors.As(broken, &malformed):
		return failure{malformed.Reason, malformed.Status, malformed.Detail}
	case broken != nil, errors.Is(context.Cause(ctx), errClientGone):
		return failure{reason: ReasonClientGone}
	case errors.Is(context.Cause(ctx), errTimeout):
		return failure{reason: ReasonTimeout, status: http.StatusGatewayTimeout}
	case errors.As(err, &known):
		return known
	case errors.As(err, &unsent):
		status := http.StatusBadGateway
		if unsent.Reason == upstream.IdentityExpired || unsent.Reason == upstream.IdentityMissing {
			status = http.StatusServiceUnavailable
		}
		return failure{reason: string(unsent.Reason), status: status}
	}
	return failure{reason: string(upstream.Failed), status: http.StatusBadGateway}
}

// end records the outcome, and answers if nothing was answered yet. An answer
// that has begun cannot be taken back: it is cut off, so that nobody takes it
// for whole.
func (x *exchange) end(o *record.Outcome, err error) {
	o.Time = x.gateway.now()
	o.Took = o.Time.Sub(x.began)
	var f failure
	if !errors.As(err, &f) {
		x.gateway.record.Finish(o)
		return
	}
	begun := o.Status != 0
	o.Reason = f.reason
	if !begun {
		o.Status = f.status
	}
	if f.status == 0 && !begun {
		o.Status = statusClientClosed
	}
	x.gateway.record.Finish(o)
	x.gateway.metrics.failures.WithLabelValues(x.verdict.way.name, f.reason).Inc()
	if begun || f.status == 0 {
		panic(http.ErrAbortHandler) // the way to have the server end the stream
	}
	x.verdict.status, x.verdict.reason, x.verdict.detail = f.status, f.reason, f.detail
	clear(x.w.Header())
	x.refuse()
}

// hints passes on what upstreams say before they answer (RFC 8297), while they
// have not.
type hints struct {
	w http.ResponseWriter

	mu    sync.Mutex
	ended bool
}

func (h *hints) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{Got1xxResponse: h.pass}
}

// pass leaves out what the server says by itself, and what no client asked for.
func (h *hints) pass(status int, fields textproto.MIMEHeader) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended || status != http.StatusEarlyHints {
		return nil
	}
	header := h.w.Header()
	header["Link"] = fields["Link"]
	h.w.WriteHeader(status)
	delete(header, "Link")
	return nil
}

func (h *hints) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
}
