// Package link keeps one proxy current: it follows the control plane's stream,
// puts verified snapshots in force, proves what is enforced, and keeps the last
// good snapshot on disk.
//
// Nothing here touches a request: whatever happens to the control plane, the
// network or the disk, what is in force stays in force. DESIGN.md in this
// directory has the state machine.
package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
)

const (
	// beatEvery is how often a proxy says that it lives.
	beatEvery = 10 * time.Second
	// silence is how long the control plane may say nothing: three freshness
	// statements and a half.
	silence = 35 * time.Second
)

// Enforcer is what decides requests. Its methods are safe for concurrent use;
// Enforce is called by one goroutine at a time.
type Enforcer interface {
	// Enforce compiles s and puts it in force: requests that begin after it has
	// returned are decided by s.
	Enforce(s *snapshot.Snapshot)
	// Enforced says what is in force, computed from what decides at this moment
	// and not from what Enforce was given.
	Enforced() Enforced
	// Listeners says how the listeners of what is in force are doing.
	Listeners() []Listener
	// Changed receives after a listener changed. It carries no data.
	Changed() <-chan struct{}
}

// Enforced is what an Enforcer has in force. The zero value is nothing.
type Enforced struct {
	Root    snapshot.Digest
	Rejects []Reject
}

// Reject is a resource that is not enforced as it was meant, and denies.
type Reject struct {
	Key    resource.Key
	Reason string
}

// Listener is the status of one listener.
type Listener struct {
	Namespace, Name string
	Address         string // where it is bound
	Err             string // why it is not; empty when it is
}

// Config is what a Link needs. All fields are required, but for those that say
// otherwise.
type Config struct {
	// ControlPlanes are the URLs of replicas (https://host:port), tried in
	// random order.
	ControlPlanes []string
	// ControlPlaneID is who has to answer there.
	ControlPlaneID identity.ID
	// Identity is ours.
	Identity *identity.Source
	// Instance names this process among those with the same SPIFFE ID.
	Instance string
	// Build is what this process says of itself.
	Build string
	// Verifier holds the pinned key.
	Verifier *snapshot.Verifier
	// Directory keeps the last good snapshot. It is created if need be, and
	// belongs to one process at a time.
	Directory string
	Enforcer  Enforcer
	Log       *slog.Logger

	// Registerer takes the metrics; they are not shown when it is nil.
	Registerer prometheus.Registerer
	// Heartbeat is the time between two heartbeats; 10 s when zero.
	Heartbeat time.Duration
	// Silence is how long the control plane may say nothing; 35 s when zero.
	Silence time.Duration
	Now     func() time.Time // time.Now when nil
}

func (c *Config) complete() error {
	switch {
	case len(c.ControlPlanes) == 0:
		return errors.New("ControlPlanes are required")
	case c.Identity == nil, c.Verifier == nil:
		return errors.New("Identity and Verifier are required")
	case c.Enforcer == nil, c.Log == nil:
		return errors.New("Enforcer and Log are required")
	case c.Instance == "", c.Directory == "":
		return errors.New("Instance and Directory are required")
	case c.Heartbeat < 0, c.Silence < 0:
		return errors.New("Heartbeat and Silence must not be negative")
	}
	if _, err := identity.ParseID(string(c.ControlPlaneID)); err != nil {
		return err
	}
	for _, raw := range c.ControlPlanes {
		if err := CheckURL(raw); err != nil {
			return err
		}
	}
	if c.Heartbeat == 0 {
		c.Heartbeat = beatEvery
	}
	if c.Silence == 0 {
		c.Silence = silence
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return nil
}

// CheckURL says what is wrong with the URL of a control plane: it has to be
// https://host:port and no more.
func CheckURL(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return fmt.Errorf("control plane: %w", err)
	case u.Scheme != "https", u.Hostname() == "", u.Port() == "":
		return fmt.Errorf("control plane %q: want https://host:port", raw)
	case u.User != nil, u.Path != "" && u.Path != "/", u.RawQuery != "", u.Fragment != "":
		return fmt.Errorf("control plane %q: want https://host:port and no more", raw)
	}
	return nil
}

