package api

import (
	"context"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
)

// truthFor is how long a truth is kept that nobody asks for.
const truthFor = time.Minute

// truths are what the database has of lanes, as digests: who verifies a whole fleet
// asks for the same again and again, and reading 100,000 documents takes a second. Of
// the security lane and of all environments together one each is kept. It is safe for
// concurrent use.
type truths struct {
	store Store
	// reading is held by the one who reads: the documents take memory.
	reading chan struct{}

	mu   sync.Mutex
	kept map[bool]*truth // by whether it is of the security lane
}

type truth struct {
	lane   string
	at     snapshot.Revision
	set    *snapshot.Set
	forget *time.Timer
}

func newTruths(s Store) *truths {
	return &truths{store: s, reading: make(chan struct{}, 1), kept: map[bool]*truth{}}
}

// at returns what a lane has at a revision, or sequence, without the documents.
func (t *truths) at(ctx context.Context, lane string, at snapshot.Revision) (*snapshot.Set, error) {
	select {
	case t.reading <- struct{}{}:
		defer func() { <-t.reading }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if set := t.known(lane, at); set != nil {
		return set, nil
	}
	versions, err := t.store.EnvironmentState(ctx, lane, at)
	if err != nil {
		return nil, err
	}
	set := snapshot.SetOf(func(yield func(resource.Key, snapshot.Digest) bool) {
		for _, v := range versions {
			if !yield(v.Key, snapshot.DocumentDigest(v.Document)) {
				return
			}
		}
	})
	t.keep(&truth{lane: lane, at: at, set: set})
	return set, nil
}

func (t *truths) known(lane string, at snapshot.Revision) *snapshot.Set {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.kept[lane == snapshot.SecurityLane]
	if k == nil || k.lane != lane || k.at != at {
		return nil
	}
	k.forget.Reset(truthFor)
	return k.set
}

func (t *truths) keep(k *truth) {
	t.mu.Lock()
	defer t.mu.Unlock()
	of := k.lane == snapshot.SecurityLane
	if old := t.kept[of]; old != nil {
		old.forget.Stop()
	}
	t.kept[of] = k
	k.forget = time.AfterFunc(truthFor, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.kept[of] == k {
			delete(t.kept, of)
		}
	})
}
