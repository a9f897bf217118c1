package etcd

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/snapshot"
	distributionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/distribution/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

const (
	// readEvery is how often everything is read linearizably beside the watch: a
	// watch beyond a restored etcd hangs without an error.
	readEvery = 5 * time.Second
	// Bounds of the wait before etcd is followed again.
	shortestWait = 50 * time.Millisecond
	longestWait  = 2 * time.Second
	// healthyAfter is how long following lasts that makes the wait short again.
	healthyAfter = 10 * time.Second
)

// Feed follows what is published. It holds the newest value of each head and
// freshness statement that it has seen, unverified. It is safe for concurrent
// use.
type Feed struct {
	store     *Store
	log       *slog.Logger
	readEvery time.Duration
	changed   chan struct{}

	// seen belongs to Run: the digest of each value that was taken or left,
	// by key, so that neither is done twice.
	seen map[string][sha256.Size]byte

	mu        sync.Mutex
	heads     map[string]*distributionv1.PublishedHead
	freshness map[string]*proxyv1.SignedFreshness
	keySets   map[snapshot.Generation]*proxyv1.SignedKeySet
	roster    roster

	unreadable atomic.Int64
}

// Unreadable returns how many values were found that are no message at all.
func (f *Feed) Unreadable() int64 { return f.unreadable.Load() }

// NewFeed returns a feed of the store. Run fills it.
func NewFeed(s *Store) *Feed {
	return &Feed{
		store:     s,
		log:       s.log,
		readEvery: readEvery,
		changed:   make(chan struct{}, 1),
		seen:      map[string][sha256.Size]byte{},
		heads:     map[string]*distributionv1.PublishedHead{},
		freshness: map[string]*proxyv1.SignedFreshness{},
		keySets:   map[snapshot.Generation]*proxyv1.SignedKeySet{},
		roster:    roster{changed: make(chan struct{}, 1)},
	}
}

// Changed receives after something was published. It is for one receiver, and
// carries no data.
func (f *Feed) Changed() <-chan struct{} { return f.changed }

// Heads returns the newest published heads by environment; the same pointer as
// before where nothing was published since. Absence is not deletion, and
// nothing is told of it: a head that is deleted from etcd is not listed any
// more after a while.
func (f *Feed) Heads() map[string]*distributionv1.PublishedHead {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.heads)
}

// Freshness returns the newest freshness statements by environment, in the
// manner of Heads.
func (f *Feed) Freshness() map[string]*proxyv1.SignedFreshness {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.freshness)
}

// KeySets returns the published key sets by ascending generation, in the manner of
// Heads. Whoever asks for heads first finds here what they are signed with, if it
// was published before them.
func (f *Feed) KeySets() []*proxyv1.SignedKeySet {
	f.mu.Lock()
	defer f.mu.Unlock()
	sets := make([]*proxyv1.SignedKeySet, 0, len(f.keySets))
	for _, g := range slices.Sorted(maps.Keys(f.keySets)) {
		sets = append(sets, f.keySets[g])
	}
	return sets
}

// Run follows etcd until ctx ends, and outlives every failure of etcd.
func (f *Feed) Run(ctx context.Context) error {
	wait := shortestWait
	for ctx.Err() == nil {
		began := time.Now()
		err := f.follow(ctx)
		if ctx.Err() != nil {
			break
		}
		f.log.WarnContext(ctx, "watch of etcd ended", "err", err)
		if wait = min(2*wait, longestWait); time.Since(began) > healthyAfter {
			wait = shortestWait
		}
		select {
		case <-ctx.Done():
		case <-time.After(rand.N(wait)): //nolint:gosec // jitter
		}
	}
	return nil
}

// follow reads everything, then watches from that revision on, reading again
// every few seconds. It ends with the first error.
func (f *Feed) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	revision, err := f.read(ctx)
	if err != nil {
		return err
	}
	watch := f.store.client.Watch(clientv3.WithRequireLeader(ctx), f.store.environmentsKey(),
		clientv3.WithPrefix(), clientv3.WithRev(revision+1))
	again := time.NewTicker(f.readEvery)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case r, ok := <-watch:
			if err := r.Err(); err != nil || !ok {
				return fmt.Errorf("watch closed: %w", err)
			}
			for _, e := range r.Events {
				// What was read since is as new, or newer.
				if e.Type == mvccpb.Event_PUT && e.Kv.ModRevision > revision {
					f.take(e.Kv)
				}
			}
		case <-again.C:
			now, err := f.read(ctx)
			if err != nil {
				return err
			}
			if now < revision {
				return fmt.Errorf("etcd went back from revision %d to %d", revision, now)
			}
			revision = now
		}
	}
}

// read reads everything, linearizably, forgets what is not there any more, and
// returns etcd's revision.
func (f *Feed) read(ctx context.Context) (int64, error) {
	there := map[string]bool{}
	revision, err := f.store.scan(ctx, f.store.environmentsKey(), func(kv *mvccpb.KeyValue) {
		there[string(kv.Key)] = true
		f.take(kv)
	})
	if err != nil {
		return 0, fmt.Errorf("read heads: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for key := range f.seen {
		if there[key] {
			continue
		}
		delete(f.seen, key)
		if g, ok := f.store.parseKeySetKey([]byte(key)); ok {
			delete(f.keySets, g)
			continue
		}
		switch environment, name, _ := f.store.parseKey([]byte(key)); name {
		case headName:
			delete(f.heads, environment)
		case freshnessName:
			delete(f.freshness, environment)
		}
	}
	return revision, nil
}

// take keeps a value of a key that it knows, if it can be parsed and is another
// one than before.
func (f *Feed) take(kv *mvccpb.KeyValue) {
	environment, name, known := f.store.parseKey(kv.Key)
	generation, isKeySet := f.store.parseKeySetKey(kv.Key)
	isRoster := f.store.isRoster(kv.Key)
	digest := sha256.Sum256(kv.Value)
	if !known && !isKeySet && !isRoster || f.seen[string(kv.Key)] == digest {
		return
	}
	f.seen[string(kv.Key)] = digest
	var err error
	changed := f.changed
	switch {
	case isRoster:
		environment, changed, err = rosterEnvironment, f.roster.changed, f.takeRoster(kv)
	case isKeySet:
		environment, err = keysEnvironment, f.takeKeySet(generation, kv.Value)
	case name == headName:
		err = f.takeHead(environment, kv.Value)
	case name == freshnessName:
		err = f.takeFreshness(environment, kv.Value)
	}
	if err != nil {
		f.unreadable.Add(1)
		f.log.Error("value in etcd could not be read", "environment", environment, "err", err)
		return
	}
	select {
	case changed <- struct{}{}:
	default:
	}
}

func (f *Feed) takeHead(environment string, value []byte) error {
	head, err := parseHead(value)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.heads[environment] = head
	return nil
}

func (f *Feed) takeFreshness(environment string, value []byte) error {
	if len(value) > maxStatement {
		return fmt.Errorf("freshness statement of %d bytes", len(value))
	}
	var s proxyv1.SignedFreshness
	if err := proto.Unmarshal(value, &s); err != nil {
		return fmt.Errorf("parse freshness statement: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.freshness[environment] = &s
	return nil
}

func (f *Feed) takeKeySet(g snapshot.Generation, value []byte) error {
	set, err := parseKeySet(value)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keySets[g] = set
	return nil
}
