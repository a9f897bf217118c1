package trace

import (
	"net/http"
	"strings"
	"time"
)

// maxAttempts bounds the spans of one request; attempts beyond have none.
const maxAttempts = 16

// Attempts are those to send a request of which there will be spans. It is an
// upstream.Watcher.
type Attempts struct {
	trace ID
	state string // as it came
	flags byte
	now   func() time.Time
	all   []attempt
}

type attempt struct {
	span           SpanID
	began, ended   time.Time // ended is zero when it has been answered: the request's end is its own
	method, scheme string
	host, path     string
	status         int
	reason         string // why there was no answer
}

// Begin is told of an attempt, and has it named to the endpoint as a span of its own.
func (a *Attempts) Begin(r *http.Request) {
	if len(a.all) == maxAttempts {
		return
	}
	if n := len(a.all); n > 0 && a.all[n-1].ended.IsZero() {
		a.all[n-1].ended = a.now() // its answer was not good enough
	}
	path, _, _ := strings.Cut(r.URL.Opaque, "?")
	next := attempt{span: newSpanID(), began: a.now(), method: r.Method, scheme: r.URL.Scheme, host: r.URL.Host, path: path}
	a.all = append(a.all, next)
	if r.Header[headerParent] != nil {
		r.Header[headerParent] = []string{write(a.trace, next.span, a.flags)}
	}
}

// End is told of the attempt that began last: the status of its answer, or the reason
// why there is none.
func (a *Attempts) End(status int, reason string) {
	if len(a.all) == 0 || !a.all[len(a.all)-1].ended.IsZero() {
		return
	}
	last := &a.all[len(a.all)-1]
	last.status, last.reason = status, reason
	if reason != "" {
		last.ended = a.now()
	}
}
