// Package clientip tells the address of a client, as far as a listener's
// declaration lets be believed what is said about it.
package clientip

import (
	"net/netip"
	"slices"
	"strconv"

	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// Source is where an address is known from. It is part of decision records.
type Source string

// The sources.
const (
	Undeclared    Source = "undeclared"      // the TCP connection; nobody has said whose that is
	Direct        Source = "direct"          // the TCP connection, which is the client's own
	XForwardedFor Source = "x_forwarded_for" // the field X-Forwarded-For
	Forwarded     Source = "forwarded"       // the field Forwarded of RFC 7239
	ProxyProtocol Source = "proxy_protocol"  // a header ahead of TLS
)

// Address is the address of a client. The zero Address is unknown.
type Address struct {
	// IP is in one form: IPv4 is never written as IPv6, and there is no zone. The
	// zero Addr is unknown.
	IP     netip.Addr
	Source Source
	// Unknown says why IP is not known. It repeats nothing that a client said.
	Unknown string
}

// Declaration is what a listener declares. It is immutable. The zero Declaration
// is none: the address is that of the TCP connection.
type Declaration struct {
	source   Source // empty is Undeclared
	hops     int    // that are believed; zero: those in trusted
	trusted  []netip.Prefix
	required bool
}

// Declare returns the declaration of a listener, nil being none. Networks that do
// not parse, which package resource refuses, are trusted by nobody.
func Declare(spec *resourcev1.ClientAddress) Declaration {
	switch of := spec.GetSource().(type) {
	case *resourcev1.ClientAddress_Direct:
		return Declaration{source: Direct}
	case *resourcev1.ClientAddress_ProxyProtocol:
		return Declaration{
			source: ProxyProtocol, trusted: networks(of.ProxyProtocol.GetTrustedCidrs()), required: of.ProxyProtocol.GetRequired(),
		}
	case *resourcev1.ClientAddress_Forwarded:
		d := Declaration{
			source: XForwardedFor, hops: int(of.Forwarded.GetTrustedHops()), trusted: networks(of.Forwarded.GetTrustedCidrs()),
		}
		if of.Forwarded.GetHeader() == resourcev1.ForwardedHeader_FORWARDED_HEADER_FORWARDED {
			d.source = Forwarded
		}
		return d
	}
	return Declaration{}
}

func networks(texts []string) (all []netip.Prefix) {
	for _, text := range texts {
		if p, err := ParseNetwork(text); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// Trusts reports whether an address is that of a proxy in front, by its network.
func (d *Declaration) Trusts(ip netip.Addr) bool {
	return slices.ContainsFunc(d.trusted, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// SpeaksProxyProtocol reports whether connections may begin with a header of the
// PROXY protocol, and whether they have to.
func (d *Declaration) SpeaksProxyProtocol() (may, must bool) {
	return d.source == ProxyProtocol, d.required
}

// OfConnection returns the address that a connection from peer itself has. With
// the PROXY protocol it is that of a connection without a header.
func (d *Declaration) OfConnection(peer netip.Addr) Address {
	switch source := d.source; {
	case source == "":
		return Address{IP: peer, Source: Undeclared}
	case source == ProxyProtocol && d.Trusts(peer):
		return Address{Source: ProxyProtocol, Unknown: "a proxy in front sent no header of the PROXY protocol"}
	}
	return Address{IP: peer, Source: Direct}
}

// OfRequest returns the address of who sent a request with this header over a
// connection whose address is of. The header has the canonical names of
// net/textproto, and is read as it came.
func (d *Declaration) OfRequest(of Address, header map[string][]string) Address {
	switch d.source {
	case XForwardedFor:
		return d.forwarded(of, &list{lines: header["X-Forwarded-For"]}, parseXForwardedFor)
	case Forwarded:
		return d.forwarded(of, &list{lines: header["Forwarded"], quotes: true}, parseForwarded)
	}
	return of
}

// ClientOf returns whose connection it is with an address from OfConnection, or from a
// header of the PROXY protocol, if the client itself has made it, or announced it: the
// zero Addr when that is not known, or is a proxy's in front.
func (d *Declaration) ClientOf(a Address) netip.Addr {
	switch {
	case d.source == "", d.hops > 0, a.Source == Direct && d.Trusts(a.IP):
		return netip.Addr{}
	}
	return a.IP
}

// maxEntries is how many entries are looked at where networks are trusted.
const maxEntries = 32

// forwarded goes through a list from its right end until it meets the client.
func (d *Declaration) forwarded(peer Address, l *list, parse func(string) (netip.Addr, string)) Address {
	if d.hops == 0 && !d.Trusts(peer.IP) {
		return peer
	}
	for hop := 1; hop <= maxEntries; hop++ {
		entry, ok := l.previous()
		if !ok {
			return d.unknown(hop, "there is none")
		}
		ip, wrong := parse(entry)
		switch {
		case wrong != "":
			return d.unknown(hop, wrong)
		case hop == d.hops, d.hops == 0 && !d.Trusts(ip):
			return Address{IP: ip, Source: d.source}
		}
	}
	return d.unknown(maxEntries, "it is a proxy's, as those behind it")
}

func (d *Declaration) unknown(hop int, why string) Address {
	return Address{Source: d.source, Unknown: "entry " + strconv.Itoa(hop) + " from the right: " + why}
}
