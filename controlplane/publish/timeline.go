package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

const (
	// compareWithin bounds a comparison with what is published.
	compareWithin = 5 * time.Second
	// compareAgain is when one that failed is tried again, and compareAtLeast when one
	// that goes on failing is.
	compareAgain   = time.Second
	compareAtLeast = 30 * time.Second
	// maxClaims bounds the heads that proxies have shown and nobody has looked for
	// yet. What finds no room is shown again when the proxy connects the next time.
	maxClaims = 256
	// maxJudged bounds the heads that are known to be part of the history.
	maxJudged = 10_000
)

// TimelineConfig is what a Timeline needs. All fields are required.
type TimelineConfig struct {
	Store storage.History
	// Targets are all of those where something is published.
	Targets  []Place
	Verifier *snapshot.Verifier
	Log      *slog.Logger
}

// Timeline looks, on every replica, whether somebody has seen more than the
// database holds: at the start what is published, before the first change is
// made, and then what proxies show. It is safe for concurrent use.
type Timeline struct {
	TimelineConfig
	compared chan struct{} // closed after the first comparisons, whatever came of them
	shown    chan struct{} // wakes Run

	mu     sync.Mutex
	claims map[snapshot.Digest]claim
	judged map[snapshot.Digest]bool
}

// claim is a head that a proxy has shown.
type claim struct {
	head  snapshot.Head
	proxy string
}

// NewTimeline returns a timeline that has compared nothing until Run.
func NewTimeline(c TimelineConfig) *Timeline {
	return &Timeline{
		TimelineConfig: c,
		compared:       make(chan struct{}),
		shown:          make(chan struct{}, 1),
		claims:         map[snapshot.Digest]claim{},
		judged:         map[snapshot.Digest]bool{},
	}
}

// Show takes a head, which was verified, that a proxy says it enforces. It does
// not wait.
func (t *Timeline) Show(head snapshot.Head, proxy string) {
	digest := head.Digest()
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, there := t.claims[digest]; there || t.judged[digest] || len(t.claims) >= maxClaims {
		return
	}
	t.claims[digest] = claim{head, proxy}
	select {
	case t.shown <- struct{}{}:
	default:
	}
}

// Compared waits until what is published at each target was compared once, or could
// not be: who changes something while an etcd is away is told soon enough. It returns
// ctx's error when that ends before.
func (t *Timeline) Compared(ctx context.Context) error {
	select {
	case <-t.compared:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run compares until ctx ends. It outlives every failure of the database and of
// any etcd.
func (t *Timeline) Run(ctx context.Context) error {
	var g, first sync.WaitGroup
	for _, p := range t.Targets {
		first.Add(1)
		g.Go(func() { t.compareAll(ctx, p, first.Done) })
	}
	g.Go(func() {
		if first.Wait(); ctx.Err() == nil {
			close(t.compared)
		}
	})
	t.judgeAll(ctx)
	g.Wait()
	return nil
}

// compareAll compares with a target until that was done once, and calls tried after
// the first try.
func (t *Timeline) compareAll(ctx context.Context, p Place, tried func()) {
	tried = sync.OnceFunc(tried)
	defer tried()
	for wait := compareAgain; ; wait = min(2*wait, compareAtLeast) {
		err := t.compare(ctx, p)
		if err == nil || ctx.Err() != nil {
			return
		}
		tried()
		t.Log.WarnContext(ctx, "what is published was not compared with the database yet", "target", p.Name, "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// judgeAll looks for what proxies show, until ctx ends.
func (t *Timeline) judgeAll(ctx context.Context) {
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		case <-t.shown:
		}
		if !t.judge(ctx) {
			again.Reset(compareAgain)
		}
	}
}

// compare looks for all that is published at a target. What the database does not
// hold is recorded there, and said by it.
func (t *Timeline) compare(ctx context.Context, p Place) error {
	ctx, cancel := context.WithTimeout(ctx, compareWithin)
	defer cancel()
	published, err := p.Heads(ctx, t.Verifier)
	if err != nil {
		return fmt.Errorf("read what is published: %w", err)
	}
	for _, h := range published {
		if _, err := t.look(ctx, p.Name, h); err != nil {
			return fmt.Errorf("look for revision %d of %s: %w", h.Revision, h.Environment, err)
		}
	}
	return nil
}

// look has the database look for a head. It reports whether that is settled:
// one that nobody can tell of yet is for the publisher, who will sign what there
// is.
func (t *Timeline) look(ctx context.Context, witness string, h snapshot.Head) (settled bool, err error) {
	switch err := t.Store.Witness(ctx, witness, h); {
	case err == nil:
		return true, nil
	case errors.Is(err, storage.ErrAhead), errors.Is(err, storage.ErrNotFound):
		return false, nil
	default:
		return false, err
	}
}

// judge looks for what proxies have shown. It reports whether nothing is left.
func (t *Timeline) judge(ctx context.Context) (whole bool) {
	t.mu.Lock()
	claims := maps.Clone(t.claims)
	t.mu.Unlock()
	for digest, c := range claims {
		settled, err := t.look(ctx, "proxy "+c.proxy, c.head)
		if err != nil {
			t.Log.DebugContext(ctx, "what a proxy has was not looked for yet", "proxy", c.proxy, "err", err)
			return false
		}
		t.settle(digest, settled)
	}
	return true
}

// settle forgets a claim, and that it was one if it is part of the history.
func (t *Timeline) settle(digest snapshot.Digest, held bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.claims, digest)
	if held && len(t.judged) < maxJudged {
		t.judged[digest] = true
	}
}
