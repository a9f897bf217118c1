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
	"iter"
	"log/slog"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/dataplane/vault"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/proof"
	"github.com/sallyport/sallyport/internal/resource"
	cookie "github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/snapshot"
)

const (
	// beatEvery is how often a proxy says that it lives.
	beatEvery = 10 * time.Second
	// silence is how long the control plane may say nothing: three freshness
	// statements and a half.
	silence = 35 * time.Second
)

// Enforcer has one lane's snapshots be in force. Its methods are safe for
// concurrent use; Enforce is called by one goroutine at a time.
type Enforcer interface {
	// Enforce compiles s and puts it in force: requests that begin after it has
	// returned are decided by s, and for the security lane what is open as well.
	Enforce(s *snapshot.Snapshot)
	// Enforced says what is in force, computed from what decides at this moment
	// and not from what Enforce was given.
	Enforced() Enforced
}

// Listeners are those that clients reach the proxy by. Its methods are safe for
// concurrent use.
type Listeners interface {
	// Listeners says how the listeners of what is in force are doing.
	Listeners() []Listener
	// Changed receives after a listener changed. It carries no data.
	Changed() <-chan struct{}
}

// Enforced is what an Enforcer has in force. The zero value is nothing.
type Enforced struct {
	Root    snapshot.Digest
	Rejects []resource.Reject
	// Live yields the digest of each document that is in force, as it is when it is
	// called; nil if that is not told.
	Live iter.Seq2[resource.Key, snapshot.Digest]
}

// Listener is the status of one listener.
type Listener struct {
	Namespace, Name string
	Address         string // where it is bound
	Err             string // why it is not; empty when it is
}

// Assertions are the keys with which this proxy signs what upstreams are told.
// Its methods are safe for concurrent use.
type Assertions interface {
	// Points returns the public keys, as uncompressed points.
	Points() [][]byte
	// Reported says that the control plane was told these.
	Reported(points [][]byte)
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
	// Verifier has the pinned key, and is led on by the key sets that come.
	Verifier *snapshot.Verifier
	// Directory keeps the last good snapshot. It is created if need be, and
	// belongs to one process at a time.
	Directory string
	// Policy is given the environment's snapshots, and Security those of the
	// security lane. Until both have one, nothing must be let through.
	Policy, Security Enforcer
	Listeners        Listeners
	Log              *slog.Logger

	// Bundle is what a proxy begins with that has nothing on its disk; nothing when
	// it names nothing.
	Bundle Bundle
	// Vault seals the cookie keys that are kept in Directory. They are not kept when it
	// is nil.
	Vault *vault.Vault
	// Assertions are the keys that the control plane is told of; none when nil.
	Assertions Assertions
	// UseCookieKeys has session cookies be sealed and opened with the keys of a
	// ring, from when it returns on. It is called by one goroutine at a time. When
	// it is nil, no keys are asked for.
	UseCookieKeys func(*cookie.Ring)
	// RecordsDropped says how many decision records did not reach the control plane;
	// none when it is nil.
	RecordsDropped func() int64
	// Cloud and Region are where this process says that it runs, for the fleet's
	// listings; empty for nowhere.
	Cloud, Region string
	// Drain is told whether load balancers are to leave this process out, from when
	// it returns on. It is called by one goroutine at a time. When it is nil, the
	// process never drains.
	Drain func(draining bool)
	// Load says what the process has to do; nothing when it is nil.
	Load func() Load
	// Registerer takes the metrics; they are not shown when it is nil.
	Registerer prometheus.Registerer
	// Heartbeat is the time between two heartbeats; 10 s when zero.
	Heartbeat time.Duration
	// Silence is how long the control plane may say nothing; 35 s when zero.
	Silence time.Duration
	Now     func() time.Time // time.Now when nil
}

// Load is what a process has to do.
type Load struct {
	Requests      int64         // since it began
	OpenRequests  int64         // now
	ProcessorTime time.Duration // since it began
	Processors    int           // that it may use at once
}

