// Package record writes down every decision, before the request that it lets
// through goes on, without making requests wait for a disk that keeps up.
package record

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// ErrUnavailable says that a decision could not be recorded: what it allows
// must not happen.
var ErrUnavailable = errors.New("decision records cannot be written")

// Remote brings decisions to the control plane. It is safe for concurrent use, and
// keeps nothing of what it is given.
type Remote interface {
	// Decide takes a decision, unless there is no room or its rule leaves it out, and
	// reports whether it did. It never waits, and does not keep d, which is used again.
	Decide(d *Decision) (taken bool)
	// Require takes an allowed request whose rule is Required, and returns when its
	// record is safe, or ErrUnavailable. It does not keep d.
	Require(ctx context.Context, d *Decision) error
	// Finish takes how a request ended whose decision was taken, unless there is no
	// room. It never waits.
	Finish(o *Outcome)
}

// Config is what a Recorder needs. Log, and Writer or Remote, are required.
type Config struct {
	// Writer takes whole lines, several at a time, from Run alone. Lines that
	// it does not take are offered again. There are no lines when it is nil.
	Writer io.Writer
	// Remote takes decisions besides; nobody does when it is nil, and then what has
	// to be recorded there is denied.
	Remote Remote
	Log    *slog.Logger
	// Registerer takes the metrics; they are not shown when it is nil.
	Registerer prometheus.Registerer

	// Queue bounds, in bytes, what waits for Writer; 8 MiB when zero.
	Queue int
	// Wait is the longest that an allowed request waits for room; 1 s when zero.
	Wait time.Duration
	// Gather is how long Run waits for more lines before it writes; 10 ms when
	// zero. A process that is killed loses what it has not written.
	Gather time.Duration
}

// Recorder takes records of many requests at once and writes them in the order
// in which it took them. It is safe for concurrent use.
type Recorder struct {
	writer       io.Writer // nil for none
	remote       Remote    // nil for none
	log          *slog.Logger
	metrics      *metrics
	queue        int
	wait, gather time.Duration

	// buffers holds *[]byte for lines that are being made.
	buffers sync.Pool
	// pending has room for one: there are lines that Run has not seen.
	pending chan struct{}

	mu    sync.Mutex
	lines []byte        // for Run to take
	taken chan struct{} // closed when Run takes lines
	state state
}

// state is what becomes of lines.
type state uint8

const (
	writing state = iota
	failing       // the writer takes nothing for now
	ended         // there is nobody to write
)

const (
	plenty   = 256 << 10  // Run does not gather more
	mostKept = 4 * plenty // Run keeps no more room than that
)

// New returns a Recorder. It fails when something required is missing, a
// setting is negative, or the metrics are registered already.
func New(c Config) (*Recorder, error) {
	if c.Writer == nil && c.Remote == nil || c.Log == nil {
		return nil, errors.New("decision records need a logger, and a writer or a remote")
	}
	if c.Queue < 0 || c.Wait < 0 || c.Gather < 0 {
		return nil, errors.New("settings of decision records must not be negative")
	}
	m, err := newMetrics(c.Registerer)
	if err != nil {
		return nil, fmt.Errorf("register metrics of decision records: %w", err)
	}
	r := &Recorder{
		writer: c.Writer, remote: c.Remote, log: c.Log, metrics: m,
		queue: c.Queue, wait: c.Wait, gather: c.Gather,
		pending: make(chan struct{}, 1), taken: make(chan struct{}),
	}
	if r.queue == 0 {
		r.queue = 8 << 20
	}
	if r.wait == 0 {
		r.wait = time.Second
	}
	if r.gather == 0 {
		r.gather = 10 * time.Millisecond
	}
	return r, nil
}

// Decide records d. When d allows, it waits for room, and fails with
// ErrUnavailable if there is none in time, or at once while the writer is known
// to take nothing. When d denies, nothing can happen unrecorded: it never
// waits, and a denial that finds no room is counted and lost.
//
// What is required by the rule of d is safe when Decide has returned nil. Any other
// record that was taken is written by Run within moments, while the process lives.
// Decide keeps nothing of d, and sets Told in it.
func (r *Recorder) Decide(ctx context.Context, d *Decision) error {
	if err := r.writeDown(ctx, d); err != nil {
		return err
	}
	switch required := d.Allow && d.Rule != nil && d.Rule.Mode == Required; {
	case required && r.remote == nil:
		return ErrUnavailable
	case required:
		err := r.remote.Require(ctx, d)
		d.Told = err == nil
		return err
	case r.remote != nil:
		d.Told = r.remote.Decide(d)
	}
	return nil
}

