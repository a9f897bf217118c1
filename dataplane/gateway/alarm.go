package gateway

import (
	"sync"
	"time"

	"github.com/sallyport/sallyport/dataplane/life"
)

// alarms holds *alarm: to set one again costs less than to make one. It is safe for
// concurrent use.
type alarms struct{ pool sync.Pool }

// alarm ends what takes too long. It belongs to who has set it, until stop. Its timer is
// left alone as long as it fires early enough, because moving it costs: it sees then
// whether there is anything to end.
type alarm struct {
	timer *time.Timer

	mu   sync.Mutex
	life *life.Life // nil for nobody's
	due  time.Time  // when that ends
	next time.Time  // when the timer fires; zero when it does not
}

// set has l end because of errTimeout in d, unless the alarm is stopped before.
func (p *alarms) set(l *life.Life, d time.Duration) *alarm {
	a, ok := p.pool.Get().(*alarm)
	if !ok {
		a = &alarm{}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.life, a.due = l, time.Now().Add(d)
	if a.next.IsZero() || a.due.Before(a.next) {
		a.wind(d)
	}
	return a
}

// wind has the timer fire in d, when a is due. mu is held.
func (a *alarm) wind(d time.Duration) {
	a.next = a.due
	if a.timer == nil {
		a.timer = time.AfterFunc(d, a.ring)
		return
	}
	a.timer.Reset(d)
}

func (a *alarm) ring() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.next = time.Time{}
	if a.life == nil {
		return
	}
	if left := time.Until(a.due); left > 0 {
		a.wind(left)
		return
	}
	a.life.End(errTimeout)
	a.life = nil
}

// stop takes an alarm back, which knows nobody any more when it has returned.
func (p *alarms) stop(a *alarm) {
	a.mu.Lock()
	a.life = nil
	a.mu.Unlock()
	p.pool.Put(a)
}

// stopAlarm may be called again.
func (x *exchange) stopAlarm() {
	if x.alarm != nil {
		x.gateway.alarms.stop(x.alarm)
		x.alarm = nil
	}
}
