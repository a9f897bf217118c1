package upstream

import (
	"maps"
	"net/http"
)

// Watcher is told of each attempt to send a request, by the goroutine that sends it.
type Watcher interface {
	// Begin is told where one goes to, by r.URL. It may change the header of r, which no
	// attempt before sees.
	Begin(r *http.Request)
	// End is told how the last one ended: by the status of an answer, or else a Reason.
	End(status int, reason string)
}

// tell tells that r is about to be sent.
func (c *Call) tell(r *http.Request) {
	if c.Watch == nil {
		return
	}
	r.Header = maps.Clone(r.Header) // an attempt before may still be looked at
	c.Watch.Begin(r)
}

// told tells what has become of an attempt.
func (c *Call) told(a *attempt) {
	switch {
	case c.Watch == nil:
	case a.err != nil:
		c.Watch.End(0, string(explain(a.err).Reason))
	default:
		c.Watch.End(a.response.StatusCode, "")
	}
}
