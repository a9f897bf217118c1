// Package redis counts rate limits for all proxies that share a Redis or Valkey
// server, and says how many they are.
package redis

import (
	"context"
	"crypto/tls"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/internal/quota"
)

// Config is what a Store needs. Address, Instance and Log are required.
type Config struct {
	Address  string      // host:port
	TLS      *tls.Config // nil for none
	Username string      // the server's default user when empty
	// Password is asked for each connection; nil for none.
	Password func() (string, error)
	// Instance names this proxy among those that share the server.
	Instance string
	Log      *slog.Logger
	// Registerer takes the metrics; they are not shown when it is nil.
	Registerer prometheus.Registerer
	// Timeout is how long a request waits for the server; 20 ms when zero.
	Timeout time.Duration
}

const (
	// mostWaiting bounds the questions that wait for the server.
	mostWaiting = 8192
	// pause is for how long nobody waits for a server that did not answer in time.
	pause = time.Second
	// beat is how often a proxy says that it counts here, and present how many
	// seconds that is good for.
	beat    = time.Second
	present = "5"
	// patience is how long a connection may be silent.
	patience = 3 * time.Second
)

//go:embed gcra.lua
var countScript string

//go:embed presence.lua
var presenceScript string

// Store counts at a server. It is safe for concurrent use.
type Store struct {
	config  Config
	log     *slog.Logger
	asks    chan *ask
	metrics *metrics

	up      atomic.Bool  // there is a connection
	paused  atomic.Int64 // nobody waits before this time, in Unix nanoseconds
	proxies atomic.Int64 // as the server said last; 0 before
}

// ask is a question on its way.
type ask struct {
	command []byte
	done    chan []string // has room for one, closed when there is no answer; nil of presence
}

// New returns a Store that does not answer before Run has a connection.
func New(c Config) (*Store, error) {
	if c.Address == "" || c.Instance == "" || c.Log == nil {
		return nil, errors.New("the Address, Instance and Log are required")
	}
	if c.Timeout == 0 {
		c.Timeout = 20 * time.Millisecond
	}
	s := &Store{config: c, log: c.Log, asks: make(chan *ask, mostWaiting)}
	m, err := newMetrics(c.Registerer, s)
	if err != nil {
		return nil, fmt.Errorf("register metrics of the limit store: %w", err)
	}
	s.metrics = m
	return s, nil
}

// Proxies returns how many proxies counted here when the server was last asked; 0
// when it never answered.
func (s *Store) Proxies() int64 { return s.proxies.Load() }

// Take counts a request; ok is false when the server did not answer in time.
func (s *Store) Take(ctx context.Context, key string, rate quota.Rate, cost int64) (o quota.Outcome, ok bool) {
	cost = min(max(cost, 0), rate.Burst()+1)
	got, ok := s.question(ctx, counting(key, rate, cost))
	if ok {
		o, ok = outcome(got, rate, cost)
	}
	if !ok {
		s.metrics.missed.Inc()
	}
	return o, ok
}

// Give takes back what Take has counted and allowed. It does not wait.
func (s *Store) Give(key string, rate quota.Rate, cost int64) {
	if s.up.Load() {
		s.put(&ask{command: counting(key, rate, -min(max(cost, 0), rate.Burst()+1)), done: make(chan []string, 1)})
	}
}

func counting(key string, rate quota.Rate, cost int64) []byte {
	micro := func(d time.Duration) string {
		return strconv.FormatFloat(float64(d)/float64(time.Microsecond), 'f', 3, 64)
	}
	return command(nil, "EVALSHA", countSum, "1", key, micro(rate.Interval), micro(rate.Tolerance), strconv.FormatInt(cost, 10))
}

func outcome(got []string, rate quota.Rate, cost int64) (o quota.Outcome, ok bool) {
	if len(got) != 2 {
		return o, false
	}
	used, err := strconv.ParseInt(got[1], 10, 64)
	if err != nil {
		return o, false
	}
	_, o = rate.Take(time.Duration(used)*time.Microsecond, 0, 0)
	if o.Allowed = got[0] == "1"; !o.Allowed {
		o.Retry = max(o.Reset+time.Duration(cost)*rate.Interval-rate.Tolerance, 1)
	}
	return o, true
}

// question waits for an answer, but not for long, and not at all for a server that
// has just let somebody wait in vain.
func (s *Store) question(ctx context.Context, command []byte) ([]string, bool) {
	if !s.up.Load() || time.Now().UnixNano() < s.paused.Load() {
		return nil, false
	}
	a := &ask{command: command, done: make(chan []string, 1)}
	if !s.put(a) {
		return nil, false
	}
	timer := time.NewTimer(s.config.Timeout)
	defer timer.Stop()
	select {
	case got, ok := <-a.done:
		return got, ok
	case <-ctx.Done():
	case <-timer.C:
		s.paused.Store(time.Now().Add(pause).UnixNano())
	}
	return nil, false
}

func (s *Store) put(a *ask) bool {
	select {
	case s.asks <- a:
		return true
	default:
		return false
	}
}
