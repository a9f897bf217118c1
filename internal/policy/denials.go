package policy

import (
	"net/netip"
	"time"
)

// Tally knows how often requests were denied lately. It is safe for concurrent use.
type Tally interface {
	// Denied returns how often requests of a principal, which may be nil, and from an
	// address, which may be invalid, were denied by a time. Asked need not be set.
	Denied(who *Principal, address netip.Addr, now time.Time) Denials
}

// Denials is how often requests were denied lately. The zero value is of a request
// of which nobody asked.
type Denials struct {
	Asked              bool
	Principal, Address Count
}

// Count is a number that may not be known. The zero value is not.
type Count struct {
	Number int64
	Known  bool
}

// Denied implements Tally: it returns d, which is how a decision is made again from
// its record.
func (d *Denials) Denied(*Principal, netip.Addr, time.Time) Denials { return *d }

// Denied returns what was counted, the zero Denials if no condition has asked so far.
func (in *Input) Denied() Denials { return in.denied }

// counted asks how often there were denials, the first time.
func (f *facts) counted() *Denials {
	if !f.denied.Asked && f.Denials != nil {
		f.denied = f.Denials.Denied(f.Principal, plainAddress(f.ClientIP), f.Now)
		f.denied.Asked = true
	}
	return &f.denied
}

// denials are the fields of signals.denials.
func denials() fields {
	count := func(read func(*Denials) Count) field {
		return whole(func(f *facts) (int64, bool) {
			c := read(f.counted())
			return c.Number, c.Known
		})
	}
	return fields{
		"principal": count(func(d *Denials) Count { return d.Principal }),
		"address":   count(func(d *Denials) Count { return d.Address }),
	}
}
