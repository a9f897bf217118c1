package http1

import (
	"net"
	"slices"
	"sync"
	"time"
)

// Pool keeps the connections to one endpoint that no request uses. It is safe for
// concurrent use.
type Pool struct {
	limits Limits
	now    func() time.Time
	free   func() // told of connections that have become free

	mu     sync.Mutex
	idle   []*Conn     // the one that has rested longest first
	sweep  *time.Timer // nil until there is something to sweep
	closed bool
}

// NewPool returns an empty Pool. A nil now is time.Now.
func NewPool(l Limits, now func() time.Time) (*Pool, error) {
	if err := l.check(); err != nil {
		return nil, err
	}
	if now == nil {
		now = time.Now
	}
	return &Pool{limits: l, now: now, free: func() {}}, nil
}

// OnFree has f be called whenever a connection is kept. It is to be called before
// the pool has any.
func (p *Pool) OnFree(f func()) { p.free = f }

// New returns conn, which nothing was sent over, as one of the pool's, for a first
// request. Conn is socket, or TLS over it.
func (p *Pool) New(conn net.Conn, socket *Socket) *Conn {
	socket.writes.most = p.limits.Write
	return &Conn{conn: conn, socket: socket, pool: p, made: p.now()}
}

// Take returns a connection that can be used once more, nil when there is none.
// Those that have ended, or over which came what nobody asked for, are closed.
func (p *Pool) Take() *Conn {
	for {
		c := p.newest()
		if c == nil || p.fresh(c, p.now()) && c.quiet() {
			return c
		}
		c.close()
	}
}

// newest takes the one that has rested least: the others can go the sooner.
func (p *Pool) newest() *Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := len(p.idle) - 1
	if last < 0 {
		return nil
	}
	c := p.idle[last]
	p.idle[last] = nil
	p.idle = p.idle[:last]
	return c
}

// fresh reports whether c may be used, or kept, at a time.
func (p *Pool) fresh(c *Conn, now time.Time) bool {
	return now.Sub(c.made) < p.limits.Age && now.Sub(c.rested) < p.limits.Rest
}

// put keeps a connection whose answer has been read to its end, or closes it.
func (p *Pool) put(c *Conn) {
	c.rested = p.now()
	if !p.fresh(c, c.rested) || !p.keep(c) {
		c.close()
		return
	}
	p.free()
}

func (p *Pool) keep(c *Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.idle) >= p.limits.Idle {
		return false
	}
	p.idle = append(p.idle, c)
	switch {
	case p.sweep == nil:
		p.sweep = time.AfterFunc(p.limits.Rest, p.clean)
	case len(p.idle) == 1:
		p.sweep.Reset(p.limits.Rest)
	}
	return true
}

// clean closes what has rested for too long, and comes again for what has not.
func (p *Pool) clean() {
	for _, c := range p.stale() {
		c.close()
	}
}

func (p *Pool) stale() []*Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	n := slices.IndexFunc(p.idle, func(c *Conn) bool { return p.fresh(c, now) })
	if n < 0 {
		n = len(p.idle)
	}
	old := slices.Clone(p.idle[:n])
	p.idle = slices.Delete(p.idle, 0, n)
	if len(p.idle) > 0 {
		p.sweep.Reset(p.limits.Rest)
	}
	return old
}

// Drop closes the connection that has rested longest, and reports whether there was one.
func (p *Pool) Drop() bool {
	c := p.oldest()
	if c == nil {
		return false
	}
	c.close()
	return true
}

func (p *Pool) oldest() *Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) == 0 {
		return nil
	}
	c := p.idle[0]
	p.idle = slices.Delete(p.idle, 0, 1)
	return c
}

// Idle returns how many connections are kept.
func (p *Pool) Idle() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle)
}

// Close closes the connections that no request uses, and has none kept any more:
// what is in use ends with its request. It may be called again, and the pool be
// used further.
func (p *Pool) Close() {
	for _, c := range p.drain() {
		c.close()
	}
}

func (p *Pool) drain() []*Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.idle
	p.idle, p.closed = nil, true
	if p.sweep != nil {
		p.sweep.Stop()
	}
	return all
}
