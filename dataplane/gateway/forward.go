package gateway

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/textproto"
	"net/url"
	"sync"

	"github.com/sallyport/sallyport/dataplane/life"
	"github.com/sallyport/sallyport/dataplane/record"
	"github.com/sallyport/sallyport/dataplane/upstream"
	"github.com/sallyport/sallyport/internal/request"
)

// The reasons for which a request that was let through fails, beside those of
// package upstream, and of packages request and wire for what is wrong with its
// body.
const (
	ReasonTimeout      = "upstream_timeout"     // no answer in the route's time
	ReasonSwitched     = "upstream_switched"    // an answer that changes the protocol, unasked
	ReasonHandshake    = "upstream_handshake"   // a WebSocket's handshake that is none
	ReasonInterrupted  = "upstream_interrupted" // the answer ended before its end
	ReasonClientGone   = "client_gone"          // nobody waits for the answer
	ReasonNoUpstream   = "upstream_unavailable" // the route's upstream is not in force
	statusClientClosed = 499                    // in records alone
)

// Why a forwarded request is given up.
var (
	errClosed     error = life.Cause("stream is closed")
	errTimeout          = upstream.ErrLate
	errClientGone error = life.Cause("nobody waits for the answer")
	errFinished   error = life.Cause("exchange has ended")
)

// forward sends the request on and the answer back, and records how it ended.
func (x *exchange) forward(expects bool) {
	m := x.gateway.metrics
	m.inFlight.Inc()
	defer m.inFlight.Dec()
	x.alarm = x.gateway.alarms.set(&x.life, x.verdict.way.route.Timeout)

	o := &x.outcome
	*o = record.Outcome{ID: x.id, Told: x.told, Target: x.verdict.went(), Upstream: x.verdict.share}
	x.complete(expects)
	call := &x.call
	if a := x.trace.Attempts(); a != nil {
		call.Watch = a
	}
	defer call.End()
	answer, err := x.send(call)
	o.Endpoint, o.Attempts = call.Endpoint, call.Attempts
	x.stopAlarm()
	x.answers = x.gateway.now()
	m.answering.observe(x.answers.Sub(x.began), x.answers, x)
	if err == nil {
		whole := x.breakOff(answer)
		defer whole.Stop()
		stop := x.watch()
		defer stop()
		err = x.replaced(answer)
	}
	switch {
	case err != nil || !x.stream.answer(answer.StatusCode):
	case answer.StatusCode == http.StatusSwitchingProtocols:
		err = x.tunnel(answer, o)
	default:
		o.Status = answer.StatusCode
		if o.Sent, err = x.carry(answer); err == nil && x.sent != nil {
			x.sent.rest(http.NewResponseController(x.w).Flush)
		}
	}
	// The body goes first: until it is not read any more, an answer over HTTP/2
	// does not close.
	broken := x.finish(o)
	if answer != nil {
		_ = answer.Body.Close() // whatever was wrong with it is in err
	}
	if why := x.stream.end(); why != nil {
		x.end(o, why.failure())
		return
	}
	x.end(o, explain(x.out.Context(), err, broken))
	if err == nil && broken == nil {
		x.plain(answer)
	}
}

// breakOff closes the answer's body when the context ends: net/http's transport
// for HTTP/2 does not look at it while it waits for an upstream to take more of
// the request, and nobody else would wake it.
func (x *exchange) breakOff(answer *http.Response) (until life.Watch) {
	if x.sent == nil {
		return life.Watch{}
	}
	return life.Tell(x.out.Context(), &abandoned{answer.Body})
}

// abandoned is an answer's body, of no use when its request is gone.
type abandoned struct{ io.Closer }

// Gone implements life.Watcher.
func (a *abandoned) Gone() { _ = a.Close() }

// finish has nothing of the request be read any more, and returns what was wrong
// with it.
func (x *exchange) finish(o *record.Outcome) error {
	if x.handshake == nil {
		count, err := x.sent.finish()
		o.Received = count
		return err
	}
	if err := x.http1.Broken(); err != nil {
		return err // and no *request.Error in an error that is nil
	}
	return nil
}

// addedFields is how many the gateway usually adds to a request.
const addedFields = 7

// header returns a copy of the canonical header: that is what an open stream is decided
// on again by.
func (x *exchange) header() http.Header {
	from, h := x.verdict.request.Header, x.room.header
	if h == nil {
		h = make(http.Header, len(from)+addedFields)
		x.room.header = h
	}
	maps.Copy(h, from)
	return h
}

