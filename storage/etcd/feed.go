package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	distributionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/distribution/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// readEvery is how often the heads are read linearizably beside the watch: a
// watch beyond a restored etcd hangs without an error.
const readEvery = 5 * time.Second

// Feed follows what is published. It holds the newest value of each head and
// freshness statement that it has seen, unverified. It is safe for concurrent
// use.
type Feed struct {
	store   *Store
	log     *slog.Logger
	changed chan struct{}

	mu        sync.Mutex
	heads     map[string]*distributionv1.PublishedHead
	freshness map[string]*proxyv1.SignedFreshness
}

// NewFeed returns a feed of the store. Run fills it.
func NewFeed(s *Store) *Feed {
	return &Feed{
		store:     s,
		log:       s.log,
		changed:   make(chan struct{}, 1),
		heads:     map[string]*distributionv1.PublishedHead{},
		freshness: map[string]*proxyv1.SignedFreshness{},
	}
}

// Changed receives after something changed. It is for one receiver, and
// carries no data.
func (f *Feed) Changed() <-chan struct{} { return f.changed }

// Heads returns the newest published heads by environment. An environment
// whose head was deleted keeps the last one: absence is not deletion.
func (f *Feed) Heads() map[string]*distributionv1.PublishedHead {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.heads)
}

// Freshness returns the newest freshness statements by environment.
func (f *Feed) Freshness() map[string]*proxyv1.SignedFreshness {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.freshness)
}

// Run follows etcd until ctx ends, and outlives every failure of etcd.
func (f *Feed) Run(ctx context.Context) error {
	const longest = 2 * time.Second
	wait := 50 * time.Millisecond
	for ctx.Err() == nil {
		followed, err := f.follow(ctx)
		if ctx.Err() != nil {
			break
		}
		f.log.WarnContext(ctx, "watch of etcd ended", "err", err)
		if wait = min(2*wait, longest); followed {
			wait = 50 * time.Millisecond
		}
		select {
		case <-ctx.Done():
		case <-time.After(rand.N(wait)): //nolint:gosec // jitter
		}
	}
	return nil
}

// follow reads everything, then watches from that revision on, reading again
// every few seconds. It ends with the first error; followed says whether the
// first read worked.
func (f *Feed) follow(ctx context.Context) (followed bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	revision, err := f.read(ctx)
	if err != nil {
		return false, err
	}
	watch := f.store.client.Watch(clientv3.WithRequireLeader(ctx), f.store.prefix+"/",
		clientv3.WithPrefix(), clientv3.WithRev(revision+1))
	again := time.NewTicker(readEvery)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return true, ctx.Err()
		case r, ok := <-watch:
			if err := watchError(r, ok); err != nil {
				return true, err
			}
			for _, e := range r.Events {
				if e.Type == mvccpb.Event_PUT {
					f.take(e.Kv)
				}
			}
		case <-again.C:
			now, err := f.read(ctx)
			if err != nil {
				return true, err
			}
			if now < revision {
				return true, fmt.Errorf("etcd went back from revision %d to %d", revision, now)
			}
			revision = now
		}
	}
}

func watchError(r clientv3.WatchResponse, ok bool) error {
	switch {
	case !ok:
		return errors.New("watch closed")
	case r.CompactRevision != 0:
		return fmt.Errorf("watch compacted at revision %d", r.CompactRevision)
	case r.Canceled:
		return fmt.Errorf("watch canceled: %w", r.Err())
	}
	return r.Err()
}

// read reads heads and freshness, linearizably, and returns etcd's revision.
func (f *Feed) read(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	envs, err := f.store.client.Get(ctx, f.store.prefix+"/env/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return 0, fmt.Errorf("list heads: %w", err)
	}
	for _, kv := range envs.Kvs {
		if !strings.HasSuffix(string(kv.Key), "/head") {
			continue
		}
		r, err := f.store.client.Get(ctx, string(kv.Key))
		if err != nil {
			return 0, fmt.Errorf("read head: %w", err)
		}
		for _, kv := range r.Kvs {
			f.take(kv)
		}
	}
	fresh, err := f.store.client.Get(ctx, f.store.prefix+"/freshness/", clientv3.WithPrefix())
	if err != nil {
		return 0, fmt.Errorf("read freshness: %w", err)
	}
	for _, kv := range fresh.Kvs {
		f.take(kv)
	}
	return envs.Header.Revision, nil
}

// take keeps a value of a key that it knows, if it can be parsed.
func (f *Feed) take(kv *mvccpb.KeyValue) {
	name := strings.TrimPrefix(string(kv.Key), f.store.prefix)
	if environment, ok := strings.CutPrefix(name, "/freshness/"); ok {
		f.takeFreshness(environment, kv.Value)
		return
	}
	name, ok := strings.CutPrefix(name, "/env/")
	if environment, isHead := strings.CutSuffix(name, "/head"); ok && isHead {
		f.takeHead(environment, kv.Value)
	}
}

func (f *Feed) takeHead(environment string, value []byte) {
	head, err := parseHead(value)
	if err != nil {
		f.log.Error("head in etcd could not be read", "environment", environment, "err", err)
		return
	}
	f.mu.Lock()
	same := proto.Equal(f.heads[environment], head)
	f.heads[environment] = head
	f.mu.Unlock()
	if !same {
		f.notify()
	}
}

func (f *Feed) takeFreshness(environment string, value []byte) {
	var s proxyv1.SignedFreshness
	if err := proto.Unmarshal(value, &s); len(value) > maxHead || err != nil {
		f.log.Error("freshness in etcd could not be read", "environment", environment, "err", err)
		return
	}
	f.mu.Lock()
	same := proto.Equal(f.freshness[environment], &s)
	f.freshness[environment] = &s
	f.mu.Unlock()
	if !same {
		f.notify()
	}
}

func (f *Feed) notify() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}