func (c *Config) complete() error {
	switch {
	case len(c.ControlPlanes) == 0:
		return errors.New("ControlPlanes are required")
	case c.Identity == nil, c.Verifier == nil:
		return errors.New("Identity and Verifier are required")
	case c.Policy == nil, c.Security == nil, c.Listeners == nil:
		return errors.New("the Policy, Security and Listeners are required")
	case c.Log == nil:
		return errors.New("Log is required")
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
	if err := c.Bundle.Check(); err != nil {
		return fmt.Errorf("bundle: %w", err)
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

	policy, security *lane
	keys             *keys
	cookies          *cookies // nil for none
	replica          reach
	started          time.Time
	draining         atomic.Bool // as the control plane said last
	signs            *proof.Key  // of this process, for what it acknowledges

	// failing says that the control plane was not reached the last time. It
	// belongs to the goroutine of follow.
	failing bool
	// news has room for one: what a lane has said or has on disk is not what it
	// was.
	news chan struct{}
}

// New checks c and builds a Link. It starts nothing and touches no file.
func New(c Config) (*Link, error) {
	if err := c.complete(); err != nil {
		return nil, fmt.Errorf("new link: %w", err)
	}
	l := &Link{cfg: c, log: c.Log, news: make(chan struct{}, 1), started: c.Now()}
	m, err := newMetrics(c.Registerer, l.Age, l.SecurityAge)
	if err != nil {
		return nil, fmt.Errorf("new link: register metrics: %w", err)
	}
	l.metrics = m
	if l.signs, err = proof.NewKey(); err != nil {
		return nil, fmt.Errorf("new link: %w", err)
	}
	l.keys = &keys{verifier: c.Verifier, log: c.Log, metrics: m}
	l.policy = newLane(policyLore, c.Policy, &l.cfg, m.policy, l.tell)
	l.security = newLane(securityLore, c.Security, &l.cfg, m.security, l.tell)
	l.policy.signs, l.security.signs = l.signs, l.signs
	if l.cookies, err = newCookies(l); err != nil {
		return nil, fmt.Errorf("new link: %w", err)
	}
	return l, nil
}

// Run puts the last good snapshots in force and then keeps the proxy current
// until ctx ends. It outlives every failure of the control plane, the identity
// source and the disk; its only errors are a state directory that cannot be
// used, or that another process uses.
func (l *Link) Run(ctx context.Context) error {
	d, err := openDisk(l.cfg.Directory)
	if err != nil {
		return err
	}
	l.keys.restore(ctx, d.part("", false))
	g, running := errgroup.WithContext(ctx)
	for _, lane := range [...]*lane{l.security, l.policy} {
		part := d.part(lane.prefix, !lane.strict)
		lane.restore(ctx, part)
		g.Go(func() error { return lane.run(running, part) })
	}
	if l.cookies != nil {
		part := d.part("", false)
		l.cookies.restore(ctx, part)
		g.Go(func() error { return l.cookies.run(running, part) })
	}
	if l.cfg.Bundle.given() && !l.whole() {
		g.Go(func() error { return l.boot(running) })
	}
	if l.Enforcing() && !l.Secured() {
		l.log.ErrorContext(ctx, "there is no security state: nothing is let through until one comes")
	}
	g.Go(func() error { return l.follow(running) })
	return errors.Join(g.Wait(), d.close())
}

// Age returns for how long the control plane has not confirmed what is
// enforced; false if it never has. It is cheap enough to ask for each request.
func (l *Link) Age() (time.Duration, bool) { return l.policy.age() }

// AgeAt returns the same as of a time.
func (l *Link) AgeAt(now time.Time) (time.Duration, bool) { return l.policy.clock.age(now) }

// SecurityAge returns the same of what is enforced of the security lane.
func (l *Link) SecurityAge() (time.Duration, bool) { return l.security.age() }

// SecurityAgeAt returns the same as of a time.
func (l *Link) SecurityAgeAt(now time.Time) (time.Duration, bool) { return l.security.clock.age(now) }

// Enforcing reports whether a snapshot of an environment was put in force.
func (l *Link) Enforcing() bool { return l.policy.said.Load() != nil }

// Secured reports whether a snapshot of the security lane was put in force.
func (l *Link) Secured() bool { return l.security.said.Load() != nil }

// whole reports whether something is in force in both lanes.
func (l *Link) whole() bool { return l.Enforcing() && l.Secured() }

// tell wakes the sender of the stream that is open, if one is.
func (l *Link) tell() {
	select {
	case l.news <- struct{}{}:
	default:
	}
}
