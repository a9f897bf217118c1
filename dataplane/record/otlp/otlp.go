// Package otlp sends the lines of decision records to a collector of logs, as
// OpenTelemetry's protocol over HTTP. Neither requests nor other records wait for it.
package otlp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// defaultQueue is that of Config.Queue.
	defaultQueue = 16 << 20
	// maxLine bounds a line, in bytes: what is longer is no record of ours.
	maxLine = 256 << 10
	// A batch is what is sent at once: so many lines, or so many bytes of them.
	batchLines = 512
	batchBytes = 512 << 10
	// gather is how long lines wait for others before they are sent.
	gather = 200 * time.Millisecond
	// farewell is how long sending what is left may take at the end.
	farewell = 3 * time.Second
	// Bounds of the wait before the next attempt.
	firstRetry   = 100 * time.Millisecond
	longestRetry = 10 * time.Second
)

// Config is what a Sink needs. Endpoint, Instance and Log are required.
type Config struct {
	// Endpoint is the URL that takes logs, such as
	// https://collector.example:4318/v1/logs. See CheckEndpoint.
	Endpoint string
	// CAFile verifies the collector, in PEM; the system's roots when empty.
	CAFile string
	// AuthorizationFile holds what is sent in the field Authorization, and is read
	// again each time; none when empty.
	AuthorizationFile string
	// Instance and Version are those of this process.
	Instance, Version string
	Log               *slog.Logger

	// Registerer takes the metrics; they are not shown when it is nil.
	Registerer prometheus.Registerer
	// Queue bounds, in bytes, what waits for the collector; 16 MiB when zero.
	Queue int
}

// Sink is an io.Writer of lines, for one goroutine, whose Run sends them.
type Sink struct {
	cfg       Config
	metrics   *metrics
	transport *http.Transport
	client    *http.Client
	pending   chan struct{} // has room for one: there are lines to send

	part []byte // Write's: the beginning of a line

	mu    sync.Mutex
	lines [][]byte
	bytes int
}

// CheckEndpoint says what is wrong with an endpoint: it has to be an https URL, or one
// of http whose host is an address of this machine.
func CheckEndpoint(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return errors.New("is no URL")
	case u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("%q is not as https://host:port/v1/logs", raw)
	case u.Scheme == "https":
		return nil
	}
	if ip, err := netip.ParseAddr(u.Hostname()); u.Scheme != "http" || err != nil || !ip.IsLoopback() {
		return fmt.Errorf("%q is neither https, nor http to an address of this machine such as 127.0.0.1", raw)
	}
	return nil
}

// New returns a Sink that has started nothing. It reads CAFile.
func New(c Config) (*Sink, error) {
	if c.Log == nil || c.Instance == "" || c.Queue < 0 {
		return nil, errors.New("a collector of logs needs an instance, a logger, and no negative queue")
	}
	if err := CheckEndpoint(c.Endpoint); err != nil {
		return nil, fmt.Errorf("endpoint of the collector: %w", err)
	}
	if c.Queue == 0 {
		c.Queue = defaultQueue
	}
	tls, err := verification(c.CAFile)
	if err != nil {
		return nil, err
	}
	s := &Sink{cfg: c, pending: make(chan struct{}, 1)}
	s.transport = &http.Transport{
		DialContext: (&net.Dialer{Timeout: sendWithin}).DialContext, TLSClientConfig: tls, TLSHandshakeTimeout: sendWithin,
		ForceAttemptHTTP2: true, DisableCompression: true, IdleConnTimeout: time.Minute, MaxIdleConns: 1,
	}
	s.client = &http.Client{Transport: s.transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return errors.New("collectors do not redirect")
	}}
	if s.metrics, err = newMetrics(c.Registerer, s); err != nil {
		return nil, fmt.Errorf("register metrics of the collector of logs: %w", err)
	}
	return s, nil
}

// Write takes the lines that end in p, as far as there is room. It never waits and
// never fails: what finds no room is counted.
func (s *Sink) Write(p []byte) (int, error) {
	n := len(p)
	for {
		line, rest, whole := bytes.Cut(p, []byte("\n"))
		room := maxLine + 1 - len(s.part) // one more tells what is too long
		s.part = append(s.part, line[:min(len(line), room)]...)
		if !whole {
			return n, nil
		}
		s.put(s.part)
		s.part, p = s.part[:0], rest
	}
}

func (s *Sink) put(line []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(line) > maxLine || s.bytes+len(line) > s.cfg.Queue {
		s.metrics.dropped.Inc()
		return
	}
	s.lines = append(s.lines, bytes.Clone(line))
	s.bytes += len(line)
	select {
	case s.pending <- struct{}{}:
	default:
	}
}

// take returns the oldest lines, until done is called with their number.
func (s *Sink) take() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	size, n := 0, 0
	for n < min(len(s.lines), batchLines) && (n == 0 || size+len(s.lines[n]) <= batchBytes) {
		size += len(s.lines[n])
		n++
	}
	return s.lines[:n:n]
}

func (s *Sink) done(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, line := range s.lines[:n] {
		s.bytes -= len(line)
		s.lines[i] = nil
	}
	if s.lines = s.lines[n:]; len(s.lines) == 0 {
		s.lines = nil
	}
}

func (s *Sink) waiting() (lines, size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.lines), s.bytes
}

// Run sends until ctx ends, and then what is left, for a moment. It returns nil.
// Who writes ends before. Losing the collector ends nothing.
func (s *Sink) Run(ctx context.Context) error {
	defer s.transport.CloseIdleConnections()
	d := delivery{Sink: s}
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-s.pending:
			pause(ctx, gather)
			d.all(ctx)
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	d.all(last)
	if left, _ := s.waiting(); left > 0 {
		s.metrics.dropped.Add(float64(left))
		s.cfg.Log.ErrorContext(ctx, "records were not sent to the collector: it was away to the end", "records", left)
	}
	return nil
}

// delivery is for one goroutine.
type delivery struct {
	*Sink
	failing bool
}

// all sends everything that waits, until ctx ends.
func (d *delivery) all(ctx context.Context) {
	wait := firstRetry
	for lines := d.take(); len(lines) > 0 && ctx.Err() == nil; lines = d.take() {
		rejected, err := d.send(ctx, lines)
		switch {
		case err == nil:
			d.sent(ctx, len(lines), rejected)
			wait = firstRetry
			continue
		case errors.Is(err, errRefused):
			d.cfg.Log.ErrorContext(ctx, "collector refused records", "records", len(lines), "err", err)
			d.metrics.dropped.Add(float64(len(lines)))
			d.done(len(lines))
			continue
		case !d.failing && ctx.Err() == nil:
			d.failing = true
			d.cfg.Log.WarnContext(ctx, "records do not arrive at the collector", "err", err)
		}
		pause(ctx, wait/2+rand.N(wait/2)) //nolint:gosec // spreads load, hides nothing
		wait = min(2*wait, longestRetry)
	}
}

func (d *delivery) sent(ctx context.Context, n, rejected int) {
	d.done(n)
	rejected = min(max(rejected, 0), n)
	d.metrics.sent.Add(float64(n - rejected))
	d.metrics.dropped.Add(float64(rejected))
	if d.failing {
		d.failing = false
		d.cfg.Log.InfoContext(ctx, "records arrive at the collector again")
	}
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
