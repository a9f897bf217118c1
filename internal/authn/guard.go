package authn

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"syscall"
	"time"
)

// forbiddenError is an address that a provider may not have.
type forbiddenError struct{ addr netip.Addr }

func (e *forbiddenError) Error() string {
	return fmt.Sprintf("%s is not an address on the internet, and allowPrivateAddresses is not given or does not help", e.addr)
}

// Forbidden tells it from other errors, for those who use Transport.
func (e *forbiddenError) Forbidden() {}

// newTransport makes a transport that reaches nothing but what a provider may
// be. Whoever writes an IdentityProvider must not be able to make proxies ask
// their neighbours, or the cloud that they run in, for anything.
//
// The guard sits where connections are made, below names, redirects and
// whatever a resolver says the second time. A proxy of the environment would
// take its place: it is used only where private addresses are allowed.
func newTransport(private bool) *http.Transport {
	dialer := &net.Dialer{Timeout: 10 * time.Second, Control: guard(private)}
	t := &http.Transport{
		DialContext:            dialer.DialContext,
		ForceAttemptHTTP2:      true,
		IdleConnTimeout:        time.Minute,
		MaxIdleConnsPerHost:    16,
		MaxResponseHeaderBytes: 64 << 10,
	}
	if private {
		t.Proxy = http.ProxyFromEnvironment
	}
	return t
}

// guard refuses addresses when they are dialled.
func guard(private bool) func(network, address string, _ syscall.RawConn) error {
	return func(_, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return errors.New("dialled something that is no address")
		}
		if !reachable(to.Addr(), private) {
			return &forbiddenError{to.Addr()}
		}
		return nil
	}
}

// reachable says whether a provider may have the address: any on the internet,
// and with private those of networks of one's own. Link-local addresses and
// those at which clouds tell machines their secrets are never a provider's.
func reachable(addr netip.Addr, private bool) bool {
	addr = addr.Unmap()
	in := func(p netip.Prefix) bool { return p.Contains(addr.WithZone("")) }
	switch v4, embedded := embeddedIn(addr); {
	case embedded:
		return reachable(v4, private)
	case addr.IsLinkLocalUnicast(), addr.IsMulticast(), addr.IsUnspecified(), slices.ContainsFunc(never(), in):
		return false
	case addr.IsLoopback(), addr.IsPrivate(), slices.ContainsFunc(ownNetworks(), in):
		return private
	}
	return addr.IsGlobalUnicast()
}

func never() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"),          // this host
		netip.MustParsePrefix("240.0.0.0/4"),        // reserved, broadcast
		netip.MustParsePrefix("192.0.0.0/24"),       // IETF; metadata in Oracle's cloud
		netip.MustParsePrefix("168.63.129.16/32"),   // Azure's wire server
		netip.MustParsePrefix("100.100.100.200/32"), // metadata in Alibaba's cloud
		netip.MustParsePrefix("fd00:ec2::/32"),      // metadata in Amazon's cloud
		netip.MustParsePrefix("fd20:ce::254/128"),   // metadata in Google's cloud
		netip.MustParsePrefix("2001::/32"),          // Teredo: leads to any IPv4 address
	}
}

// ownNetworks are private without that netip.Addr.IsPrivate says so.
func ownNetworks() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("100.64.0.0/10"), // behind a carrier's NAT
		netip.MustParsePrefix("198.18.0.0/15"), // benchmarks
		netip.MustParsePrefix("fec0::/10"),     // site-local
		netip.MustParsePrefix("64:ff9b:1::/48"),
	}
}

// embeddedIn returns the IPv4 address to which a gateway would translate: NAT64
// (RFC 6052) and 6to4 (RFC 3056).
func embeddedIn(addr netip.Addr) (netip.Addr, bool) {
	if !addr.Is6() {
		return netip.Addr{}, false
	}
	b := addr.As16()
	switch {
	case netip.MustParsePrefix("64:ff9b::/96").Contains(addr.WithZone("")):
		return netip.AddrFrom4([4]byte(b[12:])), true
	case netip.MustParsePrefix("2002::/16").Contains(addr.WithZone("")):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	case netip.MustParsePrefix("::/96").Contains(addr.WithZone("")) && !addr.IsLoopback() && !addr.IsUnspecified():
		return netip.AddrFrom4([4]byte(b[12:])), true // IPv4-compatible, RFC 4291 §2.5.5.1
	}
	return netip.Addr{}, false
}
