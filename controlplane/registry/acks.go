package registry

import (
	"slices"

	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
)

// acks are what a process has acknowledged last of each lane. They need the
// registry's mutex; what they point to is not changed.
type acks struct{ policy, security *proxyv1.Ack }

// newAcks returns nil unless acks are kept.
func (r *Registry) newAcks() *acks {
	if !r.keeps {
		return nil
	}
	return &acks{}
}

// keepAck keeps an ack in place of the one before.
func (s *Session) keepAck(lane string, ack *proxyv1.Ack) {
	s.registry.mu.Lock()
	defer s.registry.mu.Unlock()
	e := s.registry.local[s.id]
	if e == nil || e.session != s || e.acks == nil {
		return
	}
	if lane == securityLane {
		e.acks.security = ack
		return
	}
	e.acks.policy = ack
}

// Acks returns what a process has acknowledged last on its last stream here, of its
// environment and of the security lane, as it was said; nil for nothing, and without
// Config.KeepAcks.
func (r *Registry) Acks(id storage.ProxyID) (policy, security *proxyv1.Ack) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.local[id]
	if e == nil || e.acks == nil {
		return nil, nil
	}
	return e.acks.policy, e.acks.security
}

// Binding returns what binds the keys of a process to its SVID, as it gave it when it
// registered here last; nil if it did not, and without Config.KeepAcks.
func (r *Registry) Binding(id storage.ProxyID) *proxyv1.KeyBinding {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.given[id].binding
}

// maxLocal bounds the processes that are known here while they cannot be saved.
const maxLocal = 20_000

// shed drops, of more processes than are to be known here, those without a stream that
// nobody has heard of for the longest, saved or not. It returns how many.
func (r *Registry) shed() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	over := len(r.local) - r.maxLocal
	if over <= 0 {
		return 0
	}
	var silent []storage.ProxyID
	for id, e := range r.local {
		if e.session == nil {
			silent = append(silent, id)
		}
	}
	slices.SortFunc(silent, func(a, b storage.ProxyID) int {
		return r.local[a].proxy.GetLastSeenAt().AsTime().Compare(r.local[b].proxy.GetLastSeenAt().AsTime())
	})
	silent = silent[:min(over, len(silent))]
	for _, id := range silent {
		r.drop(id)
	}
	return len(silent)
}

// drop forgets here what is known of a process. It needs the mutex.
func (r *Registry) drop(id storage.ProxyID) {
	name := r.local[id].proxy.GetSpiffeId()
	delete(r.local, id)
	delete(r.given, id)
	if r.instances[name]--; r.instances[name] == 0 {
		delete(r.instances, name)
	}
}
