// Package trace has requests take part in distributed traces: it reads and writes the
// context of W3C, and brings spans to a collector.
package trace

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	resourcev1 "go.opentelemetry.io/proto/otlp/resource/v1"

	"github.com/sallyport/sallyport/dataplane/collector"
)

// Config is what a Tracer needs. Address, Instance and Log are required.
type Config struct {
	// Address is where spans are taken, such as
	// https://collector.example:4318/v1/traces.
	Address collector.Address
	// Ratio is of how many requests there are spans, from 0 for none to 1 for all.
	Ratio float64
	// Trusted are networks of clients that decide for themselves whether there are
	// spans of their requests, by the sampled flag. Of others the Ratio decides.
	Trusted []netip.Prefix
	// Instance and Version are those of this process.
	Instance, Version string
	Log               *slog.Logger

	// Registerer takes the metrics; they are not shown when it is nil.
	Registerer prometheus.Registerer
	// Queue bounds, in bytes, what waits for the collector; 16 MiB when zero.
	Queue int
	Now   func() time.Time // time.Now when nil
}

// Tracer decides of which requests there are spans, and sends them. It is safe for
// concurrent use. Of a nil Tracer there are none, and what requests say of traces is
// passed on as it came.
type Tracer struct {
	threshold uint64 // of 63 random bits, those below it are sampled
	trusted   []netip.Prefix
	queue     *collector.Queue
	metrics   *metrics
	resource  *resourcev1.Resource
	now       func() time.Time
}

// New returns a Tracer that has started nothing. It reads Address.CAFile.
func New(c Config) (*Tracer, error) {
	if c.Instance == "" || c.Ratio < 0 || c.Ratio > 1 {
		return nil, errors.New("traces need an instance, and a ratio from 0 to 1")
	}
	t := &Tracer{threshold: uint64(c.Ratio * (1 << 63)), trusted: c.Trusted, resource: collector.Resource(c.Instance, c.Version), now: c.Now}
	if t.now == nil {
		t.now = time.Now
	}
	var err error
	t.metrics, err = newMetrics(c.Registerer, func() (items, bytes int) { return t.queue.Waiting() })
	if err != nil {
		return nil, fmt.Errorf("register metrics of traces: %w", err)
	}
	t.queue, err = collector.New(collector.Config{
		Address: c.Address, Signal: "traces", Encode: t.encode, Sent: t.metrics.sent, Dropped: t.metrics.dropped, Log: c.Log, Queue: c.Queue,
	})
	return t, err
}

// Run sends spans until ctx ends, and then what is left, for a moment. It returns nil.
// Requests end before. Losing the collector ends nothing.
func (t *Tracer) Run(ctx context.Context) error { return t.queue.Run(ctx) }

// Request is a request in its trace. The zero Request is in none. It is for one
// goroutine.
type Request struct {
	// Trace is the one that it is in; zero for none.
	Trace ID

	tracer *Tracer // nil when its context is passed on as it came
	parent SpanID  // of who sent it; zero when the trace begins here
	span   SpanID  // of what is sent on, unless there are spans of attempts
	flags  byte
	state  bool // its tracestate is fit to be passed on

	attempts *Attempts // nil unless it is sampled
}

// Begin has a request with this header, as it came from a client, take part in a
// trace: the one that it names, or else a new one. It keeps nothing of header.
func (t *Tracer) Begin(header http.Header, client netip.Addr) Request {
	p, joins := readParent(header)
	if t == nil {
		return Request{Trace: p.trace}
	}
	r := Request{tracer: t, Trace: p.trace, parent: p.span, flags: p.flags & flagRandom, span: newSpanID()}
	if joins {
		r.state = isState(header[headerState])
	} else {
		r.Trace = newID()
	}
	// A stranger may choose the ID of a trace: chance must not come from it.
	sampled := rand.Uint64()>>1 < t.threshold //nolint:gosec // it protects nothing
	if joins && t.trusts(client) {
		sampled = p.flags&flagSampled != 0
	}
	if sampled {
		r.flags |= flagSampled
		r.attempts = &Attempts{trace: r.Trace, flags: r.flags, now: t.now}
		if r.state {
			r.attempts.state = strings.Join(header[headerState], ",")
		}
	}
	return r
}

func (t *Tracer) trusts(client netip.Addr) bool {
	return len(t.trusted) > 0 && slices.ContainsFunc(t.trusted, func(p netip.Prefix) bool { return p.Contains(client) })
}

// Tell writes into the header of what is sent on where in the trace that is. list makes
// a list of one value.
func (r *Request) Tell(header http.Header, list func(value string) []string) {
	if r.tracer == nil {
		return
	}
	header[headerParent] = list(write(r.Trace, r.span, r.flags))
	if !r.state {
		delete(header, headerState)
	}
}

// Attempts are those to send the request on, nil unless there will be spans of them.
func (r *Request) Attempts() *Attempts { return r.attempts }

// newID is all random, to its last bit: others sample by that.
func newID() (id ID) {
	for id == (ID{}) {
		binary.NativeEndian.PutUint64(id[:8], rand.Uint64()) //nolint:gosec // it tells traces apart, and protects nothing
		binary.NativeEndian.PutUint64(id[8:], rand.Uint64()) //nolint:gosec // see above
	}
	return id
}

func newSpanID() (id SpanID) {
	for id == (SpanID{}) {
		binary.NativeEndian.PutUint64(id[:], rand.Uint64()) //nolint:gosec // see above
	}
	return id
}
