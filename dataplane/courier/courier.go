// Package courier brings decision records to the control plane, on a connection of
// their own. No request waits for it, but those whose record has to be safe first.
package courier

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/dataplane/record"
	"github.com/sallyport/sallyport/dataplane/record/spool"
	"github.com/sallyport/sallyport/internal/identity"
)

const (
	// defaultQueue is that of Config.Queue.
	defaultQueue = 16 << 20
	// gather is how long records wait for others before they are sent.
	gather = 50 * time.Millisecond
	// farewell is how long sending what is left may take at the end.
	farewell = 3 * time.Second
)

// Config is what a Courier needs. The first six are required.
type Config struct {
	// ControlPlanes are the URLs of replicas, tried in random order, and
	// ControlPlaneID is who has to answer there.
	ControlPlanes  []string
	ControlPlaneID identity.ID
	Identity       *identity.Source
	// Instance names this process among those with the same SPIFFE ID.
	Instance string
	// SpoolDirectory keeps what must not be lost. It is created if need be, and
	// belongs to one process at a time.
	SpoolDirectory string
	Log            *slog.Logger

	// Registerer takes the metrics; they are not shown when it is nil.
	Registerer prometheus.Registerer
	// SpoolLimit bounds the spool, in bytes; 256 MiB when zero.
	SpoolLimit int64
	// Queue bounds, in bytes, what waits for the control plane in memory; 16 MiB
	// when zero.
	Queue int
	Now   func() time.Time // time.Now when nil
}

// Courier implements record.Remote.
type Courier struct {
	cfg     Config
	metrics *metrics
	drafts  drafts
	floods  floods
	queue   *queue
	spool   *spool.Spool

	dropped atomic.Int64
}

var _ record.Remote = (*Courier)(nil)

// New returns a Courier that has started nothing.
func New(c Config) (*Courier, error) {
	switch {
	case len(c.ControlPlanes) == 0, c.ControlPlaneID == "", c.Identity == nil:
		return nil, errors.New("ControlPlanes, their ID and the Identity are required")
	case c.Instance == "", c.SpoolDirectory == "", c.Log == nil:
		return nil, errors.New("the Instance, SpoolDirectory and Log are required")
	case c.Queue < 0:
		return nil, errors.New("Queue must not be negative")
	}
	if c.Queue == 0 {
		c.Queue = defaultQueue
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	kept, err := spool.New(spool.Config{Directory: c.SpoolDirectory, Limit: c.SpoolLimit, Log: c.Log})
	if err != nil {
		return nil, err
	}
	courier := &Courier{cfg: c, queue: newQueue(c.Queue), spool: kept}
	if _, err := rand.Read(courier.queue.boot[:]); err != nil {
		return nil, err
	}
	if courier.metrics, err = newMetrics(c.Registerer, courier); err != nil {
		return nil, fmt.Errorf("register metrics of the courier: %w", err)
	}
	return courier, nil
}

// Load takes up the required records that earlier processes did not get rid of. It
// comes before Run.
func (c *Courier) Load() error { return c.spool.Load() }

// Dropped returns how many records were lost, because there was no room for them or
// the control plane could not understand them.
func (c *Courier) Dropped() int64 { return c.dropped.Load() }

// Decide implements record.Remote.
func (c *Courier) Decide(d *record.Decision) (taken bool) {
	if d.Allow {
		count, takes := d.Rule.Takes(c.cfg.Now)
		return takes && c.put(c.drafts.encode(d, count))
	}
	f, single := c.floods.take(d, c.cfg.Now())
	switch {
	case single:
		return c.put(c.drafts.encode(d, 1))
	case f.begins():
		first := c.drafts.encode(d, 0)
		f.hold(*first)
		c.drafts.release(first)
	}
	return false
}

// Finish implements record.Remote.
func (c *Courier) Finish(o *record.Outcome) { c.put(c.drafts.ending(o)) }

// Require implements record.Remote.
func (c *Courier) Require(ctx context.Context, d *record.Decision) error {
	encoded := c.drafts.encode(d, 1)
	defer c.drafts.release(encoded)
	if err := c.spool.Append(ctx, *encoded); err != nil {
		c.metrics.refused.Inc()
		return fmt.Errorf("%w: %w", record.ErrUnavailable, err)
	}
	return nil
}

// put queues a record, and releases it. It reports whether there was room.
func (c *Courier) put(encoded *[]byte) bool {
	defer c.drafts.release(encoded)
	if len(*encoded) == 0 || !c.queue.put(*encoded) {
		c.drop(1)
		return false
	}
	return true
}

func (c *Courier) drop(n int64) {
	c.dropped.Add(n)
	c.metrics.dropped.Add(float64(n))
}

// Run brings records to the control plane until ctx ends, and then what is left, for
// a moment. It returns nil. Losing the control plane ends nothing. Who lets requests
// through ends before.
func (c *Courier) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.spool.Run(ctx) })
	g.Go(func() error { return c.tally(ctx) })
	g.Go(func() error { return newTrip(c).run(ctx) })
	return errors.Join(g.Wait(), c.spool.Close())
}

// tally queues the counts of floods each second until ctx ends.
func (c *Courier) tally(ctx context.Context) error {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			c.flush()
		}
	}
}

// flush queues the counts of what was denied too often to be recorded one by one.
func (c *Courier) flush() {
	for _, counted := range c.floods.flush() {
		if !c.queue.put(counted) {
			c.drop(1)
		}
	}
}
