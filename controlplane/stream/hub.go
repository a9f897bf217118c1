// Package stream keeps proxies current: it follows what is published in etcd
// and pushes it to each proxy over one long-lived stream.
package stream

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
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
	// recentBytes bounds, of an environment, what they take in memory beside the newest.
	recentBytes = 64 << 20
	// Bounds of the wait before a head whose chunks were not whole is tried
	// again.
	shortestRetry = 100 * time.Millisecond
	longestRetry  = 5 * time.Second
	// maxSkew is how far ahead of our clock that of the publisher may be.
	maxSkew = 2 * time.Minute
)

// Feed tells what is published. Nothing of it is verified.
type Feed interface {
	// Changed receives after something changed.
	Changed() <-chan struct{}
	// Heads and Freshness return the same pointer for the same value.
	Heads() map[string]*distributionv1.PublishedHead
	Freshness() map[string]*proxyv1.SignedFreshness
	// KeySets are by ascending generation. Those that were published before a head
	// are there when that is.
	KeySets() []*proxyv1.SignedKeySet
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

	// heads and freshness belong to Run: what the feed had, by environment, when
	// it was last looked at.
	heads     map[string]seenHead
	freshness map[string]*proxyv1.SignedFreshness
	// generation is that of the newest key set when it last looked, and doubted why
	// one was refused then.
	generation snapshot.Generation
	doubted    string

	recentBytes int
	refused     Refusals

	mu           sync.Mutex
	environments map[string]*environment
}

// seenHead is a head that the feed had.
type seenHead struct {
	published *distributionv1.PublishedHead
	settled   bool // taken, or refused for good
}

// environment belongs to the Hub's mutex. The snapshots are immutable.
type environment struct {
	recent    []*snapshot.Snapshot // the newest last
	freshness *proxyv1.SignedFreshness
	confirms  func() (frame, error) // the same as it is sent; nil for none
	confirmed time.Time             // when freshness was issued
	changed   chan struct{}
	deltas    map[snapshot.Digest]func() []Part // to the newest, by the head that they start from
}

// NewHub returns a hub that is empty until Run fills it.
func NewHub(feed Feed, loader Loader, v *snapshot.Verifier, log *slog.Logger) *Hub {
	return &Hub{
		feed: feed, loader: loader, verifier: v, log: log,
		heads:        map[string]seenHead{},
		freshness:    map[string]*proxyv1.SignedFreshness{},
		environments: map[string]*environment{},
		recentBytes:  recentBytes,
	}
}

// State is what a proxy of an environment should have.
type State struct {
	Snapshot  *snapshot.Snapshot // nil while there is none
	Freshness *proxyv1.SignedFreshness
	// Changed is closed when there is a newer state.
	Changed <-chan struct{}

	confirms func() (frame, error) // Freshness as it is sent; nil for none
}

// State returns the newest state of an environment.
func (h *Hub) State(name string) State {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.environment(name)
	return State{Snapshot: e.newest(), Freshness: e.freshness, Changed: e.changed, confirms: e.confirms}
}

// Environments returns the names of those of which there is a snapshot, the security
// lane among them.
func (h *Hub) Environments() (names []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, e := range h.environments {
		if e.newest() != nil {
			names = append(names, name)
		}
	}
	return names
}

// Find returns the snapshot of a head that was the newest not long ago; nil if
// it is not remembered.
func (h *Hub) Find(name string, head snapshot.Digest) *snapshot.Snapshot {
	return h.find(name, func(s *snapshot.Snapshot) bool { return s.Head().Digest() == head })
}

// At returns the snapshot at a place in history, if it is remembered: whatever
// else a proxy has there is not what was signed.
func (h *Hub) At(name string, at snapshot.Position) *snapshot.Snapshot {
	return h.find(name, func(s *snapshot.Snapshot) bool { return s.Head().Position() == at })
}

func (h *Hub) find(name string, is func(*snapshot.Snapshot) bool) *snapshot.Snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.environment(name).recent {
		if is(s) {
			return s
		}
	}
	return nil
}

