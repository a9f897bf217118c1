package dataplane

import (
	"errors"
	"fmt"
	"time"

	"github.com/sallyport/sallyport/dataplane/overload"
)

// maxDelayMS bounds for how long what is ready may wait.
const maxDelayMS = 10_000

// Overload says when requests are refused because this process has more to do than it
// can.
type Overload struct {
	// Disabled has none be refused for that.
	Disabled bool `json:"disabled"`
	// DelayMS is for how many milliseconds what is ready to be worked on may wait for a
	// processor before some are refused; 100 when 0.
	DelayMS int `json:"delay_ms"`
}

func (o Overload) validate(report func(field string, err error)) {
	switch {
	case o.DelayMS < 0 || o.DelayMS > maxDelayMS:
		report("overload.delay_ms", fmt.Errorf("is from 1 to %d, or 0 for 100", maxDelayMS))
	case o.Disabled && o.DelayMS > 0:
		report("overload.disabled", errors.New("is given with delay_ms"))
	}
}

// openOverload builds what guards against overload, unless that is off.
func (p *Proxy) openOverload() (err error) {
	o := p.settings.Overload
	if o.Disabled {
		return nil
	}
	p.overload, err = overload.New(overload.Config{Target: time.Duration(o.DelayMS) * time.Millisecond, Log: p.log, Registerer: p.metrics})
	return err
}
