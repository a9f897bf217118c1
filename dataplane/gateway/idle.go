package gateway

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// ReasonIdle closes a stream in which nothing has moved for the route's time.
const ReasonIdle = "stream_idle"

// idle closes a stream when it has not been touched for so long. It looks at the clock
// and not at the gateway's: it measures, and compares with nothing. nil closes
// nothing.
type idle struct {
	limit time.Duration
	last  atomic.Int64 // nanoseconds since began
	began time.Time
	close func()

	mu      sync.Mutex // guards:
	timer   *time.Timer
	stopped bool
}

// watch closes the stream of x when it is idle for as long as its route says, until
// stop is called.
func (x *exchange) watch() (stop func()) {
	limit := x.verdict.way.route.IdleTimeout
	if limit == 0 {
		return func() {}
	}
	x.idle = newIdle(limit, func() {
		x.stream.close(&Cause{Reason: ReasonIdle, Status: http.StatusGatewayTimeout})
	})
	if x.sent != nil {
		x.sent.idle.Store(x.idle)
	}
	return x.idle.stop
}

func newIdle(limit time.Duration, over func()) *idle {
	i := &idle{limit: limit, began: time.Now(), close: over}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.timer = time.AfterFunc(limit, i.look)
	return i
}

func (i *idle) stop() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.stopped = true
	i.timer.Stop()
}

// touch says that something moves. It may be called by several goroutines.
func (i *idle) touch() {
	if i != nil {
		i.last.Store(int64(time.Since(i.began)))
	}
}

// look closes, or comes back when it would have to. A timer that is moved for each
// read would cost more than the read.
func (i *idle) look() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.stopped {
		return
	}
	if left := i.limit - (time.Since(i.began) - time.Duration(i.last.Load())); left > 0 {
		i.timer.Reset(left)
		return
	}
	go i.close() // which takes locks of its own
}