// writeDown makes a line of d.
func (r *Recorder) writeDown(ctx context.Context, d *Decision) error {
	if r.writer == nil {
		return nil
	}
	line := r.buffer()
	defer r.buffers.Put(line)
	*line = d.appendTo(*line)
	if r.put(*line, d.Allow) || d.Allow && r.putInTime(ctx, *line) {
		return nil
	}
	r.metrics.dropped.WithLabelValues("decision").Inc()
	if d.Allow {
		return ErrUnavailable
	}
	return nil
}

// Finish records how a request ended that was let through. It never waits: an
// outcome that finds no room is counted and lost.
func (r *Recorder) Finish(o *Outcome) {
	if o.Told && r.remote != nil {
		r.remote.Finish(o)
	}
	if r.writer == nil {
		return
	}
	line := r.buffer()
	defer r.buffers.Put(line)
	*line = o.appendTo(*line)
	if !r.put(*line, false) {
		r.metrics.dropped.WithLabelValues("outcome").Inc()
	}
}

// buffer returns an empty buffer.
func (r *Recorder) buffer() *[]byte {
	line, ok := r.buffers.Get().(*[]byte)
	if !ok {
		line = new([]byte)
	}
	*line = (*line)[:0]
	return line
}

// put queues a line if there is room, and if it may be queued that allows.
func (r *Recorder) put(line []byte, allows bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state == ended || r.state == failing && allows || len(r.lines)+len(line) > r.queue {
		return false
	}
	first := len(r.lines) == 0
	r.lines = append(r.lines, line...)
	if first || len(r.lines) > plenty {
		r.wake()
	}
	return true
}

func (r *Recorder) wake() {
	select {
	case r.pending <- struct{}{}:
	default:
	}
}

// putInTime queues a line that allows as soon as there is room.
func (r *Recorder) putInTime(ctx context.Context, line []byte) bool {
	ctx, cancel := context.WithTimeout(ctx, r.wait)
	defer cancel()
	for {
		taken, hopeless := r.room()
		switch {
		case hopeless:
			return false
		case r.put(line, true):
			return true
		}
		select {
		case <-taken:
		case <-ctx.Done():
			return false
		}
	}
}

// room returns what is closed when there is room again.
func (r *Recorder) room() (taken <-chan struct{}, hopeless bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.taken, r.state != writing
}

// Run writes until ctx ends and everything that was taken is written, or cannot
// be, and returns nil then. From there on nothing can be recorded: who lets
// requests through ends before. A Recorder runs once.
func (r *Recorder) Run(ctx context.Context) error {
	var batch []byte
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-r.pending:
			r.gatherMore(ctx)
		}
		batch = r.take(batch[:0])
		r.write(ctx, batch)
	}
	r.enter(ended)
	r.write(ctx, r.take(nil))
	return nil
}

// gatherMore waits until writing is worth it.
func (r *Recorder) gatherMore(ctx context.Context) {
	timer := time.NewTimer(r.gather)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case <-r.pending:
			if r.waiting() > plenty {
				return
			}
		}
	}
}

func (r *Recorder) waiting() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.lines)
}

// take returns all lines, and leaves spare for the next ones.
func (r *Recorder) take(spare []byte) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	batch := r.lines
	if cap(spare) > mostKept {
		spare = nil
	}
	r.lines = spare
	close(r.taken)
	r.taken = make(chan struct{})
	return batch
}

// write writes batch, however often it takes. While the writer takes nothing,
// requests are not kept waiting for it.
func (r *Recorder) write(ctx context.Context, batch []byte) {
	const first, longest = 10 * time.Millisecond, time.Second
	for wait := first; len(batch) > 0; wait = min(2*wait, longest) {
		n, err := r.writer.Write(batch)
		batch = batch[min(max(n, 0), len(batch)):]
		if err == nil && len(batch) > 0 {
			err = io.ErrShortWrite
		}
		if err == nil {
			r.succeed()
			return
		}
		if !r.fail(ctx, err, wait) {
			r.log.Error("decision records were lost", "bytes", len(batch), "err", err)
			return
		}
	}
}

// fail waits before the writer is tried again, and reports whether that is
// worth it.
func (r *Recorder) fail(ctx context.Context, err error, wait time.Duration) bool {
	r.metrics.failures.Inc()
	if r.enter(failing) == writing {
		r.log.Error("decision records cannot be written and requests are denied", "err", err)
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(wait):
		return true
	}
}

func (r *Recorder) succeed() {
	if r.enter(writing) == failing {
		r.log.Info("decision records are written again")
	}
}

// enter changes the state, unless it has ended, and returns what it was.
func (r *Recorder) enter(next state) state {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.state
	if was != ended {
		r.state = next
	}
	return was
}
