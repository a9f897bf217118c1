package dns

import "net/netip"

// Assume has r believe that it has a route to what routable says.
func (r *Resolver) Assume(routable func(netip.Addr) bool) { r.routable = routable }