// Part is one of the messages that turn a snapshot into a later one. Proxies that need
// the same share it; it is encoded, and compressed, for the first of them.
type Part struct {
	Update *proxyv1.Update

	plain, packed func() (frame, error)
}

func parts(base, next *snapshot.Snapshot) (all []Part) {
	for u := range snapshot.Updates(base, next) {
		all = append(all, newPart(next.Head().Environment, u))
	}
	return all
}

func newPart(environment string, u *proxyv1.Update) Part {
	plain := sync.OnceValues(func() (frame, error) { return updateFrame(environment, u) })
	return Part{Update: u, plain: plain, packed: sync.OnceValues(func() (frame, error) {
		f, err := plain()
		if err != nil {
			return frame{}, err
		}
		return f.pack()
	})}
}

// Updates returns what turns base (nil: nothing) into next. Proxies that need
// the same share it; it is not to be changed.
func (h *Hub) Updates(base, next *snapshot.Snapshot) []Part {
	updates := sync.OnceValue(func() []Part { return parts(base, next) })
	h.mu.Lock()
	if e := h.environment(next.Head().Environment); e.newest() == next {
		from := base.Head().Digest()
		if e.deltas[from] == nil {
			e.deltas[from] = updates
		}
		updates = e.deltas[from]
	}
	h.mu.Unlock()
	return updates()
}

// environment needs the mutex.
func (h *Hub) environment(name string) *environment {
	e := h.environments[name]
	if e == nil {
		e = &environment{changed: make(chan struct{}), deltas: map[snapshot.Digest]func() []Part{}}
		h.environments[name] = e
	}
	return e
}

// remember makes next the newest, and forgets the oldest where there are too many, or
// where they take too much memory: large changes share little.
func (e *environment) remember(next *snapshot.Snapshot, within int) {
	e.recent = append(e.recent, next)
	taken, oldest := 0, len(e.recent)-1
	for oldest > 0 && len(e.recent)-oldest < recentSnapshots {
		taken += e.recent[oldest-1].Set().Apart(e.recent[oldest].Set())
		if taken > within {
			break
		}
		oldest--
	}
	e.recent = slices.Delete(e.recent, 0, oldest)
}

func (e *environment) newest() *snapshot.Snapshot {
	if len(e.recent) == 0 {
		return nil
	}
	return e.recent[len(e.recent)-1]
}

// Run follows the feed until ctx ends.
func (h *Hub) Run(ctx context.Context) error {
	retry, wait := time.NewTimer(0), shortestRetry
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.feed.Changed():
			wait = shortestRetry
		case <-retry.C:
			wait = min(2*wait, longestRetry)
		}
		if !h.follow(ctx) {
			retry.Reset(wait)
		}
	}
}

// follow takes what the feed has; whole is false if some of it has to be tried
// again.
func (h *Hub) follow(ctx context.Context) (whole bool) {
	whole = true
	published, freshness := h.feed.Heads(), h.feed.Freshness()
	h.takeKeySets(ctx, h.feed.KeySets()) // asked for last, taken first: see Feed
	heads := map[string]seenHead{}
	for name, published := range published {
		seen := h.heads[name]
		if seen.published != published || !seen.settled {
			first := seen.published != published
			seen = seenHead{published, h.takeHead(ctx, name, published, first)}
		}
		heads[name] = seen
		whole = whole && seen.settled
	}
	for name, f := range freshness {
		if h.freshness[name] != f {
			h.takeFreshness(ctx, name, f)
		}
	}
	h.heads, h.freshness = heads, freshness // what is gone from etcd is forgotten, not taken back
	return whole
}

