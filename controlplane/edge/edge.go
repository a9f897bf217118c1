// Package edge makes a replica of the control plane that needs no database: it admits
// proxies by the roster in etcd, and hands on what they say to replicas that have one.
package edge

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/controlplane/roster"
	"github.com/sallyport/sallyport/internal/identity"
)

// Config is what an Edge needs. All fields are required, but for Registerer and Now.
type Config struct {
	// Replica names this edge in listings.
	Replica string
	// Full are the URLs of replicas with a database, where they serve proxies, and
	// FullID is their SPIFFE ID.
	Full     []string
	FullID   identity.ID
	Identity *identity.Source
	Roster   *roster.Follower
	Log      *slog.Logger

	Registerer prometheus.Registerer // takes the metrics; none when nil
	Now        func() time.Time      // time.Now when nil
}

// Edge keeps account of the proxies of a replica without a database. What it could not
// hand on yet is the newest of each proxy, and no more than of 20,000 that are gone. It
// is safe for concurrent use.
type Edge struct {
	roster   *roster.Follower
	full     *upstream
	store    *store
	registry *registry.Registry
	log      *slog.Logger
	now      func() time.Time
}

// New returns an edge that admits nobody until Run has taken a roster.
func New(c Config) (*Edge, error) {
	if len(c.Full) == 0 {
		return nil, errors.New("edge: no replica with a database is named")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	e := &Edge{roster: c.Roster, log: c.Log, now: c.Now}
	var err error
	if e.full, err = newUpstream(c); err != nil {
		return nil, err
	}
	e.store = &store{
		edge: e, replica: c.Replica,
		waiting: map[chan struct{}]struct{}{}, approved: map[string]bool{}, rulings: rulings{of: map[string]ruling{}},
	}
	e.registry = registry.New(registry.Config{
		Store: e.store, Replica: c.Replica, Log: c.Log, KeepAcks: true, Registerer: c.Registerer, Now: c.Now,
	})
	return e, nil
}

// Registry returns the registry of this edge, which Run runs. It knows the proxies that
// are connected here, and no others.
func (e *Edge) Registry() *registry.Registry { return e.registry }

// Run follows the roster, hands on what proxies say, and asks them what others want to
// know, until ctx ends. It outlives every failure of etcd and of other replicas.
func (e *Edge) Run(ctx context.Context) error {
	var g errgroup.Group
	for _, part := range []func(context.Context) error{e.roster.Run, e.registry.Run, e.store.follow, e.inspect} {
		g.Go(func() error { return part(ctx) })
	}
	return g.Wait()
}

// RosterAge returns how long ago the roster was confirmed to be the newest; false
// before there is one.
func (e *Edge) RosterAge() (time.Duration, bool) {
	r, _ := e.roster.Current()
	if r == nil {
		return 0, false
	}
	return max(e.now().Sub(r.IssuedAt), 0), true
}