// complete makes out what the upstream gets: what was decided on, and what only
// a gateway may add.
func (x *exchange) complete(expects bool) {
	c := &x.verdict.request
	h, one := x.header(), x.room.one
	withoutSession(h)
	x.verdict.way.route.Rewrites.Request.Apply(h)
	h[headerDecision] = one(x.id)
	x.verdict.tell(h)
	if len(x.verdict.way.accept.Providers) > 0 {
		delete(h, "Dpop") // it was for us, and is good at another proxy still
	}
	if x.address.IP.IsValid() {
		h["X-Forwarded-For"] = one(x.from.written(x.address.IP))
	}
	h["X-Forwarded-Host"], h["X-Forwarded-Proto"] = one(c.Host), one("https")
	if !x.verdict.way.route.Rewrites.Request.Removes("Traceparent") {
		x.trace.Tell(h, one)
	}
	if h["X-Request-Id"] == nil {
		h["X-Request-Id"] = one(x.id)
	}
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = nil // else net/http adds its own
	}
	out := x.out
	out.Method, out.Host, out.Header, out.ContentLength = c.Method, x.verdict.host, h, x.r.ContentLength
	// Opaque is sent as it is, where Path would be escaped anew.
	x.url = url.URL{Opaque: x.verdict.target}
	out.URL, out.RequestURI = &x.url, ""
	out.Close, out.TransferEncoding, out.Body, out.Trailer = false, nil, nil, nil
	if c.WebSocket {
		x.handshake = newHandshake(h)
	}
	if x.sent == nil {
		return
	}
	out.Body, out.Trailer = x.sent, x.sent.trailer
	if expects {
		h["Expect"] = []string{"100-continue"}
	}
}

// send returns the head of the answer.
func (x *exchange) send(call *upstream.Call) (*http.Response, error) {
	u := x.verdict.upstream
	if u == nil {
		return nil, failure{reason: ReasonNoUpstream, status: http.StatusBadGateway}
	}
	if x.r.Context().Err() != nil { // which x.life may not have been told yet
		x.Gone()
		return nil, errClientGone
	}
	x.hints.w = x.w
	send := u.Send
	if x.handshake != nil {
		send = u.Switch
	}
	call.Hint, call.Key, call.Room = x.hint(), x.affinity(u), &x.room.answer
	answer, err := send(x.out, call)
	x.hints.end()
	if err == nil && answer.StatusCode == http.StatusSwitchingProtocols && x.handshake == nil {
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
	closed *Cause // of a stream that was closed; nil else
}

func (f failure) Error() string { return f.reason }

// explain says what went wrong with an exchange that ended with err, and whose
// request's body could not be read because of broken.
func explain(ctx context.Context, err, broken error) error {
	if err == nil {
		return nil
	}
	var malformed *request.Error
	var known failure
	var unsent *upstream.Error
	switch {
	case errors.As(broken, &malformed):
		return failure{reason: malformed.Reason, status: malformed.Status, detail: malformed.Detail}
	case broken != nil, errors.Is(context.Cause(ctx), errClientGone):
		return failure{reason: ReasonClientGone}
	case errors.Is(context.Cause(ctx), errTimeout):
		return failure{reason: ReasonTimeout, status: http.StatusGatewayTimeout}
	case errors.As(err, &known):
		return known
	case errors.As(err, &unsent):
		return failure{reason: string(unsent.Reason), status: statusOf(unsent.Reason)}
	}
	return failure{reason: string(upstream.Failed), status: http.StatusBadGateway}
}

func statusOf(r upstream.Reason) int {
	switch r {
	case upstream.IdentityExpired, upstream.IdentityMissing, upstream.Overloaded:
		return http.StatusServiceUnavailable
	case upstream.Late:
		return http.StatusGatewayTimeout
	}
	return http.StatusBadGateway
}

// end records the outcome, and answers if nothing was answered yet. An answer
// that has begun cannot be taken back: it is cut off, so that nobody takes it
// for whole.
func (x *exchange) end(o *record.Outcome, err error) {
	o.Time = x.gateway.now()
	o.Took = o.Time.Sub(x.began)
	f, failed := errors.AsType[failure](err)
	if !failed {
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
	if f.closed != nil {
		o.ClosedBy = f.closed.decision
	}
	x.gateway.record.Finish(o)
	x.gateway.metrics.failures.WithLabelValues(x.verdict.way.name, f.reason).Inc()
	if c := f.closed; c != nil && c.decision != "" {
		// What is answered from here on, that decision has answered.
		x.id, x.state = c.decision, c.by
	}
	switch {
	case x.switches: // and the connection is closed
	case begun && x.stream.Protocol == GRPC && f.status != 0:
		x.breakOffGRPC(f)
	case begun || f.status == 0:
		panic(http.ErrAbortHandler) // the way to have the server end the stream
	default:
		x.verdict.deny(f)
		clear(x.w.Header())
		x.refuse()
	}
}

// hints passes on what upstreams say before they answer (RFC 8297), while they
// have not.
type hints struct {
	w http.ResponseWriter

	mu    sync.Mutex
	ended bool
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
