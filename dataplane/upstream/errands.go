package upstream

import (
	"context"
	"maps"
	"net/netip"
	"sync"

	"github.com/sallyport/sallyport/dataplane/upstream/balance"
	"github.com/sallyport/sallyport/dataplane/upstream/dns"
)

// errand is what goes on for as long as an upstream in service needs it, until its
// context ends.
type errand func(context.Context)

// tend does the errands that there are until ctx ends. Each goes on untouched while
// upstreams change that others than itself are for.
func (p *Pool) tend(ctx context.Context) {
	var group sync.WaitGroup
	defer group.Wait()
	under := map[any]context.CancelFunc{}
	for {
		due := p.errands()
		maps.DeleteFunc(under, func(key any, end context.CancelFunc) bool {
			if due[key] != nil {
				return false
			}
			end()
			return true
		})
		for key, do := range due {
			if under[key] == nil {
				one, end := context.WithCancel(ctx)
				under[key] = end
				group.Go(func() { do(one) })
			}
		}
		select {
		case <-p.synced:
		case <-ctx.Done():
			return
		}
	}
}

// review has tend look again at what there is to do.
func (p *Pool) review() {
	select {
	case p.synced <- struct{}{}:
	default:
	}
}

// errands are by what they are of.
func (p *Pool) errands() map[any]errand {
	p.mu.Lock()
	defer p.mu.Unlock()
	due := map[any]errand{}
	followed := map[dns.Name]bool{}
	for _, u := range p.live {
		for _, endpoint := range u.spec.Endpoints {
			if n, _, ok := u.spec.named(endpoint); ok {
				due[n], followed[timeless(n)] = p.follow(n), true
			}
		}
		if u.spec.Check == nil {
			continue
		}
		w := watched{upstream: u.Name(), connections: u.connections, by: u.spec.checks()}
		for _, e := range u.balancer.Endpoints() {
			w.place = placeOf(e)
			due[w] = p.watch(w, u.spec.checkOf(w.place))
		}
	}
	// What nobody looks up any more is not known any more.
	maps.DeleteFunc(p.answers, func(n dns.Name, _ []netip.Addr) bool { return !followed[n] })
	return due
}

func (p *Pool) follow(n dns.Name) errand {
	return func(ctx context.Context) {
		p.names.Follow(ctx, n, func(addresses []netip.Addr) { p.found(n, addresses) })
	}
}

// timeless is n without what does not change its addresses.
func timeless(n dns.Name) dns.Name {
	n.Every = 0
	return n
}

// found has requests go to the addresses of a name.
func (p *Pool) found(n dns.Name, addresses []netip.Addr) {
	for _, c := range p.move(timeless(n), addresses) {
		c.leave()
	}
	p.review()
}

// move returns the connections of which some may not be wanted any more.
func (p *Pool) move(n dns.Name, addresses []netip.Addr) (changed []*connections) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers[n] = addresses
	for _, u := range p.live {
		if !u.names(n) {
			continue
		}
		known := map[place]*balance.Endpoint{}
		for _, e := range u.balancer.Endpoints() {
			known[placeOf(e)] = e
		}
		u.populate(known)
		changed = append(changed, u.connections)
	}
	return changed
}
