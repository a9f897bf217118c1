package policy

import "time"

// Ages are for how long the control plane has not confirmed what a decision is made
// by. The zero value is of a proxy that it has confirmed nothing to.
type Ages struct{ Configuration, Security Age }

// Age is a time that may not be known. The zero value is not.
type Age struct {
	Is    time.Duration
	Known bool
}

// age is one of the ages, which is unknown when it is not known.
func age(read func(*Ages) Age) field {
	return span(func(f *facts) (time.Duration, bool) {
		a := read(&f.Ages)
		return a.Is, a.Known
	})
}
