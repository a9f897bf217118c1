// Package collector brings what was gathered to a collector of OpenTelemetry, in its
// protocol over HTTP. Nothing waits for it.
package collector

import (
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
	// A batch is what is sent at once: so many items, or so many bytes of them.
	batchItems = 512
	batchBytes = 512 << 10
	// gather is how long items wait for others before they are sent.
	gather = 200 * time.Millisecond
	// farewell is how long sending what is left may take at the end.
	farewell = 3 * time.Second
	// Bounds of the wait before the next attempt.
	firstRetry   = 100 * time.Millisecond
	longestRetry = 10 * time.Second
)

// Address is where a collector is, and what it wants.
type Address struct {
	// Endpoint is the URL that takes what is sent, such as
	// https://collector.example:4318/v1/logs. See CheckEndpoint.
	Endpoint string
	// CAFile verifies the collector, in PEM; the system's roots when empty.
	CAFile string
	// AuthorizationFile holds what is sent in the field Authorization, and is read
	// again each time; none when empty.
	AuthorizationFile string
}

// Config is what a Queue needs. All fields but Queue are required, and of Address the
// Endpoint.
type Config struct {
	Address Address
	// Signal is what is sent, as logs name it: logs, traces.
	Signal string
	// Encode makes a request's body of a batch. Run calls it.
	Encode func(items [][]byte) ([]byte, error)
	// Sent and Dropped count items: those that the collector has taken, and those
	// that it does not have, for there was no room or it refused them.
	Sent, Dropped prometheus.Counter
	Log           *slog.Logger
	// Queue bounds, in bytes, what waits for the collector; 16 MiB when zero.
	Queue int
}

// Queue takes items, and its Run sends them, in their order. It is safe for concurrent
// use.
type Queue struct {
	cfg       Config
	transport *http.Transport
	client    *http.Client
	pending   chan struct{} // has room for one: there are items to send

	mu    sync.Mutex
	items [][]byte
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
		return fmt.Errorf("%q is not as https://host:port/path", raw)
	case u.Scheme == "https":
		return nil
	}
	if ip, err := netip.ParseAddr(u.Hostname()); u.Scheme != "http" || err != nil || !ip.IsLoopback() {
		return fmt.Errorf("%q is neither https, nor http to an address of this machine such as 127.0.0.1", raw)
	}
	return nil
}

// New returns a Queue that has started nothing. It reads Address.CAFile.
func New(c Config) (*Queue, error) {
	if c.Log == nil || c.Signal == "" || c.Encode == nil || c.Sent == nil || c.Dropped == nil || c.Queue < 0 {
		return nil, errors.New("a queue for a collector needs a signal, what encodes and counts it, a logger, and no negative bound")
	}
	if err := CheckEndpoint(c.Address.Endpoint); err != nil {
		return nil, fmt.Errorf("endpoint of the collector: %w", err)
	}
	if c.Queue == 0 {
		c.Queue = defaultQueue
	}
	tls, err := verification(c.Address.CAFile)
	if err != nil {
		return nil, err
	}
	q := &Queue{cfg: c, pending: make(chan struct{}, 1)}
	q.transport = &http.Transport{
		DialContext: (&net.Dialer{Timeout: sendWithin}).DialContext, TLSClientConfig: tls, TLSHandshakeTimeout: sendWithin,
		ForceAttemptHTTP2: true, DisableCompression: true, IdleConnTimeout: time.Minute, MaxIdleConns: 1,
	}
	q.client = &http.Client{Transport: q.transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return errors.New("collectors do not redirect")
	}}
	return q, nil
}

// Put queues an item, which from then on is the queue's. It never waits: what finds no
// room is counted.
func (q *Queue) Put(item []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.bytes+len(item) > q.cfg.Queue {
		q.cfg.Dropped.Inc()
		return
	}
	q.items = append(q.items, item)
	q.bytes += len(item)
	select {
	case q.pending <- struct{}{}:
	default:
	}
}

// take returns the oldest items, until done is called with their number.
func (q *Queue) take() [][]byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	size, n := 0, 0
	for n < min(len(q.items), batchItems) && (n == 0 || size+len(q.items[n]) <= batchBytes) {
		size += len(q.items[n])
		n++
	}
	return q.items[:n:n]
}

func (q *Queue) done(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, item := range q.items[:n] {
		q.bytes -= len(item)
		q.items[i] = nil
	}
	if q.items = q.items[n:]; len(q.items) == 0 {
		q.items = nil
	}
}

// Waiting returns what waits for the collector.
func (q *Queue) Waiting() (items, bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items), q.bytes
}

// Run sends until ctx ends, and then what is left, for a moment. It returns nil.
// Who puts ends before. Losing the collector ends nothing.
func (q *Queue) Run(ctx context.Context) error {
	defer q.transport.CloseIdleConnections()
	d := delivery{Queue: q}
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-q.pending:
			pause(ctx, gather)
			d.all(ctx)
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	d.all(last)
	if left, _ := q.Waiting(); left > 0 {
		q.cfg.Dropped.Add(float64(left))
		q.cfg.Log.ErrorContext(ctx, "collector was away to the end", "signal", q.cfg.Signal, "items", left)
	}
	return nil
}

// delivery is for one goroutine.
type delivery struct {
	*Queue
	failing bool
}

// all sends everything that waits, until ctx ends.
func (d *delivery) all(ctx context.Context) {
	wait := firstRetry
	for items := d.take(); len(items) > 0 && ctx.Err() == nil; items = d.take() {
		rejected, err := d.send(ctx, items)
		switch {
		case err == nil:
			d.sent(ctx, len(items), rejected)
			wait = firstRetry
			continue
		case errors.Is(err, errRefused):
			d.cfg.Log.ErrorContext(ctx, "collector refused a batch", "signal", d.cfg.Signal, "items", len(items), "err", err)
			d.cfg.Dropped.Add(float64(len(items)))
			d.done(len(items))
			continue
		case !d.failing && ctx.Err() == nil:
			d.failing = true
			d.cfg.Log.WarnContext(ctx, "nothing arrives at the collector", "signal", d.cfg.Signal, "err", err)
		}
		pause(ctx, wait/2+rand.N(wait/2)) //nolint:gosec // spreads load, hides nothing
		wait = min(2*wait, longestRetry)
	}
}

func (d *delivery) sent(ctx context.Context, n, rejected int) {
	d.done(n)
	rejected = min(max(rejected, 0), n)
	d.cfg.Sent.Add(float64(n - rejected))
	d.cfg.Dropped.Add(float64(rejected))
	if d.failing {
		d.failing = false
		d.cfg.Log.InfoContext(ctx, "what is sent arrives at the collector again", "signal", d.cfg.Signal)
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
