package upstream

import (
	"net"
	"slices"
	"sync/atomic"

	"github.com/sallyport/sallyport/dataplane/upstream/balance"
	"github.com/sallyport/sallyport/dataplane/upstream/retry"
)

// place is where an endpoint is. Two that differ share no connection: what was proven
// of the one says nothing of the other.
type place struct {
	address string // host:port
	name    string // that the address was found by, empty where nothing had to be found
}

func placeOf(e *balance.Endpoint) place { return place{e.Address(), e.Name()} }

// host is what the endpoint has to be verified as.
func (p place) host() (string, error) {
	if p.name != "" {
		return p.name, nil
	}
	host, _, err := net.SplitHostPort(p.address)
	return host, err
}

// newUpstream makes one of a Spec that is complete, and that follows on before, nil for
// none. It connects to nobody yet. mu is held.
func (p *Pool) newUpstream(spec Spec, before *Upstream) *Upstream {
	spec.Endpoints = slices.Clone(spec.Endpoints)
	u := &Upstream{
		spec: spec, name: spec.Key().String(), pool: p, scheme: "https",
		balancer: balance.New(spec.balancing(p.avoid, p.now)),
		budget:   retry.New(spec.Retries.BudgetPercent, spec.Retries.BudgetPerSecond, p.now),
	}
	if spec.Plaintext {
		u.scheme = "http"
	}
	if u.requests = new(atomic.Int64); before != nil {
		u.requests = before.requests
	}
	known := map[place]*balance.Endpoint{}
	if before != nil && connectAlike(&before.spec, &spec) {
		u.connections = before.connections
		for _, e := range before.balancer.Endpoints() {
			known[placeOf(e)] = before.balancer.Heir(e, "", 1)
		}
	} else {
		u.connections = p.newConnections(&spec)
	}
	u.connections.slots.Limit(spec.Circuit.Connections, spec.Circuit.Pending)
	u.populate(known)
	return u
}

// populate has requests go to where the endpoints are now. Some are known already.
// Pool.mu is held, so that the last one to come has looked last.
func (u *Upstream) populate(known map[place]*balance.Endpoint) {
	places := u.places()
	all, wanted := make([]*balance.Endpoint, len(places)), make(map[place]bool, len(places))
	for i, at := range places {
		all[i], wanted[at] = known[at], true
		if all[i] == nil {
			all[i] = balance.NewEndpoint(at.address, "", 1).Named(at.name)
		}
	}
	u.balancer.Replace(all)
	u.connections.want(wanted)
}

// places returns where the endpoints are, each address once.
func (u *Upstream) places() []place {
	all := make([]place, 0, len(u.spec.Endpoints))
	for i, address := range u.spec.Endpoints {
		if !slices.Contains(u.spec.Endpoints[:i], address) {
			all = append(all, place{address: address})
		}
	}
	return all
}
