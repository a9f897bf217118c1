// Package ipset finds an IP address among many networks in well under a
// microsecond, whoever chose the address.
package ipset

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
)

// Set is a set of addresses, made of networks. It is immutable and safe for
// concurrent use. A nil or zero Set contains nothing.
type Set struct {
	v4 []range4
	v6 []range6

	// first4 finds the ranges worth a search by the leading bits of an address:
	// the first that ends at a or later, for a of bits b, is first4[b],
	// first4[b+1] or between them. IPv6 has too few leading bits that differ.
	first4 []uint32
	shift4 uint
}

// The ranges of a Set are in order and neither overlap nor touch.
type (
	range4 struct{ first, last uint32 }
	range6 struct{ first, last wide }
	wide   struct{ hi, lo uint64 }
)

// Build returns the set of all addresses of networks, which it does not keep.
// Bits behind a network's length do not count, and neither do invalid
// networks. A network of IPv4-mapped addresses, as ::ffff:10.0.0.0/104, is that
// of the IPv4 addresses.
func Build(networks []netip.Prefix) *Set {
	s := &Set{}
	for _, n := range networks {
		n = plain(n)
		switch {
		case !n.IsValid():
		case n.Addr().Is4():
			s.v4 = append(s.v4, bounds4(n))
		default:
			s.v6 = append(s.v6, bounds6(n))
		}
	}
	s.v4, s.v6 = union4(s.v4), union6(s.v6)
	s.index4()
	return s
}

// Contains reports whether a is in s. An IPv4-mapped address is the IPv4
// address, and a zone does not count. It does not allocate.
func (s *Set) Contains(a netip.Addr) bool {
	switch {
	case s == nil || !a.IsValid():
		return false
	case a.Is6() && !a.Is4In6():
		return s.contains6(wideOf(a))
	}
	b := a.Unmap().As4()
	return s.contains4(binary.BigEndian.Uint32(b[:]))
}

func (s *Set) contains4(a uint32) bool {
	if len(s.v4) == 0 {
		return false
	}
	b := a >> s.shift4
	low, high := s.first4[b], s.first4[b+1]
	for low < high { // the first range that ends at a or later
		middle := (low + high) / 2
		if s.v4[middle].last < a {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low < uint32(len(s.v4)) && s.v4[low].first <= a //nolint:gosec // index4 counts ranges in uint32
}

func (s *Set) contains6(a wide) bool {
	low, high := 0, len(s.v6)
	for low < high { // the first range that ends at a or later
		middle := (low + high) / 2
		if s.v6[middle].last.less(a) {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low < len(s.v6) && !a.less(s.v6[low].first)
}

// plain returns n without the bits behind its length, and as IPv4 if it is.
func plain(n netip.Prefix) netip.Prefix {
	if a := n.Addr(); a.Is4In6() && n.Bits() >= 96 {
		n = netip.PrefixFrom(a.Unmap(), n.Bits()-96)
	}
	return n.Masked()
}

func bounds4(n netip.Prefix) range4 {
	b := n.Addr().As4()
	first := binary.BigEndian.Uint32(b[:])
	return range4{first, first | uint32(1<<(32-n.Bits())-1)}
}

func bounds6(n netip.Prefix) range6 {
	first := wideOf(n.Addr())
	last := first
	if bits := n.Bits(); bits < 64 {
		last.hi |= 1<<(64-bits) - 1
		last.lo = 1<<64 - 1
	} else {
		last.lo |= 1<<(128-bits) - 1
	}
	return range6{first, last}
}

func union4(all []range4) []range4 {
	slices.SortFunc(all, func(a, b range4) int { return cmp.Compare(a.first, b.first) })
	var out []range4
	for _, r := range all {
		if n := len(out); n > 0 && (out[n-1].last == 1<<32-1 || r.first <= out[n-1].last+1) {
			out[n-1].last = max(out[n-1].last, r.last)
			continue
		}
		out = append(out, r)
	}
	return slices.Clip(out)
}

func union6(all []range6) []range6 {
	slices.SortFunc(all, func(a, b range6) int { return a.first.compare(b.first) })
	var out []range6
	for _, r := range all {
		if n := len(out); n > 0 && !out[n-1].last.next().less(r.first) {
			if out[n-1].last.less(r.last) {
				out[n-1].last = r.last
			}
			continue
		}
		out = append(out, r)
	}
	return slices.Clip(out)
}

// index4 has about as many entries as there are ranges.
func (s *Set) index4() {
	if len(s.v4) == 0 {
		return
	}
	bits := uint(1)
	for 1<<bits < len(s.v4) && bits < 20 {
		bits++
	}
	s.shift4 = 32 - bits
	s.first4 = make([]uint32, 1<<bits+1)
	i := 0
	for b := range s.first4 {
		// Ranges that end before the first address of b are behind it.
		for i < len(s.v4) && uint64(s.v4[i].last) < uint64(b)<<s.shift4 {
			i++
		}
		s.first4[b] = uint32(i)
	}
}

func wideOf(a netip.Addr) wide {
	b := a.As16()
	return wide{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func (w wide) less(v wide) bool { return w.hi < v.hi || w.hi == v.hi && w.lo < v.lo }

func (w wide) compare(v wide) int { return cmp.Or(cmp.Compare(w.hi, v.hi), cmp.Compare(w.lo, v.lo)) }

// next is the address behind w, or w where there is none.
func (w wide) next() wide {
	switch {
	case w.lo != 1<<64-1:
		return wide{w.hi, w.lo + 1}
	case w.hi != 1<<64-1:
		return wide{w.hi + 1, 0}
	}
	return w
}
