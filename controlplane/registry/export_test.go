package registry

import "time"

// Known returns how many proxies are in memory.
func (r *Registry) Known() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.local)
}

// ForgetEvery sets how often long lost proxies are looked for, before ForgetLost.
func (r *Registry) ForgetEvery(d time.Duration) { r.lost.every = d }

// Bound sets how many processes may be known while they cannot be saved.
func (r *Registry) Bound(n int) { r.maxLocal = n }

// Shed is shed.
func (r *Registry) Shed() int { return r.shed() }
