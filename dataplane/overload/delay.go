package overload

import (
	"context"
	"runtime"
	"runtime/metrics"
	"sync/atomic"
	"time"
)

// few is how many others have to stand in line, for each processor, for a wait to be
// theirs: else it is the machine that is busy, and to refuse them would not help.
const few = 4

// line is what waits for a processor. Somebody stands in it again and again, as requests
// do: what others have waited, as runtime/metrics tells of them, is of those mostly who are
// woken by one that ends its turn, and run next whatever the load.
type line struct {
	began time.Time
	ready []metrics.Sample // how many others stand in line
	since atomic.Int64     // from when on who stands in it does, after began
	stood atomic.Int64     // for how long who did it before
}

func newLine() *line {
	return &line{began: time.Now(), ready: []metrics.Sample{{Name: "/sched/goroutines/runnable:goroutines"}}}
}

// stand stands in line after a pause. It reports whether ctx has not ended.
func (l *line) stand(ctx context.Context, pause time.Duration) bool {
	due := time.Since(l.began) + pause
	l.since.Store(int64(due))
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pause):
	}
	runtime.Gosched() // who is woken may not have stood
	stood := time.Since(l.began) - due
	if metrics.Read(l.ready); l.ready[0].Value.Kind() == metrics.KindUint64 && l.ready[0].Value.Uint64() < few*uint64(runtime.GOMAXPROCS(0)) { //nolint:gosec // it is at least one
		stood = 0
	}
	l.stood.Store(int64(stood))
	return true
}

// delay is how long who stands in line has stood, or who did it before if that is longer.
// It is safe for concurrent use: a line of seconds is seen by everybody, and not when who
// stands in it is through.
func (l *line) delay() time.Duration {
	return max(time.Duration(l.stood.Load()), time.Since(l.began)-time.Duration(l.since.Load()))
}
