package request

import (
	"net/netip"
	"strconv"
	"strings"
)

// canonicalHost reads a Host field (RFC 9110, section 7.2) and drops its port.
// A trailing dot is refused: it names the same host in DNS and another one in
// every table that is looked up by text.
func canonicalHost(raw string) (string, *Error) {
	if raw == "" {
		return "", refuse(ReasonHostMissing, "the request names no host")
	}
	if len(raw) > maxHostPortLength {
		return "", refuse(ReasonHostInvalid, "the host is too long")
	}
	if raw[0] == '[' {
		return canonicalIPv6(raw)
	}
	host, port, hasPort := strings.Cut(raw, ":")
	if hasPort && !isPort(port) {
		return "", refuse(ReasonHostInvalid, "the port of the host is not a number from 1 to 65535")
	}
	if !isName(host) {
		return "", refuse(ReasonHostInvalid, "the host is not a name or address")
	}
	return strings.ToLower(host), nil
}

// IsHost reports whether host is the Host that some canonical request has.
func IsHost(host string) bool {
	canonical, err := canonicalHost(host)
	return err == nil && canonical == host
}

func canonicalIPv6(raw string) (string, *Error) {
	end := strings.IndexByte(raw, ']')
	if end < 0 {
		return "", refuse(ReasonHostInvalid, "the address of the host has no end")
	}
	if port, hasPort := strings.CutPrefix(raw[end+1:], ":"); hasPort && !isPort(port) || !hasPort && port != "" {
		return "", refuse(ReasonHostInvalid, "the port of the host is not a number from 1 to 65535")
	}
	addr, err := netip.ParseAddr(raw[1:end])
	if err != nil || !addr.Is6() || addr.Zone() != "" {
		return "", refuse(ReasonHostInvalid, "the host is not an IPv6 address")
	}
	return "[" + addr.String() + "]", nil
}

// isName accepts DNS names without trailing dot and IPv4 addresses. A name
// whose last label starts with a digit and is a number to some resolver
// ("127.1", "0x7f.0.0.1") has to be an address in its one usual form.
func isName(host string) bool {
	if len(host) > MaxHostLength {
		return false
	}
	start := 0
	for i := range len(host) {
		if host[i] != '.' {
			if !isNameByte(host[i]) {
				return false
			}
			continue
		}
		if !isLabel(host[start:i]) {
			return false
		}
		start = i + 1
	}
	last := host[start:]
	if !isLabel(last) {
		return false
	}
	if !isNumber(last) {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Is4()
}

func isLabel(label string) bool {
	return label != "" && len(label) <= 63 && label[0] != '-' && label[len(label)-1] != '-'
}

func isNumber(label string) bool {
	return isDigits(label) || len(label) > 1 && label[0] == '0' && label[1]|0x20 == 'x'
}

func isPort(port string) bool {
	if !isDigits(port) || port[0] == '0' {
		return false
	}
	_, err := strconv.ParseUint(port, 10, 16)
	return err == nil
}

// checkSecondHost compares what a server left in the header with what it took
// for the host: over HTTP/2 a Host field may stand beside :authority.
func checkSecondHost(fields []string, host string) *Error {
	if len(fields) > 1 || len(fields) == 1 && fields[0] != host {
		return refuse(ReasonHostAmbiguous, "the request names two hosts")
	}
	return nil
}
