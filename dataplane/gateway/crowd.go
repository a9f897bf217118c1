package gateway

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// firstAtOnce is how many requests of a new connection over HTTP/2 begin at once.
	// Each answer that is complete lets it have one more, up to maxStreams.
	firstAtOnce = 8
	// beginEvery is the time between requests of crowds, on one processor.
	beginEvery = 2 * time.Millisecond
	// untakenEvery is the time between those of one household for each answer that it has
	// not taken, and untakenMost the longest that comes of it.
	untakenEvery = 500 * time.Microsecond
	untakenMost  = 50 * time.Millisecond
	// manyUntaken have a household begin no more than one at once over a connection.
	manyUntaken = 1024
)

// pace spreads what crowds of all connections begin. It is safe for concurrent use.
type pace struct {
	every time.Duration

	mu   sync.Mutex
	next time.Time // when the next may begin
}

func newPace() pace { return pace{every: beginEvery / time.Duration(runtime.GOMAXPROCS(0))} }

// take returns how long to wait, zero when nobody has begun of late.
func (p *pace) take(now time.Time) time.Duration { return p.spread(now, p.every) }

func (p *pace) spread(now time.Time, every time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := p.next
	if at.Before(now) {
		at = now
	}
	p.next = at.Add(every)
	return at.Sub(now)
}

// household is all who come from one address. It is safe for concurrent use, but for what
// the door counts.
type household struct {
	connections int // belongs to the door
	// untaken counts parts of answers over HTTP/2 that wait for a client to take them.
	untaken atomic.Int64
	pace    pace // spreads what crowds begin that do not take their answers
}

// wait returns how long to wait for those of before. Answers that are not taken cost memory,
// however few of them there are over each connection.
func (h *household) wait(now time.Time) time.Duration {
	n := h.untaken.Load()
	if n <= firstAtOnce {
		return 0
	}
	return h.pace.spread(now, min(time.Duration(n)*untakenEvery, untakenMost))
}

// crowd is the requests of one connection over HTTP/2. Those that are many before any was
// answered begin one after another: a thousand that begin at once, over a few connections
// of somebody who reads none of the answers, would keep the requests of others waiting for
// as long as all of that takes. And none of them begins while the client has not taken what
// it was sent before: an answer could not be sent either. They are not refused. Who reads
// their answers notices nothing of it.
//
// nil has no bounds. It is safe for concurrent use.
type crowd struct {
	pace *pace
	home *household
	full func() bool // whether the client has yet to take what it was sent

	mu     sync.Mutex
	atOnce int // as many begin without waiting
	begun  int
	line   []chan struct{} // closed when it is their turn; the one that came first first
	timed  bool            // the first of the line has a time
	late   bool            // it has come, and nobody has begun for it

	// held says that somebody could have begun, and did not because of full. taken goes on
	// with it.
	held atomic.Bool
}

func newCrowd(p *pace, h *household, full func() bool) *crowd {
	return &crowd{pace: p, home: h, full: full, atOnce: firstAtOnce}
}

// room reports whether a request may begin without waiting. mu is held.
func (c *crowd) room() bool {
	return c.begun < c.atOnce && (c.begun == 0 || c.home.untaken.Load() < manyUntaken)
}

// enter waits until a request may begin, and reports whether it may: not when ctx ends
// before. One that may is to leave.
func (c *crowd) enter(ctx context.Context) bool {
	turn := c.join()
	if turn == nil {
		return true
	}
	select {
	case <-turn:
		return true
	case <-ctx.Done():
	}
	if !c.quit(turn) {
		c.leave(false)
	}
	return false
}

// join returns nil for a request that begins, and else what tells that it may.
func (c *crowd) join() <-chan struct{} {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.line) == 0 && c.room() && !c.holds() {
		c.begun++
		return nil
	}
	turn := make(chan struct{})
	c.line = append(c.line, turn)
	c.advance()
	return turn
}

// quit reports whether turn had not come yet.
func (c *crowd) quit(turn <-chan struct{}) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := slices.IndexFunc(c.line, func(t chan struct{}) bool { return t == turn })
	if at < 0 {
		return false
	}
	c.line = slices.Delete(c.line, at, at+1)
	return true
}

// leave is for a request that has ended, and whose answer may be complete.
func (c *crowd) leave(answered bool) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begun--
	if answered && c.atOnce < maxStreams {
		c.atOnce++
	}
	c.advance()
}

// taken is to be called whenever the client has taken something.
func (c *crowd) taken() {
	if !c.held.Load() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held.Store(false)
	c.advance()
}

// advance has those begin whose turn it is. mu is held.
func (c *crowd) advance() {
	for len(c.line) > 0 && (c.late || c.room()) && !c.holds() {
		c.late = c.late && c.room() // it was their turn either way
		c.begun++
		close(c.line[0])
		c.line = slices.Delete(c.line, 0, 1)
	}
	c.plan()
}

// holds reports whether nobody may begin before the client has taken something: a few
// always may. mu is held.
func (c *crowd) holds() bool {
	if c.begun < firstAtOnce {
		return false
	}
	c.held.Store(true) // first: either full knows, or taken comes behind it
	held := c.full()
	c.held.Store(held)
	return held
}

// plan gives the first of the line a time. Each crowd has one at a time, so that large
// ones do not keep the others waiting. mu is held.
func (c *crowd) plan() {
	if c.timed || c.late || len(c.line) == 0 {
		return
	}
	c.timed = true
	now := time.Now()
	time.AfterFunc(max(c.pace.take(now), c.home.wait(now)), c.due)
}

// due is when that time has come.
func (c *crowd) due() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timed, c.late = false, true
	c.advance()
}
