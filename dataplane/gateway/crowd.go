package gateway

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"
)

const (
	// firstAtOnce is how many requests of a new connection over HTTP/2 begin at once.
	// Each answer that is complete lets it have one more, up to maxStreams.
	firstAtOnce = 8
	// beginEvery is the time between requests of crowds, on one processor.
	beginEvery = 2 * time.Millisecond
)

// pace spreads what crowds of all connections begin. It is safe for concurrent use.
type pace struct {
	every time.Duration

	mu   sync.Mutex
	next time.Time // when the next may begin
}

func newPace() pace { return pace{every: beginEvery / time.Duration(runtime.GOMAXPROCS(0))} }

// take returns how long to wait, zero when nobody has begun of late.
func (p *pace) take(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := p.next
	if at.Before(now) {
		at = now
	}
	p.next = at.Add(p.every)
	return at.Sub(now)
}

// crowd is the requests of one connection over HTTP/2. Those that are many before any was
// answered begin one after another: a thousand that begin at once, over a few connections
// of somebody who reads none of the answers, would keep the requests of others waiting for
// as long as all of that takes. They are not refused. Who reads their answers notices
// nothing of it.
//
// nil has no bounds. It is safe for concurrent use.
type crowd struct {
	pace *pace

	mu     sync.Mutex
	atOnce int // as many begin without waiting
	begun  int
	line   []chan struct{} // closed when it is their turn; the one that came first first
	timed  bool            // the first of the line has a time
}

func newCrowd(p *pace) *crowd { return &crowd{pace: p, atOnce: firstAtOnce} }

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
	if len(c.line) == 0 && c.begun < c.atOnce {
		c.begun++
		return nil
	}
	turn := make(chan struct{})
	c.line = append(c.line, turn)
	c.plan()
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
	for len(c.line) > 0 && c.begun < c.atOnce {
		c.begin()
	}
}

// begin is for the first of the line. mu is held.
func (c *crowd) begin() {
	c.begun++
	close(c.line[0])
	c.line = slices.Delete(c.line, 0, 1)
}

// plan gives the first of the line a time. Each crowd has one at a time, so that large
// ones do not keep the others waiting. mu is held.
func (c *crowd) plan() {
	if c.timed || len(c.line) == 0 {
		return
	}
	c.timed = true
	time.AfterFunc(c.pace.take(time.Now()), c.due)
}

// due is when that time has come.
func (c *crowd) due() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timed = false
	if len(c.line) > 0 {
		c.begin()
	}
	c.plan()
}
