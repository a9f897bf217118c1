package upstream

import (
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/dataplane/upstream/balance"
	"github.com/sallyport/sallyport/dataplane/upstream/dns"
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

// endpoint is what the Spec calls it.
func (p place) endpoint() string {
	if p.name == "" {
		return p.address
	}
	_, port, _ := net.SplitHostPort(p.address)
	return net.JoinHostPort(p.name, port)
}

// newUpstream makes one of a Spec that is complete, and that follows on before, nil for
// none. It connects to nobody yet. mu is held.
func (p *Pool) newUpstream(spec Spec, before *Upstream) *Upstream {
	spec.Endpoints = slices.Clone(spec.Endpoints)
	u := &Upstream{
		spec: spec, name: spec.Key().String(), pool: p, scheme: "https",
		balancer: balance.New(spec.balancing(p)),
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
			known[placeOf(e)] = before.balancer.Heir(e, spec.Zones[placeOf(e).endpoint()], 1)
		}
	} else {
		u.connections = p.newConnections(&spec)
	}
	u.connections.slots.Limit(spec.Circuit.Connections, spec.Circuit.Pending)
	u.populate(known)
	if spec.Check == nil { // else the next one tells
		for _, e := range u.balancer.Endpoints() {
			u.balancer.SetHealthy(e, true)
		}
	}
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
			all[i] = balance.NewEndpoint(at.address, u.spec.Zones[at.endpoint()], 1).Named(at.name)
		}
	}
	u.balancer.Replace(all)
	u.connections.want(wanted)
}

// Resolution is how the host names of endpoints are looked up.
type Resolution struct {
	// Every is the time from one lookup to the next; as their records say when zero.
	Every  time.Duration
	Family dns.Family // of the addresses that are used
}

// named returns the host name of an endpoint, and its port; false for one that is an
// address already, and for localhost: who listens there does so on one of its addresses,
// as a rule, and whoever connects tries both.
func (s *Spec) named(endpoint string) (n dns.Name, port string, ok bool) {
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil {
		return dns.Name{}, "", false
	}
	if _, err := netip.ParseAddr(host); err == nil || host == "localhost" {
		return dns.Name{}, "", false
	}
	return dns.Name{Host: host, Family: s.Resolution.Family, Every: s.Resolution.Every}, port, true
}

// names reports whether a name is among the endpoints.
func (u *Upstream) names(of dns.Name) bool {
	return slices.ContainsFunc(u.spec.Endpoints, func(endpoint string) bool {
		n, _, ok := u.spec.named(endpoint)
		return ok && timeless(n) == of
	})
}

// places returns where the endpoints are, as far as is known, each address once. If they
// are too many, none has more than its share. Pool.mu is held.
func (u *Upstream) places() []place {
	all, longest := make([][]place, len(u.spec.Endpoints)), 0
	count := 0
	for i, endpoint := range u.spec.Endpoints {
		all[i] = u.placesOf(endpoint)
		count += len(all[i])
		longest = max(longest, len(all[i]))
	}
	if count > balance.MostEndpoints {
		longest = max(1, balance.MostEndpoints/len(all))
	}
	each, seen := make([]place, 0, count), make(map[string]bool, count)
	for _, some := range all {
		for _, at := range some[:min(len(some), longest)] {
			if !seen[at.address] {
				each, seen[at.address] = append(each, at), true
			}
		}
	}
	return each
}

// placesOf returns where an endpoint is. A name that was not looked up yet is a place
// itself: whoever connects to it looks it up, so that no request waits for more than
// that.
func (u *Upstream) placesOf(endpoint string) []place {
	n, port, ok := u.spec.named(endpoint)
	if !ok {
		return []place{{address: endpoint}}
	}
	addresses := u.pool.answers[timeless(n)]
	if len(addresses) == 0 {
		return []place{{endpoint, n.Host}}
	}
	all := make([]place, len(addresses))
	for i, a := range addresses {
		all[i] = place{net.JoinHostPort(a.String(), port), n.Host}
	}
	return all
}