// Link keeps one proxy current. Use Run once.
type Link struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics

	// current is the newest snapshot that was accepted, nil before the first,
	// and marks are what nothing accepted may lie before. They belong to the
	// goroutine of follow, after restore.
	current *snapshot.Snapshot
	marks   marks
	// failing says that the control plane was not reached the last time. It
	// belongs to the goroutine of follow.
	failing bool

	// clock belongs to the goroutine of follow; its age is for everybody.
	clock clock
	// said is what the proxy says that it enforces, nil before the first. It is
	// made by enforce alone, after the swap.
	said atomic.Pointer[statement]
	// news has room for one: said or what is on disk has changed.
	news chan struct{}

	keeper *keeper
}

// New checks c and builds a Link. It starts nothing and touches no file.
func New(c Config) (*Link, error) {
	if err := c.complete(); err != nil {
		return nil, fmt.Errorf("new link: %w", err)
	}
	l := &Link{cfg: c, log: c.Log, marks: marks{}, news: make(chan struct{}, 1)}
	m, err := newMetrics(c.Registerer, l.Age)
	if err != nil {
		return nil, fmt.Errorf("new link: register metrics: %w", err)
	}
	l.metrics = m
	l.keeper = newKeeper(c.Log, m, l.tell)
	return l, nil
}

// Run puts the last good snapshot in force and then keeps the proxy current
// until ctx ends. It outlives every failure of the control plane, the identity
// source and the disk; its only errors are a state directory that cannot be
// used, or that another process uses.
func (l *Link) Run(ctx context.Context) error {
	d, err := openDisk(l.cfg.Directory)
	if err != nil {
		return err
	}
	l.restore(ctx, d)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.keeper.run(ctx, d) })
	g.Go(func() error { return l.follow(ctx) })
	return errors.Join(g.Wait(), d.close())
}

// Age returns for how long the control plane has not confirmed what is
// enforced; false if it never has. It is cheap enough to ask for each request.
func (l *Link) Age() (time.Duration, bool) { return l.clock.age(l.cfg.Now()) }

// Enforcing reports whether a snapshot was put in force.
func (l *Link) Enforcing() bool { return l.said.Load() != nil }

// tell wakes the sender of the stream that is open, if one is.
func (l *Link) tell() {
	select {
	case l.news <- struct{}{}:
	default:
	}
}

// restore puts the last good snapshot in force, before anybody is asked.
func (l *Link) restore(ctx context.Context, d *disk) {
	l.marks = l.readMarks(ctx, d)
	last := l.readLastGood(ctx, d)
	if last == nil {
		return
	}
	mark := l.marks[last.Head().Environment]
	if mark.Position().After(last.Head().Position()) {
		l.log.WarnContext(ctx, "last-good snapshot is older than what was enforced",
			"revision", last.Head().Revision, "high_water_mark", mark.Revision)
	}
	l.keeper.restored(last.Head())
	l.enforce(last)
	if f, err := d.readFreshness(l.cfg.Verifier); err == nil {
		l.clock.take(f, last.Head())
	} else if !notThere(err) {
		l.log.WarnContext(ctx, "last freshness statement cannot be used", "err", err)
	}
	l.log.InfoContext(ctx, "last-good snapshot enforced",
		"environment", last.Head().Environment, "revision", last.Head().Revision)
}

// readMarks goes on without what cannot be read: whoever can damage the file
// can remove it as well, and then it is that of a new proxy.
func (l *Link) readMarks(ctx context.Context, d *disk) marks {
	m, err := d.readMarks()
	if err != nil && !notThere(err) {
		l.log.ErrorContext(ctx, "high-water mark is unreadable: older snapshots would be accepted up to that of last-good", "err", err)
	}
	return m
}

// readLastGood returns the newest generation that verifies; nil if none does.
func (l *Link) readLastGood(ctx context.Context, d *disk) *snapshot.Snapshot {
	for _, name := range [...]string{lastGoodFile, previousFile} {
		s, err := d.readSnapshot(name, l.cfg.Verifier)
		switch {
		case err == nil && name == previousFile:
			l.log.ErrorContext(ctx, "previous generation of the last-good snapshot is used", "revision", s.Head().Revision)
			return s
		case err == nil:
			return s
		case !notThere(err):
			l.metrics.damaged.Inc()
			l.log.ErrorContext(ctx, "last-good snapshot cannot be used", "file", name, "err", err)
		}
	}
	return nil
}
