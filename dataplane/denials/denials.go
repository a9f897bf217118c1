// Package denials remembers how often a proxy has lately denied whom, for conditions
// that ask, in memory that no flood makes grow.
package denials

import (
	"hash/maphash"
	"net/netip"
	"time"

	"github.com/sallyport/sallyport/internal/policy"
)

// Window is for how long a denial counts at least, and Step is how much longer it may.
const (
	Window = 5 * time.Minute
	Step   = 30 * time.Second
)

// Counts are those of a proxy: of its principals, and of the addresses of its clients.
// Each keeps the Capacity that were denied most, and forgets others first. A number is
// never higher than the denials that there were, whatever else is denied: see
// docs/decisions/0011. It is safe for concurrent use.
type Counts struct {
	began time.Time
	seed  maphash.Seed // so that nobody knows whom they share a set with

	principals, addresses table
}

// New returns Counts without any. No time that they are asked about is before began.
func New(began time.Time) *Counts { return &Counts{began: began, seed: maphash.MakeSeed()} }

// Add counts a denial. A principal that has not proven who it is must not be named; nil
// and the anonymous one have no count, as has an address that is invalid.
func (c *Counts) Add(who *policy.Principal, address netip.Addr, now time.Time) {
	at := c.step(now)
	if key, ok := c.principal(who); ok {
		c.principals.add(key, at)
	}
	if key, ok := c.address(address); ok {
		c.addresses.add(key, at)
	}
}

// Denied implements policy.Tally.
func (c *Counts) Denied(who *policy.Principal, address netip.Addr, now time.Time) (d policy.Denials) {
	at := c.step(now)
	var key uint64
	if key, d.Principal.Known = c.principal(who); d.Principal.Known {
		d.Principal.Number = c.principals.of(key, at)
	}
	if key, d.Address.Known = c.address(address); d.Address.Known {
		d.Address.Number = c.addresses.of(key, at)
	}
	return d
}

// step numbers the steps of time from a window after zero on. Where both times have it,
// it goes by the monotonic clock.
func (c *Counts) step(now time.Time) uint32 {
	return steps + uint32(max(now.Sub(c.began), 0)/Step) //nolint:gosec // durations are 292 years at most
}

// name is what principals are told apart by. Who vouches belongs to it: two providers
// that claim one issuer cannot speak for each other's people.
type name struct {
	kind                      policy.Kind
	issuer, provider, key, id string
}

func (c *Counts) principal(p *policy.Principal) (uint64, bool) {
	if p == nil || p.Kind == policy.Anonymous {
		return 0, false
	}
	n := name{kind: p.Kind, issuer: p.Issuer, provider: p.Provider, id: p.ID}
	if p.Kind == policy.Key {
		n.key = p.KeyName
	}
	return maphash.Comparable(c.seed, n), true
}

// translated are IPv4 addresses that are written as IPv6.
var translated = netip.MustParsePrefix("64:ff9b::/96")

// address takes the networks of 64 bits that one client has as one.
func (c *Counts) address(a netip.Addr) (uint64, bool) {
	if !a.IsValid() {
		return 0, false
	}
	a = a.Unmap().WithZone("")
	b := a.As16()
	if a.Is6() && !translated.Contains(a) {
		clear(b[8:])
	}
	return maphash.Bytes(c.seed, b[:]), true
}
