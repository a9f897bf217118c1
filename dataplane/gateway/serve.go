package gateway

import (
	"net/http"
	"net/url"
	"runtime/debug"
	"time"

	"github.com/sallyport/sallyport/dataplane/gateway/wire"
	"github.com/sallyport/sallyport/dataplane/life"
	"github.com/sallyport/sallyport/dataplane/record"
	"github.com/sallyport/sallyport/dataplane/trace"
	"github.com/sallyport/sallyport/dataplane/upstream"
	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/clientip"
	"github.com/sallyport/sallyport/internal/request"
	"github.com/sallyport/sallyport/internal/schema"
)

// The fields that tell an answer's decision, to clients and upstreams.
const (
	headerDecision = "Sallyport-Decision-Id"
	headerRevision = "Sallyport-Revision"
)

// exchange is one request on its way through, in a room that is another one's when it
// has ended.
type exchange struct {
	passage
	room room
}

// passage is what there is of an exchange. The zero passage has not begun.
type passage struct {
	gateway *Gateway
	grounds // those that it is decided by, from beginning to end
	from    *client
	address clientip.Address
	verdict verdict
	id      string
	began   time.Time
	closes  string // the decision that it takes back; empty for a request's first
	told    bool   // the control plane has a record of the decision

	w       http.ResponseWriter
	http1   *wire.Response // w, over HTTP/1.1; else nil
	r       *http.Request
	refused *request.Error // why r was not read; nil if it was
	asks    question

	trace   trace.Request
	draft   record.Decision  // for those who keep nothing of it
	decided *record.Decision // draft, as it was recorded; nil unless somebody looks on
	answers time.Time        // when the head of the upstream's answer came, or will not any more; zero before
	said    int              // bytes of a body that is the gateway's own

	allowed allowances // what the limits of the route have left
	holds   holds      // where it is counted until it ends

	// What is let through has these as well.
	held     int64           // bytes of its body that are in memory
	compared time.Time       // when it was decided on, before its body was compared with a schema
	differs  schema.Findings // from the schema of its route

	stream  Stream
	sent    *body         // nil for none
	out     *http.Request // as it is sent on, with url and life
	url     url.URL
	life    life.Life
	watched life.Watch // for the client to leave
	alarm   *alarm     // of the route's timeout; nil for none

	hints     hints
	call      upstream.Call
	outcome   record.Outcome
	idle      *idle      // nil for none
	handshake *handshake // of a WebSocket
	switches  bool       // w is of no use any more

	alone bool // it has ended, and nobody else can know of it
}

// ServeHTTP implements http.Handler, for servers whose connections a listener
// has made.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Context().Err() != nil {
		return // it was reset before it was looked at, and is as good as never sent
	}
	from := clientOf(r.Context())
	if !from.crowd.enter(r.Context()) {
		return // nobody waits for it any more
	}
	answered := false
	defer func() { from.crowd.leave(answered) }()
	x := g.exchanges.get()
	x.from, x.w, x.r = from, w, r
	g.serve(x)
	sent := max(x.outcome.Sent, int64(x.said))
	if x.alone {
		g.exchanges.put(x)
	}
	answered = from.finish(w, sent) && r.Context().Err() == nil
}

// serve answers a request, of which x has who sent it, what it is, and where the answer
// goes.
func (g *Gateway) serve(x *exchange) {
	x.gateway, x.grounds, x.began = g, grounds{g.state.Load(), g.revocations.Load()}, g.now()
	x.id = newID(x.began)
	x.address = x.from.locate(x.r.Header)
	x.trace = g.trace.Begin(x.r.Header, x.from.speaks())
	defer x.onPanic()
	defer x.depart()
	defer x.holds.release()
	expects := x.refused == nil && x.r.Header["Expect"] != nil // package request removes it
	x.decide()
	if x.verdict.allow && x.verdict.own == nil {
		defer x.leave()
		x.enter()
		x.validate()
	}
	x.write()
	switch {
	case !x.verdict.allow:
		x.refuse()
	case x.verdict.own != nil:
		x.answer()
	default:
		x.forward(expects && x.held == 0)
	}
}

