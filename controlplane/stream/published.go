package stream

import (
	"sync/atomic"

	"github.com/sallyport/sallyport/internal/bundle"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// Bundle returns what is published of an environment and of the security lane, with
// the key sets that lead to who signed it. It lacks what is not published, and for a
// moment what has to be signed anew as its key was retired. The name may be that of no
// environment.
func (h *Hub) Bundle(name string) (b bundle.Bundle) {
	b.Policy, b.Freshness = h.published(name)
	b.Security, b.SecurityFreshness = h.published(snapshot.SecurityLane)
	for _, set := range h.KeySets() {
		b.KeySets = append(b.KeySets, set.Signed())
	}
	return b
}

func (h *Hub) published(name string) (*snapshot.Snapshot, *proxyv1.SignedFreshness) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.environments[name]
	if e == nil || e.newest() == nil || !h.verifier.Trusts(e.newest().Head().Key()) {
		return nil, nil
	}
	return e.newest(), e.freshness
}

// Refusals count what was found in etcd that nobody may have put there, or that is not
// newer than what is served. They are safe for concurrent use.
type Refusals struct{ Heads, Freshness, KeySets atomic.Int64 }

// Refused returns the refusals of the hub, which go on.
func (h *Hub) Refused() *Refusals { return &h.refused }
