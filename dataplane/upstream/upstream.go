package upstream

import (
	"context"
	"errors"
	"net/http"
	"net/textproto"
	"sync/atomic"

	"github.com/sallyport/sallyport/dataplane/upstream/balance"
	"github.com/sallyport/sallyport/dataplane/upstream/http1"
	"github.com/sallyport/sallyport/dataplane/upstream/retry"
)

// Upstream sends requests to the endpoints of one Spec. It is safe for
// concurrent use.
type Upstream struct {
	spec   Spec
	name   string
	pool   *Pool
	scheme string

	balancer    *balance.Balancer
	budget      *retry.Budget
	requests    *atomic.Int64 // that have not ended, of all Specs with this name
	connections *connections
}

// Name returns the upstream's name.
func (u *Upstream) Name() Name { return u.spec.Key() }

// Hint is told, while Send waits for an answer, of what comes before it: a status
// below 200 and its fields. Its error ends the request. None is told when it is nil.
type Hint = func(status int, fields textproto.MIMEHeader) error

// Call is the way of one request through an upstream. It is for one Send or Switch, and
// End has to be called when its answer, or what became of it, has ended.
type Call struct {
	Hint  Hint        // nil for none
	Key   balance.Key // of the upstream's Hash; zero for none
	Watch Watcher     // nil for nobody
	// Room is what answers over HTTP/1.1 may be part of: they are gone when the next
	// Call has it. Each has its own when it is nil.
	Room *http1.Room

	// Endpoint is the one that was tried last, empty for none, and Attempts how many
	// times the request was sent, or was to be.
	Endpoint string
	Attempts int

	choice   balance.Choice
	current  *balance.Endpoint
	cancel   context.CancelCauseFunc // of what goes on at current; nil for nothing
	counted  *Upstream               // among whose requests it is; nil for none
	repeated int                     // without those that could not be connected to
}

// End says that nothing of the request is left. It may be called for a Call that was
// not used, and again.
func (c *Call) End() {
	c.leave()
	if c.counted != nil {
		c.counted.requests.Add(-1)
		c.counted = nil
	}
}

// leave ends what goes on at the current endpoint.
func (c *Call) leave() {
	if c.current != nil {
		c.current.End()
		c.current = nil
	}
	if c.cancel != nil {
		c.cancel(nil)
		c.cancel = nil
	}
}

// room is where an exchange over HTTP/1.1 takes place.
func (c *Call) room() *http1.Room {
	if c.Room == nil {
		return &http1.Room{}
	}
	return c.Room
}

// to has a request be with an endpoint.
func (c *Call) to(e *balance.Endpoint) {
	c.leave()
	e.Begin()
	c.current, c.Endpoint = e, e.Address()
	c.Attempts++
}

// Hash returns what the Key of a Call is to be made of, nil for nothing.
func (u *Upstream) Hash() *HashKey {
	if u.spec.Balancing.Method != balance.Hash {
		return nil
	}
	return &u.spec.Balancing.Hash
}

// Send sends r to one of the endpoints and returns its answer, and an *Error when there
// is no answer. It sets Scheme and Host of r.URL; all else, above all Opaque and Host, is
// sent as it is. An endpoint that cannot be connected to has not seen the request, so the
// next one is tried, each once; and what has not been seen, or changes nothing, may be
// sent again as the upstream's Retries say. Until a request is answered, or lost, r.Body
// is closed but not read.
//
// The caller closes the answer's body, as with http.RoundTripper.
func (u *Upstream) Send(r *http.Request, c *Call) (*http.Response, error) {
	return u.send(r, c, (*transport).RoundTrip)
}

// Switch is Send for a request that asks for another protocol, which only
// HTTP/1.1 can be changed to. The body of an answer with status 101 is an
// io.ReadWriteCloser with a CloseWrite, and belongs to the caller alone: the end
// of r's context does not end it. Writes fail when the endpoint takes nothing
// for a minute.
func (u *Upstream) Switch(r *http.Request, c *Call) (*http.Response, error) {
	return u.send(r, c, (*transport).Switch)
}

func (u *Upstream) send(r *http.Request, c *Call, over way) (*http.Response, error) {
	if err := u.connections.identified(); err != nil {
		return nil, explain(err)
	}
	if err := u.enter(c); err != nil {
		return nil, explain(err)
	}
	u.budget.Count()
	c.choice = u.balancer.Choose(c.Key)
	e := c.choice.Next()
	if e == nil {
		return nil, explain(errNoEndpoint)
	}
	for {
		a := u.try(r, c, e, over)
		c.told(&a)
		f := u.fault(&a)
		if !u.repeats(c, &a, f) {
			if a.err != nil {
				return nil, explain(a.err)
			}
			return a.response, nil
		}
		a.discard()
		u.pool.metrics.retries.WithLabelValues(u.name, f.String()).Inc()
		if next := c.choice.Next(); next != nil { // else once more the same
			e = next
		}
		r = again(r)
	}
}

// enter counts a request, unless there are too many.
func (u *Upstream) enter(c *Call) error {
	if most := int64(u.spec.Circuit.Requests); u.requests.Add(1) > most && most > 0 {
		u.requests.Add(-1)
		u.pool.metrics.overflow.WithLabelValues(u.name, "requests").Inc()
		return errOverloaded
	}
	c.counted = u
	return nil
}

// way is how a transport sends a request.
type way func(*transport, *http.Request, place, *Call) (*http.Response, error)

var (
	errNoEndpoint = errors.New("upstream has no endpoints")
	errOverloaded = errors.New("upstream has too much to do")
	errTry        = errors.New("no answer in the time for a try")
)

// again is r for another attempt: a transport may look at what it was given for
// longer than it takes to fail.
func again(r *http.Request) *http.Request {
	next, target := *r, *r.URL
	next.URL = &target
	return &next
}
