package registry

import (
	"time"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/storage"
)

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

// Held returns what the registry has of a proxy itself, which is not to be changed.
func Held(r *Registry, id storage.ProxyID) *adminv1.Proxy { return r.entry(id).proxy }
