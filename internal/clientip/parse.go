package clientip

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/internal/request"
)

const (
	noAddress = "it is no address"
	noElement = "it is not as RFC 7239 wants it"
)

// ParseNetwork parses what a declaration trusts, in its one form: 10.0.0.0/8. It
// refuses what would trust everybody.
func ParseNetwork(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return netip.Prefix{}, errors.New("is no network, such as 10.0.0.0/8 or 2001:db8::/32")
	case p.Addr().Is4In6():
		return netip.Prefix{}, errors.New("write a network of IPv4 as such")
	case p.Masked() != p:
		return netip.Prefix{}, fmt.Errorf("has bits behind the network: write %s", p.Masked())
	case p.Bits() == 0:
		return netip.Prefix{}, errors.New("is everybody")
	}
	return p, nil
}

// parseXForwardedFor parses an entry: an address, with a port or without.
func parseXForwardedFor(entry string) (ip netip.Addr, wrong string) {
	host, port := cutPort(entry)
	if !isPort(port, false) {
		return netip.Addr{}, noAddress
	}
	return parseHost(host)
}

// cutPort cuts the port off, with its colon. An address of IPv6 without brackets
// has none.
func cutPort(node string) (host, port string) {
	if strings.HasPrefix(node, "[") {
		end := strings.IndexByte(node, ']') + 1
		return node[:end], node[end:]
	}
	if colon := strings.IndexByte(node, ':'); colon >= 0 && colon == strings.LastIndexByte(node, ':') {
		return node[:colon], node[colon:]
	}
	return node, ""
}

// isPort accepts none as well. RFC 7239 has ports that do not tell which they are.
func isPort(port string, hidden bool) bool {
	if port == "" {
		return true
	}
	if hidden && strings.HasPrefix(port, ":_") {
		return isHidden(port[1:])
	}
	digits := port[1:]
	_, err := strconv.ParseUint(digits, 10, 16)
	return port[0] == ':' && err == nil && len(digits) <= 5
}

// parseHost accepts what has one reading alone: neither short forms nor leading
// zeros of IPv4, and no zone, which is somebody else's. The unspecified address is
// nobody's.
func parseHost(host string) (ip netip.Addr, wrong string) {
	const longest = len("[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]")
	if len(host) > longest {
		return netip.Addr{}, noAddress
	}
	bare, bracketed := strings.CutPrefix(host, "[")
	if bracketed {
		bare = strings.TrimSuffix(bare, "]") // cutPort has seen to it
	}
	ip, err := netip.ParseAddr(bare)
	if err != nil || bracketed && ip.Is4() || ip.Zone() != "" || ip.Unmap().IsUnspecified() {
		return netip.Addr{}, noAddress
	}
	return ip.Unmap(), ""
}

// parseForwarded parses an element of Forwarded for the address in its for.
func parseForwarded(element string) (ip netip.Addr, wrong string) {
	var seen []string
	node, has := "", false
	for rest := element; ; {
		name, value, after, ok := cutPair(rest)
		if !ok || len(seen) == maxPairs {
			return netip.Addr{}, noElement
		}
		for _, other := range seen {
			if strings.EqualFold(name, other) {
				return netip.Addr{}, noElement
			}
		}
		seen = append(seen, name)
		if strings.EqualFold(name, "for") {
			node, has = value, true
		}
		if after == "" {
			break
		}
		rest = after[1:]
	}
	if !has {
		return netip.Addr{}, "it has no for"
	}
	return parseNode(node)
}

// maxPairs is how many parameters an element may have; RFC 7239 knows four.
const maxPairs = 16

// cutPair cuts a parameter off an element. What follows begins with a semicolon.
// Escapes are refused: no address has them, and a list could not be read from the
// right.
func cutPair(s string) (name, value, after string, ok bool) {
	name, rest, found := strings.Cut(s, "=")
	if !found || !request.IsToken(name) {
		return "", "", "", false
	}
	if quoted, is := strings.CutPrefix(rest, `"`); is {
		value, after, ok = strings.Cut(quoted, `"`)
		ok = ok && !strings.Contains(value, `\`)
	} else {
		value, after = rest, ""
		if i := strings.IndexByte(rest, ';'); i >= 0 {
			value, after = rest[:i], rest[i:]
		}
		ok = request.IsToken(value)
	}
	return name, value, after, ok && (after == "" || len(after) > 1 && after[0] == ';')
}

// parseNode parses a node of RFC 7239, section 6.
func parseNode(node string) (ip netip.Addr, wrong string) {
	host, port := cutPort(node)
	switch {
	case !isPort(port, true):
		return netip.Addr{}, noAddress
	case strings.EqualFold(host, "unknown"):
		return netip.Addr{}, "who forwarded it does not know"
	case isHidden(host):
		return netip.Addr{}, "who forwarded it does not say"
	case !strings.HasPrefix(host, "[") && strings.Contains(host, ":"):
		return netip.Addr{}, noAddress
	}
	return parseHost(host)
}

// isHidden tells the obfuscated identifiers of RFC 7239, section 6.3.
func isHidden(s string) bool {
	return len(s) > 1 && s[0] == '_' && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == ""
}
