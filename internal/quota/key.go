package quota

import (
	"encoding/binary"
	"net/netip"
	"net/textproto"

	"github.com/sallyport/sallyport/internal/policy"
)

// Kind is what a Part is of a request.
type Kind uint8

// The kinds. A Part of the zero Kind is the same of all requests.
const (
	ClientAddress Kind = iota + 1 // its network
	Principal                     // with who vouches for it
	Issuer                        // who vouches for the principal
	Header                        // the first value of a field
	Route
	ServerName // of the TLS handshake
	Text       // what an expression comes to
)

// Part is a part of a Key.
type Part struct {
	Kind       Kind
	IPv4, IPv6 int          // bits of the network, for ClientAddress
	Name       string       // canonical, for Header
	Text       *policy.Text // for Text
}

// Key says which requests share what there is: those for which all parts are the
// same. The zero Key is the same for all.
type Key []Part

// HeaderName returns the form of a field's name that a Part has.
func HeaderName(name string) string { return textproto.CanonicalMIMEHeaderKey(name) }

// Append appends the key of a request to b. Different keys append different bytes.
// It allocates only what does not fit into b.
func (k Key) Append(b []byte, in *policy.Input) []byte {
	for i := range k {
		b = k[i].append(b, in)
	}
	return b
}

// absent and present say whether a request has a part at all.
const absent, present = 0, 1

func (p *Part) append(b []byte, in *policy.Input) []byte {
	switch p.Kind {
	case ClientAddress:
		return p.network(b, in.ClientIP)
	case Principal:
		if in.Principal == nil {
			return append(b, absent)
		}
		b = append(b, present, byte(in.Principal.Kind))
		return text(text(b, in.Principal.Issuer), in.Principal.ID)
	case Issuer:
		if in.Principal == nil {
			return append(b, absent)
		}
		return text(append(b, present), in.Principal.Issuer)
	case Header:
		values := in.Header[p.Name]
		if len(values) == 0 {
			return append(b, absent)
		}
		return text(append(b, present), values[0])
	case Route:
		return text(text(b, in.Route.Namespace), in.Route.Name)
	case ServerName:
		return text(b, in.ServerName)
	case Text:
		value, known := p.Text.Value(in)
		if !known {
			return append(b, absent)
		}
		return text(append(b, present), value)
	}
	return b
}

// network is the same for ::ffff:192.0.2.1 as for 192.0.2.1, and without a zone.
func (p *Part) network(b []byte, addr netip.Addr) []byte {
	addr = addr.Unmap().WithZone("")
	switch {
	case addr.Is4():
		n, _ := addr.Prefix(p.IPv4)
		a := n.Addr().As4()
		return append(append(b, 4), a[:]...)
	case addr.Is6():
		n, _ := addr.Prefix(p.IPv6)
		a := n.Addr().As16()
		return append(append(b, 6), a[:]...)
	}
	return append(b, absent)
}

// text has its length before it, so that it cannot go over into what follows.
func text(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// Authenticates reports whether the parts are only known of an authenticated
// request.
func (k Key) Authenticates() bool {
	for i := range k {
		switch k[i].Kind {
		case Principal, Issuer:
			return true
		case Text:
			if k[i].Text.Authenticates() {
				return true
			}
		}
	}
	return false
}