// onPanic denies what we have no answer to, and says so where we will see it.
func (x *exchange) onPanic() {
	p := recover() //nolint:revive // it is called by defer, and has to be
	if p == nil {
		return
	}
	if p != http.ErrAbortHandler { //nolint:errorlint // it is this value
		x.gateway.log.Error("request panicked", "decision_id", x.id, "panic", p, "stack", string(debug.Stack()))
	}
	panic(http.ErrAbortHandler) // the way to have the server end the stream
}

// decide asks what the server has read.
func (x *exchange) decide() {
	q := &x.asks
	q.from, q.address, q.now, q.exchange, q.refused = x.from, x.address, x.began, x, x.refused
	if x.refused == nil {
		q.read(x.r)
	}
	x.gateway.decide(x.r.Context(), x.grounds, q, &x.verdict)
}

// read has q be what r asks.
func (q *question) read(r *http.Request) {
	q.device = r.Header[authn.HeaderDevice]
	q.raw = request.Raw{
		Method: r.Method, Target: r.RequestURI, Host: r.Host, Header: r.Header,
		ProtoMajor: r.ProtoMajor, ProtoMinor: r.ProtoMinor,
	}
}

// write records the verdict and counts it. What cannot be recorded is denied.
func (x *exchange) write() {
	v := &x.verdict
	decided := x.gateway.now()
	if !x.compared.IsZero() {
		decided = x.compared
	}
	d := &x.draft
	*d = record.Decision{
		Time: x.began, ID: x.id, Allow: v.allow, Reason: v.reason, Status: v.status, Detail: v.detail,
		Listener: x.from.listener, TLSVersion: x.from.tlsVersion,
		ClientIP: x.address.IP, ClientIPSource: string(x.address.Source), ClientIPUnknown: x.address.Unknown, PeerIP: x.from.remote,
		ServerName: x.from.serverName, Protocol: x.r.Proto,
		Method: v.request.Method, Host: v.request.Host, Path: v.request.Path,
		Policy: v.policy, Principal: v.principal, Shadow: v.shadow, Place: v.place, Device: v.device,
		Denials: v.denials, Ages: v.ages, Trace: x.trace.Trace, Took: decided.Sub(x.began),
		ALPN: x.from.alpn, RawQuery: v.request.RawQuery, Header: v.request.Header, Values: v.values(), Rule: x.state.routeless, Closes: x.closes,
	}
	if v.why != nil {
		d.Explanation = *v.why
	}
	if v.way != nil {
		d.Route, d.Rule = v.way.name, v.way.rule
	}
	if !v.known.IsZero() {
		d.Authenticated = v.known.Sub(x.began)
	}
	if x.state.table != nil {
		head := x.state.table.Head()
		d.Environment, d.Epoch, d.Revision = head.Environment, int64(head.Epoch), int64(head.Revision)
	}
	if d.Path == "" {
		d.Path = askedPath(x.r.RequestURI)
	}
	if err := x.gateway.record.Decide(x.r.Context(), d); err != nil {
		v.deny(failure{reason: ReasonUnrecorded, status: http.StatusServiceUnavailable})
		d.Allow, d.Reason, d.Status, d.Detail = false, v.reason, v.status, v.detail
		_ = x.gateway.record.Decide(x.r.Context(), d) // a denial never fails
	}
	x.told = d.Told
	if x.gateway.access != nil || x.trace.Attempts() != nil {
		x.decided = d
	}
	if x.closes != "" {
		x.gateway.metrics.closed.WithLabelValues(v.reason).Inc()
		return
	}
	x.blame()
	x.gateway.metrics.decided(v)
	x.gateway.metrics.deciding.observe(d.Took, decided, x)
}

// tag names the decision in an answer, and hands out a nonce.
func (x *exchange) tag(h http.Header) {
	if w := x.verdict.way; w != nil {
		w.route.CORS.Answer(h, &x.verdict.request)
	}
	h[headerDecision] = x.room.one(x.id)
	if x.state.revision != nil {
		h[headerRevision] = x.state.revision
	}
	x.allowed.tell(h, x.room.one)
	if x.verdict.nonce != "" {
		h["Dpop-Nonce"] = []string{x.verdict.nonce}
		h["Cache-Control"] = []string{"no-store"} // it would grow old in a cache (RFC 9449 §8.2)
	}
}
