// Package access writes a line of JSON of each request when it has ended, for whoever
// reads access logs. No request waits for it, and none is denied because of it: that is
// what decision records are for.
package access

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// defaultQueue is that of Config.Queue.
	defaultQueue = 4 << 20
	// gather is how long lines wait for others before they are written.
	gather = 50 * time.Millisecond
	// mostKept bounds the room that is kept for lines to come.
	mostKept = 1 << 20
)

// Config is what a Log needs. Writer and Log are required.
type Config struct {
	// Writer takes whole lines, several at a time, from Run alone.
	Writer io.Writer
	// Fields are the keys of a line, in their order; DefaultFields when there are none.
	// See CheckFields.
	Fields []string
	Log    *slog.Logger
	// Registerer takes the metrics; they are not shown when it is nil.
	Registerer prometheus.Registerer
	// Queue bounds, in bytes, what waits for Writer; 4 MiB when zero.
	Queue int
}

// Log takes lines of many requests at once and writes them in the order in which it took
// them. It is safe for concurrent use. A nil Log takes nothing.
type Log struct {
	writer  io.Writer
	fields  []field
	log     *slog.Logger
	queue   int
	dropped prometheus.Counter

	buffers sync.Pool     // of *[]byte, for lines that are being made
	pending chan struct{} // has room for one: there are lines that Run has not seen

	mu    sync.Mutex
	lines []byte
	ended bool
}

// New returns a Log that has started nothing.
func New(c Config) (*Log, error) {
	if c.Writer == nil || c.Log == nil || c.Queue < 0 {
		return nil, errors.New("an access log needs a writer, a logger, and no negative queue")
	}
	if len(c.Fields) == 0 {
		c.Fields = DefaultFields()
	}
	l := &Log{writer: c.Writer, log: c.Log, queue: c.Queue, pending: make(chan struct{}, 1)}
	if l.queue == 0 {
		l.queue = defaultQueue
	}
	for _, name := range c.Fields {
		f, err := fieldOf(name)
		if err != nil {
			return nil, fmt.Errorf("field of the access log: %w", err)
		}
		l.fields = append(l.fields, f)
	}
	l.dropped = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "sallyport_access_lines_dropped_total",
		Help: "Lines of the access log that found no room, or could not be written.",
	})
	if c.Registerer == nil {
		return l, nil
	}
	return l, c.Registerer.Register(l.dropped)
}

// Write makes a line of e, of which it keeps nothing. It never waits: a line that finds
// no room is counted and lost.
func (l *Log) Write(e *Entry) {
	if l == nil {
		return
	}
	line, ok := l.buffers.Get().(*[]byte)
	if !ok {
		line = new([]byte)
	}
	defer l.buffers.Put(line)
	*line = appendLine((*line)[:0], l.fields, e)
	if !l.put(*line) {
		l.dropped.Inc()
	}
}

func (l *Log) put(line []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended || len(l.lines)+len(line) > l.queue {
		return false
	}
	l.lines = append(l.lines, line...)
	select {
	case l.pending <- struct{}{}:
	default:
	}
	return true
}

// take returns all lines, and leaves spare for the next ones.
func (l *Log) take(spare []byte, last bool) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	batch := l.lines
	if cap(spare) > mostKept {
		spare = nil
	}
	l.lines, l.ended = spare, l.ended || last
	return batch
}

// Run writes until ctx ends and what there is by then is written, or cannot be, and
// returns nil. From there on lines are lost: who writes ends before. A Log runs once.
func (l *Log) Run(ctx context.Context) error {
	var batch []byte
	p := pen{Log: l}
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-l.pending:
			pause(ctx, gather)
		}
		batch = l.take(batch[:0], false)
		p.write(ctx, batch)
	}
	p.write(ctx, l.take(nil, true))
	return nil
}

// pen is for one goroutine.
type pen struct {
	*Log
	failing bool
	torn    bool // a part of a line is the last that was written
}

// write tries once: what is not written is older than what comes, and of less use.
func (p *pen) write(ctx context.Context, batch []byte) {
	if len(batch) == 0 {
		return
	}
	n, err := 0, p.mend()
	if err == nil {
		n, err = p.writer.Write(batch)
	}
	n = min(max(n, 0), len(batch))
	if n > 0 {
		p.torn = batch[n-1] != '\n'
	}
	if err == nil && n < len(batch) {
		err = io.ErrShortWrite
	}
	p.dropped.Add(float64(bytes.Count(batch[n:], []byte("\n"))))
	switch {
	case err != nil && !p.failing:
		p.log.WarnContext(ctx, "access log cannot be written", "err", err)
	case err == nil && p.failing:
		p.log.InfoContext(ctx, "access log is written again")
	}
	p.failing = err != nil
}

// mend ends a line of which a part was written.
func (p *pen) mend() error {
	if !p.torn {
		return nil
	}
	_, err := p.writer.Write([]byte("\n"))
	p.torn = err != nil
	return err
}

// pause waits, but not beyond ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
