package gateway

import (
	"net/netip"

	"github.com/sallyport/sallyport/dataplane/access"
	"github.com/sallyport/sallyport/internal/clientip"
)

// speaks is who has sent what comes over the connection, as far as it tells: the client,
// or a proxy in front that may pass on what clients say.
func (c *client) speaks() netip.Addr {
	if c.address.Source == clientip.ProxyProtocol {
		return c.address.IP
	}
	return c.remote
}

// depart tells those who look on what has become of a request, once it has ended.
func (x *exchange) depart() {
	if x.decided == nil {
		return
	}
	g := x.gateway
	now := g.now()
	x.trace.End(x.decided, &x.outcome, now)
	e := &access.Entry{
		Decision: x.decided, Outcome: &x.outcome, Took: now.Sub(x.began), Said: int64(x.said), Request: x.r.Header, Response: x.w.Header(),
	}
	if !x.answers.IsZero() {
		e.Answered = x.answers.Sub(x.began)
	}
	g.access.Write(e)
}
