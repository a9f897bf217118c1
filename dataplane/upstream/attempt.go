package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/dataplane/upstream/balance"
	"github.com/sallyport/sallyport/dataplane/upstream/http1"
)

// ErrLate is the cause of the end of a request's context that says that the time for
// an answer is over: a failure of the endpoint, if it has the request.
var ErrLate = errors.New("no answer in time")

// Ending is what the body of a request may be besides an io.ReadCloser. Of one that is
// not, it is never known whether an endpoint has it.
type Ending interface {
	// Ended reports whether all of the body was read.
	Ended() bool
}

// Faults are what may become of a request, as a set.
type Faults uint8

// What requests may be sent again after.
const (
	OnConnect      Faults = 1 << iota // there was no connection to be had
	OnReset                           // it ended before an answer began
	OnGatewayError                    // the answer is 502, 503 or 504
	OnTimeout                         // none has begun in the time for a try
)

func (f Faults) String() string {
	switch f {
	case OnConnect:
		return "connect_failure"
	case OnReset:
		return "reset"
	case OnGatewayError:
		return "gateway_error"
	case OnTimeout:
		return "timeout"
	}
	return "other"
}

// attempt is a request sent to one endpoint, and what became of it.
type attempt struct {
	request  *http.Request
	endpoint *balance.Endpoint
	response *http.Response
	err      error
}

// try sends r to an endpoint.
func (u *Upstream) try(r *http.Request, c *Call, e *balance.Endpoint, over way) attempt {
	c.to(e)
	a := attempt{request: r, endpoint: e}
	r.URL.Scheme, r.URL.Host = u.scheme, e.Address()
	c.tell(r)
	limit := u.spec.Retries.PerTry
	if limit == 0 {
		a.response, a.err = over(u.connections.current(), r, placeOf(e), c) //nolint:bodyclose // whoever gets it closes it
		return a
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	c.cancel = cancel
	timer := time.AfterFunc(limit, func() { cancel(errTry) })
	a.response, a.err = over(u.connections.current(), r.WithContext(ctx), placeOf(e), c) //nolint:bodyclose // whoever gets it closes it
	if !timer.Stop() {
		a.late()
	}
	return a
}

// late makes an attempt one whose time is over.
func (a *attempt) late() {
	if a.response != nil {
		_ = a.response.Body.Close() // it was cut off
		a.response = nil
	}
	if !isConnect(a.err) && !errors.Is(a.err, errOverloaded) { // else nothing was sent
		a.err = errTry
	}
}

// fault says what has become of it that is the endpoint's fault, or zero for nothing,
// and tells the balancer.
func (u *Upstream) fault(a *attempt) Faults {
	f, failed := a.fault()
	var ejected bool
	switch {
	case f == OnConnect:
		ejected = u.balancer.Unconnected(a.endpoint)
	case failed:
		ejected = u.balancer.Failed(a.endpoint)
	case a.err == nil:
		u.balancer.Succeeded(a.endpoint)
	}
	if ejected {
		u.pool.metrics.ejections.WithLabelValues(u.name).Inc()
		u.pool.log.Warn("endpoint was ejected", "upstream", u.name, "address", a.endpoint.Address())
	}
	return f
}

// fault returns what requests may be sent again after, and whether it counts as one that
// failed.
func (a *attempt) fault() (f Faults, failed bool) {
	if a.err == nil {
		if isGatewayError(a.response.StatusCode) {
			return OnGatewayError, true
		}
		return 0, false
	}
	if errors.Is(a.err, errOverloaded) {
		return 0, false
	}
	if ctx := a.request.Context(); ctx.Err() != nil {
		return 0, errors.Is(context.Cause(ctx), ErrLate) && a.whole()
	}
	if no, ok := errors.AsType[*connectError](a.err); ok {
		if no.ours {
			return 0, false
		}
		return OnConnect, true
	}
	if errors.Is(a.err, errTry) {
		return OnTimeout, a.whole()
	}
	if _, ok := errors.AsType[*http1.Unanswered](a.err); ok {
		return OnReset, true
	}
	if _, ok := errors.AsType[http1.Malformed](a.err); ok {
		return 0, true
	}
	// What else goes wrong with a body may be the fault of who sends it.
	return 0, !hasBody(a.request) && errors.Is(a.err, io.ErrUnexpectedEOF)
}

// whole reports whether the endpoint has all of the request: who sends the rest slowly
// must not have it ejected for that.
func (a *attempt) whole() bool {
	if !hasBody(a.request) {
		return true
	}
	b, ok := a.request.Body.(Ending)
	return ok && b.Ended()
}

func isGatewayError(status int) bool {
	return status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout
}

func hasBody(r *http.Request) bool { return r.Body != nil && r.Body != http.NoBody }

// repeats reports whether a request is sent again after a fault.
func (u *Upstream) repeats(c *Call, a *attempt, f Faults) bool {
	if f == 0 || u.spec.Retries.On&f == 0 || a.request.Context().Err() != nil {
		return false
	}
	switch f {
	case OnConnect:
		// The endpoint has not seen it, and the next one sees it for the first time.
		return c.choice.More()
	case OnReset:
		return http1.Repeatable(a.request, a.err) && u.affords(c)
	case OnTimeout:
		return isSafe(a.request) && u.affords(c)
	default:
		return isSafe(a.request) && c.choice.Better() && u.affords(c)
	}
}

// affords reports whether a request may be sent once more, and counts it if so.
func (u *Upstream) affords(c *Call) bool {
	if c.repeated >= u.spec.Retries.Attempts {
		return false
	}
	if !u.budget.Take() {
		u.pool.metrics.withheld.WithLabelValues(u.name).Inc()
		return false
	}
	c.repeated++
	return true
}

// isSafe reports whether a request changes nothing, and can be sent twice.
func isSafe(r *http.Request) bool {
	return http1.Repeatable(r, &http1.Unanswered{Sent: true})
}

// discard gives up an answer in place of which another one is asked for. What is there
// of it is read, so that its connection may be of use if that is all.
func (a *attempt) discard() {
	if a.response == nil {
		return
	}
	var room [512]byte
	body := a.response.Body
	for r, ok := body.(interface{ Ready() bool }); ok && r.Ready(); {
		if _, err := body.Read(room[:]); err != nil {
			break
		}
	}
	_ = body.Close() // nobody wants the rest
}
