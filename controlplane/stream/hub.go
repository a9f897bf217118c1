// Package stream keeps proxies current: it follows what is published in etcd
// and pushes it to each proxy over one long-lived stream.
package stream

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/snapshot"
	distributionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/distribution/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

const (
	// recentSnapshots is how many snapshots of an environment are remembered,
	// so that a proxy that was away for a while gets a delta.
	recentSnapshots = 32
	// retryLoad is when a head whose chunks were not whole is tried again.
	retryLoad = 200 * time.Millisecond
)

// Feed tells what is published. Nothing of it is verified.
type Feed interface {
	// Changed receives after something changed.
	Changed() <-chan struct{}
	Heads() map[string]*distributionv1.PublishedHead
	Freshness() map[string]*proxyv1.SignedFreshness
}

// Loader reads the snapshot of a published head and verifies it.
type Loader interface {
	Load(ctx context.Context, v *snapshot.Verifier, base *snapshot.Set, published *distributionv1.PublishedHead) (*snapshot.Snapshot, error)
}

// Hub holds the newest verified snapshot of every environment. It is safe for
// concurrent use.
type Hub struct {
	feed     Feed
	loader   Loader
	verifier *snapshot.Verifier
	log      *slog.Logger

	mu           sync.Mutex
	environments map[string]*environment
}

// environment belongs to the Hub's mutex. The snapshots are immutable.
type environment struct {
	recent    []*snapshot.Snapshot // the newest last
	freshness *proxyv1.SignedFreshness
	confirmed time.Time // when freshness was issued
	changed   chan struct{}
	refused   snapshot.Digest // the head that was refused last, to say so once
	deltas    map[snapshot.Digest][]*proxyv1.Update
}

// NewHub returns a hub that is empty until Run fills it.
func NewHub(feed Feed, loader Loader, v *snapshot.Verifier, log *slog.Logger) *Hub {
	return &Hub{feed: feed, loader: loader, verifier: v, log: log, environments: map[string]*environment{}}
}

// State is what a proxy of an environment should have.
type State struct {
	Snapshot  *snapshot.Snapshot // nil while there is none
	Freshness *proxyv1.SignedFreshness
	// Changed is closed when there is a newer state.
	Changed <-chan struct{}
}

// State returns the newest state of an environment.
func (h *Hub) State(name string) State {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.environment(name)
	return State{Snapshot: e.newest(), Freshness: e.freshness, Changed: e.changed}
}

// Find returns the snapshot of a head that was pushed not long ago; nil if it
// is not remembered.
func (h *Hub) Find(name string, head snapshot.Digest) *snapshot.Snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.environment(name).recent {
		if s.Head().Digest() == head {
			return s
		}
	}
	return nil
}

// Updates returns what turns base (nil: nothing) into next. Proxies that need
// the same share it; it is not to be changed.
func (h *Hub) Updates(base, next *snapshot.Snapshot) []*proxyv1.Update {
	name, from := next.Head().Environment, base.Head().Digest()
	h.mu.Lock()
	e := h.environment(name)
	cached, ok := e.deltas[from]
	isNewest := e.newest() == next
	h.mu.Unlock()
	if ok && isNewest {
		return cached
	}
	var updates []*proxyv1.Update
	for u := range snapshot.Updates(base, next) {
		updates = append(updates, u)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if e.newest() == next {
		e.deltas[from] = updates
	}
	return updates
}

// environment needs the mutex.
func (h *Hub) environment(name string) *environment {
	e := h.environments[name]
	if e == nil {
		e = &environment{changed: make(chan struct{}), deltas: map[snapshot.Digest][]*proxyv1.Update{}}
		h.environments[name] = e
	}
	return e
}

func (e *environment) newest() *snapshot.Snapshot {
	if len(e.recent) == 0 {
		return nil
	}
	return e.recent[len(e.recent)-1]
}

// Run follows the feed until ctx ends.
func (h *Hub) Run(ctx context.Context) error {
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.feed.Changed():
		case <-retry.C:
		}
		if !h.follow(ctx) {
			retry.Reset(retryLoad)
		}
	}
}

// follow takes what the feed has; whole is false if some of it has to be tried
// again.
func (h *Hub) follow(ctx context.Context) (whole bool) {
	whole = true
	for name, published := range h.feed.Heads() {
		if err := h.takeHead(ctx, name, published); err != nil {
			whole = false
		}
	}
	for name, f := range h.feed.Freshness() {
		h.takeFreshness(ctx, name, f)
	}
	return whole
}

// takeHead makes the published snapshot the newest, if it is verified, belongs
// to the environment and is newer. Else what was there stays; the error says
// that trying again may help.
func (h *Hub) takeHead(ctx context.Context, name string, published *distributionv1.PublishedHead) error {
	h.mu.Lock()
	e := h.environment(name)
	current := e.newest()
	h.mu.Unlock()

	head, err := h.verifier.VerifyHead(published.GetHead())
	switch {
	case err != nil:
		h.refuse(ctx, e, name, snapshot.DocumentDigest(published.GetHead().GetHead()), err)
		return nil
	case head.Digest() == current.Head().Digest():
		return nil
	case head.Environment != name:
		h.refuse(ctx, e, name, head.Digest(), errors.New("it is of environment "+head.Environment))
		return nil
	case !head.NewerThan(current.Head()):
		h.refuse(ctx, e, name, head.Digest(), errors.New("it is not newer than what is served"))
		return nil
	}
	next, err := h.loader.Load(ctx, h.verifier, current.Set(), published)
	if err != nil {
		h.log.WarnContext(ctx, "snapshot could not be loaded", "environment", name, "revision", head.Revision, "err", err)
		return err
	}
	h.put(e, next)
	h.log.InfoContext(ctx, "snapshot loaded", "environment", name, "revision", head.Revision, "root", head.Root.Short())
	return nil
}

// refuse says once of each head why it is not taken.
func (h *Hub) refuse(ctx context.Context, e *environment, name string, head snapshot.Digest, why error) {
	h.mu.Lock()
	known := e.refused == head
	e.refused = head
	h.mu.Unlock()
	if !known {
		h.log.ErrorContext(ctx, "head in etcd was refused", "environment", name, "err", why)
	}
}

func (h *Hub) put(e *environment, next *snapshot.Snapshot) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(e.recent) == recentSnapshots {
		e.recent = append(e.recent[:0:0], e.recent[1:]...)
	}
	e.recent = append(e.recent, next)
	clear(e.deltas)
	e.broadcast()
}

func (h *Hub) takeFreshness(ctx context.Context, name string, signed *proxyv1.SignedFreshness) {
	f, err := h.verifier.VerifyFreshness(signed)
	if err != nil || f.Environment != name {
		h.log.ErrorContext(ctx, "freshness in etcd was refused", "environment", name, "err", err)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.environment(name)
	if !f.IssuedAt.After(e.confirmed) {
		return
	}
	e.freshness, e.confirmed = signed, f.IssuedAt
	e.broadcast()
}

// broadcast needs the Hub's mutex.
func (e *environment) broadcast() {
	close(e.changed)
	e.changed = make(chan struct{})
}
