package policy

import (
	"net/netip"
	"time"
)

// Locator knows where addresses are. It is safe for concurrent use.
type Locator interface {
	// Locate returns what is known at a time of an address, which may be invalid.
	// It never returns nil, and nobody changes what it returns.
	Locate(address netip.Addr, now time.Time) *Place
}

// Place is what databases say of an address. What is zero is not known.
type Place struct {
	Country, Continent string // two capital letters
	City               string // in English

	ASN          int64 // of the network that announces the address
	Organization string

	Anonymity *Anonymity

	// Databases are those that were asked, whether or not they had an answer.
	Databases []Database
}

// Anonymity is how an address hides who uses it.
type Anonymity struct{ Any, VPN, Hosting, Tor, Proxy bool }

// Database names one state of a database.
type Database struct {
	Type  string // as in "GeoLite2-City"
	Built time.Time
}

// Locate implements Locator: it returns p, which is how a decision is made again
// from its record.
func (p *Place) Locate(netip.Addr, time.Time) *Place { return p }

// Built returns when the oldest of the databases was built, zero if there is none.
func (p *Place) Built() (oldest time.Time) {
	for _, d := range p.Databases {
		if oldest.IsZero() || d.Built.Before(oldest) {
			oldest = d.Built
		}
	}
	return oldest
}

// Place returns what was found of the client's address, nil if no condition has
// asked so far.
func (in *Input) Place() *Place { return in.place }

var nowhere = &Place{}

// located asks where the client is, the first time.
func (f *facts) located() *Place {
	if f.place == nil {
		if f.Geo == nil {
			return nowhere
		}
		f.place = f.Geo.Locate(plainAddress(f.ClientIP), f.Now)
	}
	return f.place
}

// geo are the fields of signals.geo.
func geo() fields {
	known := func(read func(*Place) string) field {
		return knownText(func(f *facts) (string, bool) {
			v := read(f.located())
			return v, v != ""
		})
	}
	hides := func(read func(*Anonymity) bool) field {
		return flag(func(f *facts) (bool, bool) {
			a := f.located().Anonymity
			return a != nil && read(a), a != nil
		})
	}
	return fields{
		"country":         known(func(p *Place) string { return p.Country }),
		"continent":       known(func(p *Place) string { return p.Continent }),
		"city":            known(func(p *Place) string { return p.City }),
		"as_organization": known(func(p *Place) string { return p.Organization }),
		"asn":             whole(func(f *facts) (int64, bool) { n := f.located().ASN; return n, n != 0 }),
		"anonymous":       hides(func(a *Anonymity) bool { return a.Any }),
		"vpn":             hides(func(a *Anonymity) bool { return a.VPN }),
		"hosting":         hides(func(a *Anonymity) bool { return a.Hosting }),
		"tor":             hides(func(a *Anonymity) bool { return a.Tor }),
		"proxy":           hides(func(a *Anonymity) bool { return a.Proxy }),
		"age":             span((*facts).geoAge),
	}
}

// geoAge is zero where clocks differ.
func (f *facts) geoAge() (time.Duration, bool) {
	built := f.located().Built()
	return max(f.Now.Sub(built), 0), !built.IsZero() && !f.Now.IsZero()
}
