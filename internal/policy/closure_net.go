package policy

import "net/netip"

// toAddress compiles ip("192.0.2.1").
func toAddress(at fault, c code) code {
	if c.address != nil || c.text == nil {
		return code{address: c.address}
	}
	if text, ok := c.literal.(string); ok {
		if a, x := parseAddress(text, at); x == answered {
			return code{address: constant(a), literal: a}
		}
	}
	return code{address: func(f *facts, s *scope) (netip.Addr, fault) {
		v, x := c.text(f, s)
		if x != answered {
			return netip.Addr{}, x
		}
		return parseAddress(v, at)
	}}
}

// parseAddress refuses, as CEL does, the forms that are not canonical.
func parseAddress(text string, at fault) (netip.Addr, fault) {
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" || a.Is4In6() {
		return netip.Addr{}, at
	}
	return a, answered
}

func toNetwork(c code) code {
	text, ok := c.literal.(string)
	if !ok {
		return code{}
	}
	n, err := netip.ParsePrefix(text)
	if err != nil || n.Addr().Is4In6() {
		return code{}
	}
	return code{network: constant(n), literal: n}
}

func containsIP(at fault, network, c code) code {
	n, ok := network.literal.(netip.Prefix)
	address := toAddress(at, c).address
	if !ok || address == nil {
		return code{}
	}
	out := code{flag: func(f *facts, s *scope) (bool, fault) {
		v, x := address(f, s)
		return x == answered && n.Contains(v), x
	}}
	if c.reads().rawAddress == nil {
		return out
	}
	return asTerm(out, c, term{kind: termWithin, network: n})
}

// addressFlags are CEL's functions of an address that are true or false.
var addressFlags = map[string]func(netip.Addr) bool{
	"isUnspecified":        netip.Addr.IsUnspecified,
	"isLoopback":           netip.Addr.IsLoopback,
	"isGlobalUnicast":      netip.Addr.IsGlobalUnicast,
	"isLinkLocalMulticast": netip.Addr.IsLinkLocalMulticast,
	"isLinkLocalUnicast":   netip.Addr.IsLinkLocalUnicast,
}

func addressProperty(name string, c code) code {
	address, flag := c.address, addressFlags[name]
	switch {
	case address == nil:
	case flag != nil:
		return code{flag: func(f *facts, s *scope) (bool, fault) {
			v, x := address(f, s)
			return x == answered && flag(v), x
		}}
	case name == "family":
		return code{whole: func(f *facts, s *scope) (int64, fault) {
			v, x := address(f, s)
			if v.Is4() {
				return 4, x
			}
			return 6, x
		}}
	}
	return code{}
}
