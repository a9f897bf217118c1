package link

import (
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/failpoint"
	"github.com/sallyport/sallyport/internal/snapshot"
)

// Waits before a write that failed is tried again.
const (
	firstRewrite   = time.Second
	longestRewrite = 30 * time.Second
	// rest is how long what is due waits for more, or up to twice as long: of changes
	// that follow one another the last is written, and what a change makes thousands of
	// proxies do is first of all to enforce it. What cuts somebody off does not wait,
	// nor does the first snapshot.
	rest = 1500 * time.Millisecond
)

// keep is what has to be on the disk. What is written never changes.
type keep struct {
	snapshot *snapshot.Snapshot
	marks    marks
	// fresh confirms the snapshot, or one that comes later: it is written last.
	fresh fresh
}

// keeper writes the newest of what it is given, and skips what was replaced
// before its turn came. What is enforced never waits for it.
type keeper struct {
	log     *slog.Logger
	metrics laneMetrics
	tell    func() // after a snapshot was written
	wake    chan struct{}
	strict  bool // of the lane
	rest    time.Duration

	// persisted is the head of the snapshot on the disk, nil when there is
	// none. run is its only writer, after restored.
	persisted atomic.Pointer[snapshot.Head]

	mu  sync.Mutex
	due keep
}

func newKeeper(l *lane) *keeper {
	return &keeper{log: l.log, metrics: l.metrics, tell: l.tell, wake: make(chan struct{}, 1), strict: l.strict, rest: rest}
}

// restored says what is on the disk, before run begins.
func (k *keeper) restored(head snapshot.Head) {
	k.persisted.Store(&head)
	k.metrics.persisted.Set(float64(head.Revision))
}

// keep hands over the state as of now. It does not wait.
func (k *keeper) keep(s *snapshot.Snapshot, m marks, f fresh) {
	k.mu.Lock()
	k.due = keep{snapshot: s, marks: maps.Clone(m), fresh: f}
	k.mu.Unlock()
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// revision returns the revision that is on the disk; 0 unless it belongs to the
// history and the environment of head.
func (k *keeper) revision(head snapshot.Head) snapshot.Revision {
	p := k.persisted.Load()
	if p == nil || p.Environment != head.Environment || p.Epoch != head.Epoch {
		return 0
	}
	return p.Revision
}

// run writes until ctx ends, and what is due then once more.
func (k *keeper) run(ctx context.Context, d *disk) error {
	w := &writer{keeper: k, disk: d}
	again := time.NewTimer(0)
	again.Stop()
	defer again.Stop()
	wait := firstRewrite
	for {
		select {
		case <-ctx.Done():
			w.write(context.WithoutCancel(ctx))
			return nil
		case <-k.wake:
			k.settle(ctx)
		case <-again.C:
		}
		began := time.Now()
		if w.write(ctx) {
			wait = firstRewrite
			// A large snapshot that changes all the time leaves the disk half of
			// its time.
			pause(ctx, time.Since(began))
			continue
		}
		again.Reset(wait)
		wait = min(2*wait, longestRewrite)
	}
}

// settle waits for more, unless something is urgent.
func (k *keeper) settle(ctx context.Context) {
	timer := time.NewTimer(k.rest + rand.N(k.rest)) //nolint:gosec // spreads load, hides nothing
	defer timer.Stop()
	for !k.urgent() {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case <-k.wake:
		}
	}
}

// urgent reports whether the lane has nothing on the disk, or is a strict one with
// another snapshot than there.
func (k *keeper) urgent() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.persisted.Load()
	return p == nil || k.strict && p.Digest() != k.due.snapshot.Head().Digest()
}

// writer knows what is on the disk already. It belongs to run.
type writer struct {
	*keeper
	disk *disk
	done keep
}

// write brings the disk up to date. The mark goes first: what was accepted must
// not be undone by what is older. The confirmation goes last: it must never
// confirm more than what is beside it.
func (w *writer) write(ctx context.Context) bool {
	w.mu.Lock()
	due := w.due
	w.mu.Unlock()
	err := w.marks(due.marks)
	if err == nil {
		err = w.snapshot(due.snapshot)
	}
	if err == nil {
		err = w.freshness(due.fresh)
	}
	if err != nil {
		w.metrics.failedWrites.Inc()
		w.log.ErrorContext(ctx, "last-good snapshot was not written", "revision", due.snapshot.Head().Revision, "err", err)
	}
	return err == nil
}

func (w *writer) marks(m marks) error {
	if maps.Equal(m, w.done.marks) {
		return nil
	}
	if err := w.disk.writeMarks(m); err != nil {
		return err
	}
	w.done.marks = m
	failpoint.Hit("link.marked")
	return nil
}

func (w *writer) snapshot(s *snapshot.Snapshot) error {
	head := s.Head()
	if p := w.persisted.Load(); s == nil || p != nil && p.Digest() == head.Digest() {
		return nil
	}
	if err := w.disk.writeSnapshot(s); err != nil {
		return err
	}
	w.restored(head)
	failpoint.Hit("link.persisted")
	w.tell()
	return nil
}

func (w *writer) freshness(f fresh) error {
	if f.signed == nil || f.signed == w.done.fresh.signed {
		return nil
	}
	if err := w.disk.writeFreshness(f.signed); err != nil {
		return err
	}
	w.done.fresh = f
	return nil
}
