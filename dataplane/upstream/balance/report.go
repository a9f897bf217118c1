package balance

import "time"

// Succeeded tells that an endpoint has answered a request as one that works.
func (b *Balancer) Succeeded(e *Endpoint) {
	if e.failures.Load() != 0 {
		e.failures.Store(0)
	}
	if e.avoided.Load() != 0 {
		b.change(func(int64) bool { return e.avoided.Swap(0) != 0 })
	}
}

// Failed tells that an endpoint has not answered a request, or as one that does not
// work, and returns whether it is ejected for that.
func (b *Balancer) Failed(e *Endpoint) (ejected bool) {
	after := int64(b.config.Ejection.After)
	if after == 0 || e.failures.Add(1) < after {
		return false
	}
	b.change(func(now int64) bool {
		ejected = b.eject(e, now)
		return ejected
	})
	return ejected
}

// Unconnected tells that an endpoint could not be connected to, which is a failure as
// well.
func (b *Balancer) Unconnected(e *Endpoint) (ejected bool) {
	ejected = b.Failed(e)
	if avoid := b.config.Ejection.Avoid; avoid > 0 {
		b.change(func(now int64) bool {
			return e.avoided.Swap(now+int64(avoid)) <= now
		})
	}
	return ejected
}

// SetHealthy tells what a check of an endpoint has found. It is healthy at first.
func (b *Balancer) SetHealthy(e *Endpoint, healthy bool) {
	if e.unhealthy.Load() == healthy {
		b.change(func(int64) bool { return e.unhealthy.Swap(!healthy) == healthy })
	}
}

// change has something of endpoints change, and a view made of it if it has.
func (b *Balancer) change(it func(now int64) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if it(b.config.Now().UnixNano()) {
		b.renew(b.view.Load().all)
	}
}

// eject passes e over, unless it is already, or too many are. mu is held.
func (b *Balancer) eject(e *Endpoint, now int64) bool {
	if e.ejected.Load() > now {
		e.failures.Store(0) // of requests that had begun before
		return false
	}
	limits, all := &b.config.Ejection, b.view.Load().all
	count := 1
	for _, other := range all {
		if other.ejected.Load() > now {
			count++
		}
	}
	if count*100 > limits.Percent*len(all) {
		return false
	}
	if time.Duration(now-e.ejected.Load()) > limits.Most {
		e.ejections = 0
	}
	e.ejections++
	e.failures.Store(0)
	e.ejected.Store(now + int64(min(limits.Most, limits.Time*time.Duration(e.ejections))))
	return true
}
