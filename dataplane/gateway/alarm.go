package gateway

import (
	"sync"
	"time"

	"github.com/sallyport/sallyport/dataplane/life"
)

// alarms holds *alarm: to set one again costs less than to make one. It is safe for
// concurrent use.
type alarms struct{ pool sync.Pool }

// alarm ends what takes too long. It belongs to who has set it, until stop.
type alarm struct {
	timer *time.Timer
	life  *life.Life
}

// set has l end because of errTimeout in d, unless the alarm is stopped before.
func (p *alarms) set(l *life.Life, d time.Duration) *alarm {
	a, ok := p.pool.Get().(*alarm)
	if !ok {
		a = &alarm{life: l}
		a.timer = time.AfterFunc(d, a.ring)
		return a
	}
	a.life = l
	a.timer.Reset(d)
	return a
}

func (a *alarm) ring() { a.life.End(errTimeout) }

// stop takes an alarm back. One that rings, or has, is not set again: it may still be
// looking for whom it is for.
func (p *alarms) stop(a *alarm) {
	if a.timer.Stop() {
		a.life = nil
		p.pool.Put(a)
	}
}

// stopAlarm may be called again.
func (x *exchange) stopAlarm() {
	if x.alarm != nil {
		x.gateway.alarms.stop(x.alarm)
		x.alarm = nil
	}
}
