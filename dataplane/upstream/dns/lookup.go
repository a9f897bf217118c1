package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// Answer is what one lookup has found.
type Answer struct {
	// Addresses are what to connect to, in order, each once; never none.
	Addresses []netip.Addr
	Left      int // those beyond the 64 that are used

	// TTL is for how long the records may be kept, by that which may be kept least, and
	// Told whether there were any: a hosts file has none.
	TTL  time.Duration
	Told bool
}

// errNoAddress says that a name exists, and that none of its addresses is of use.
var errNoAddress = errors.New("no address that can be connected to")

// Lookup looks n up once. It fails when there is no answer within 15 seconds, or no
// address of use in it.
//
// Left out are addresses that nobody can have, and those that this machine has no route
// to, as all of IPv6 may be, unless it has a route to none.
func (r *Resolver) Lookup(ctx context.Context, n Name) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var heard records
	defer heard.close()
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := r.dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return heard.listen(conn), nil
	}}
	all, err := resolver.LookupNetIP(ctx, n.Family.network(), n.Host)
	if err != nil {
		return Answer{}, err
	}
	use := r.useful(all)
	if len(use) == 0 {
		return Answer{}, fmt.Errorf("look up %s: %w", n.Host, errNoAddress)
	}
	answer := Answer{Addresses: use[:min(len(use), maxAddresses)]}
	answer.Left = len(use) - len(answer.Addresses)
	answer.TTL, answer.Told = heard.least()
	return answer, nil
}

func (r *Resolver) useful(all []netip.Addr) []netip.Addr {
	use := make([]netip.Addr, 0, len(all))
	for _, a := range all {
		a = a.Unmap()
		if a.IsUnspecified() || a.IsMulticast() {
			continue
		}
		use = append(use, a)
	}
	slices.SortFunc(use, netip.Addr.Compare)
	use = slices.Compact(use)
	if reachable := slices.DeleteFunc(slices.Clone(use), func(a netip.Addr) bool { return !r.routable(a) }); len(reachable) > 0 {
		return reachable
	}
	return use
}

// routable reports whether this machine knows a way to a. Nothing is sent.
func routable(a netip.Addr) bool {
	const discard = 9
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, discard)))
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}