// takeHead makes the published snapshot the newest, if it is verified, belongs
// to the environment and is newer. Else what was there stays. It reports
// whether that is settled; else trying again may help. What goes wrong is said
// the first time.
func (h *Hub) takeHead(ctx context.Context, name string, published *distributionv1.PublishedHead, first bool) (settled bool) {
	head, err := h.verifier.VerifyHead(published.GetHead())
	if err == nil && head.Environment != name {
		err = fmt.Errorf("it is of environment %s", head.Environment)
	}
	if err != nil {
		h.refused.Heads.Add(1)
		h.log.ErrorContext(ctx, "head in etcd was refused", "environment", name, "err", err)
		return true
	}
	current := h.State(name).Snapshot
	switch {
	case head.Digest() == current.Head().Digest():
		h.resign(ctx, name, current, head)
		return true
	case !head.NewerThan(current.Head()):
		h.refused.Heads.Add(1)
		h.log.ErrorContext(ctx, "head in etcd was refused", "environment", name, "err", "it is not newer than what is served",
			"revision", head.Revision, "served", current.Head().Revision)
		return true
	}
	next, err := h.loader.Load(ctx, h.verifier, current.Set(), published)
	if err != nil {
		if first && ctx.Err() == nil {
			h.log.WarnContext(ctx, "snapshot could not be loaded yet", "environment", name, "revision", head.Revision, "err", err)
		}
		return false
	}
	h.put(name, next)
	h.log.InfoContext(ctx, "snapshot loaded", "environment", name, "revision", head.Revision, "root", head.Root.Short())
	return true
}

// takeKeySets learns which keys sign. What was refused before may be good now.
func (h *Hub) takeKeySets(ctx context.Context, sets []*proxyv1.SignedKeySet) {
	_, err := h.verifier.Extend(sets)
	switch {
	case err == nil:
		h.doubted = ""
	case h.doubted != err.Error():
		h.doubted = err.Error()
		h.refused.KeySets.Add(1)
		h.log.ErrorContext(ctx, "key set in etcd was refused", "err", err)
	}
	// The publisher of this process may have taken them from the database.
	if newest := h.verifier.Newest().Generation; newest != h.generation {
		h.log.InfoContext(ctx, "key set taken", "from", h.generation, "generation", newest)
		h.generation, h.heads = newest, map[string]seenHead{}
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, e := range h.environments {
			e.broadcast()
		}
	}
}

// KeySets returns the key sets that are known, by ascending generation. When there
// are more, every state has changed.
func (h *Hub) KeySets() []snapshot.KeySet { return h.verifier.KeySets() }

// resign has what is served carry the signature of another key, so that proxies
// that come later take it.
func (h *Hub) resign(ctx context.Context, name string, current *snapshot.Snapshot, head snapshot.Head) {
	if head.Key() == current.Head().Key() {
		return
	}
	again, err := snapshot.Assemble(head, current.Set())
	if err != nil {
		h.refused.Heads.Add(1)
		h.log.ErrorContext(ctx, "head in etcd was refused", "environment", name, "err", err)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.environment(name)
	e.recent[len(e.recent)-1] = again
	clear(e.deltas)
	e.broadcast()
}

func (h *Hub) put(name string, next *snapshot.Snapshot) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.environment(name)
	e.remember(next, h.recentBytes)
	clear(e.deltas)
	e.broadcast()
}

func (h *Hub) takeFreshness(ctx context.Context, name string, signed *proxyv1.SignedFreshness) {
	f, err := h.verifier.VerifyFreshness(signed)
	switch {
	case err != nil:
	case f.Environment != name:
		err = fmt.Errorf("it is of environment %s", f.Environment)
	case time.Until(f.IssuedAt) > maxSkew: // taken, it would keep out all that come before it
		err = fmt.Errorf("it is from the future: %s", f.IssuedAt)
	}
	if err != nil {
		h.refused.Freshness.Add(1)
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
	e.confirms = sync.OnceValues(func() (frame, error) {
		return messageFrame(&proxyv1.StreamResponse{Lane: &proxyv1.StreamResponse_Freshness{Freshness: signed}})
	})
	e.broadcast()
}

// broadcast needs the Hub's mutex.
func (e *environment) broadcast() {
	close(e.changed)
	e.changed = make(chan struct{})
}
