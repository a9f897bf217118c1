package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/sallyport/sallyport/dataplane/upstream/health"
)

// watched is an endpoint whose health is checked. It goes on being watched by whatever
// document asks for the same.
type watched struct {
	upstream    Name
	connections *connections
	place       place
	by          string // the Check in words
}

// checkOf returns what an endpoint has to pass, with a Host that stays the same whatever
// its address is. The Spec has a Check.
func (s *Spec) checkOf(at place) health.Check {
	c := *s.Check
	if c.Host == "" {
		c.Host = at.endpoint()
	}
	return c
}

// checks are the words for what endpoints have to pass.
func (s *Spec) checks() string {
	if s.Check == nil {
		return ""
	}
	return fmt.Sprintf("%+v", *s.Check)
}

func (p *Pool) watch(w watched, c health.Check) errand {
	e := health.Endpoint{Upstream: w.upstream.String(), Address: w.place.address}
	e.Connect = func(ctx context.Context, protocols ...string) (net.Conn, error) {
		return w.connections.check(ctx, w.place, protocols...)
	}
	return func(ctx context.Context) {
		p.prober.Watch(ctx, c, e, func(healthy bool) { p.judge(w, healthy) })
	}
}

// judge has requests go, or not go, to an endpoint that was checked. If the upstream has
// changed meanwhile, its next check tells.
func (p *Pool) judge(w watched, healthy bool) {
	p.mu.Lock()
	u := p.live[w.upstream]
	p.mu.Unlock()
	if u == nil || u.connections != w.connections || u.spec.checks() != w.by {
		return
	}
	for _, e := range u.balancer.Endpoints() {
		if placeOf(e) == w.place {
			u.balancer.SetHealthy(e, healthy)
		}
	}
}

// check connects to an endpoint as requests do.
func (c *connections) check(ctx context.Context, at place, protocols ...string) (net.Conn, error) {
	if c.plaintext {
		socket, err := c.dial(ctx, at.address)
		if err != nil {
			return nil, err // and no socket that is nil
		}
		return socket, nil
	}
	if err := c.identified(); err != nil {
		return nil, fmt.Errorf("%w: %w", health.ErrNotAsked, err)
	}
	conn, _, err := c.dialTLS(ctx, at, protocols...)
	if no, ok := errors.AsType[*connectError](err); ok && no.ours {
		return nil, fmt.Errorf("%w: %w", health.ErrNotAsked, err)
	}
	if err != nil {
		return nil, err
	}
	return conn, nil
}
