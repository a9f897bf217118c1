// Package controlplane wires one replica of the control plane from its
// settings.
package controlplane

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/controlplane/api"
	"github.com/sallyport/sallyport/controlplane/balance"
	"github.com/sallyport/sallyport/controlplane/decisions"
	"github.com/sallyport/sallyport/controlplane/edge"
	"github.com/sallyport/sallyport/controlplane/intake"
	"github.com/sallyport/sallyport/controlplane/keyring"
	"github.com/sallyport/sallyport/controlplane/logout"
	"github.com/sallyport/sallyport/controlplane/publish"
	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/controlplane/stream"
	"github.com/sallyport/sallyport/controlplane/upkeep"
	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/etcd"
	"github.com/sallyport/sallyport/storage/postgres"
)

const (
	// schemaRetry is when a database that cannot be reached at the start is
	// tried again.
	schemaRetry = time.Second
)

// Server is one replica of the control plane.
type Server struct {
	settings Settings
	log      *slog.Logger
	metrics  *prometheus.Registry

	domain    identity.TrustDomain
	source    *identity.Source
	signing   signing
	database  *postgres.Store
	records   *postgres.Decisions
	targets   targets
	feed      *etcd.Feed
	hub       *stream.Hub
	registry  *registry.Registry
	publisher *publish.Publisher
	upkeep    *upkeep.Upkeep
	timeline  *publish.Timeline
	keyring   *keyring.Keyring
	idps      *authn.Pool // for logout tokens
	logouts   *logout.Logouts
	proxies   *stream.Service
	nyms      *decisions.Pseudonyms
	decisions *decisions.Service
	callers   *callers
	observer  *observer
	balance   *balance.Balancer
	witnesses *witnesses
	api       *api.API
	crowded   prometheus.Counter // connections of proxies that were not let in
	intake    *intake.Service    // nil without edges
	edge      *edge.Edge         // nil unless this is one, and then much of the above is

	mu        sync.Mutex
	listening map[string]net.Addr // by listener
	draining  bool
}

// New checks the settings and builds a replica. It reads the files that they
// name, has a signing key in hardware sign something, and connects to nothing else.
func New(s Settings, log *slog.Logger) (*Server, error) {
	srv := &Server{settings: s, log: log, metrics: prometheus.NewRegistry(), listening: map[string]net.Addr{}}
	srv.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := srv.open(); err != nil {
		return nil, errors.Join(err, srv.close())
	}
	return srv, nil
}

// open builds the parts, in the order in which they need each other.
func (s *Server) open() error {
	parts := []func() error{s.openIdentity, s.openStores, s.openDistribution, s.openAPI}
	if s.settings.isEdge() {
		parts = []func() error{s.openIdentity, s.openEdge}
	}
	for _, part := range parts {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) openIdentity() error {
	addr, err := identity.SocketAddr(s.settings.Workload.Socket)
	if err != nil {
		return fmt.Errorf("workload.socket: %w", err)
	}
	if s.domain, err = identity.ParseTrustDomain(s.settings.Workload.TrustDomain); err != nil {
		return fmt.Errorf("workload.trust_domain: %w", err)
	}
	s.source, err = identity.New(identity.Config{SocketAddr: addr, TrustDomain: s.domain, Log: s.log})
	return err
}

func (s *Server) openStores() (err error) {
	if s.database, err = s.settings.Database.open(s.settings.Replica, s.log); err != nil {
		return fmt.Errorf("database: %w", err)
	}
	if s.records, err = s.settings.Decisions.open(&s.settings.Database, s.log); err != nil {
		return fmt.Errorf("database: %w", err)
	}
	s.targets, err = s.settings.openTargets(s.log)
	return err
}

func (s *Server) openDistribution() error {
	key, err := s.settings.secretsKey()
	if err != nil {
		return err
	}
	if s.signing, err = s.settings.signing(); err != nil {
		return err
	}
	s.feed = etcd.NewFeed(s.targets.followed)
	s.hub = stream.NewHub(s.feed, s.targets.followed, s.signing.verifier, s.log)
	s.registry = registry.New(registry.Config{
		Store: s.database, Replica: s.settings.Replica, Log: s.log,
		ForgetLostAfter: time.Duration(s.settings.Fleet.ForgetLostAfterDays) * 24 * time.Hour, Registerer: s.metrics,
		SVIDs: s.source,
	})
	if s.keyring, err = keyring.New(keyring.Config{Store: s.database, Key: key, Log: s.log}); err != nil {
		return err
	}
	if s.idps, err = authn.New(authn.Config{Log: s.log}); err != nil {
		return err
	}
	s.logouts = logout.New(logout.Config{
		States: s.hub, Keys: s.keyring, Pool: s.idps, Security: s.database.Security(), Log: s.log,
	})
	s.timeline = publish.NewTimeline(publish.TimelineConfig{
		Store: s.database, Targets: s.targets.places(), Verifier: s.signing.verifier, Log: s.log,
	})
	s.proxies = stream.NewService(stream.Config{
		Hub: s.hub, Registry: s.registry, Keys: s.keyring, LoggedOut: s.logouts.CutOff, Shown: s.timeline.Show, Log: s.log,
		Recheck: s.recheck,
	})
	s.upkeep = upkeep.New(upkeep.Config{Places: s.targets.kept(), Log: s.log, Registerer: s.metrics})
	s.publisher = publish.New(publish.Config{
		Store:      s.database,
		Election:   s.targets.election,
		Targets:    s.targets.places(),
		Security:   s.database.Security(),
		Signer:     s.signing.Signer,
		Verifier:   s.signing.verifier,
		Holder:     s.settings.Replica,
		Log:        s.log,
		Meanwhile:  s.meanwhile(),
		Registerer: s.metrics,
	})
	if err := s.countCrowded(); err != nil {
		return err
	}
	s.balance, s.witnesses = s.balancer(), newWitnesses(s)
	if s.observer, err = newObserver(s); err != nil {
		return err
	}
	return s.openDecisions(key)
}

// meanwhile is what the replica that publishes does besides.
func (s *Server) meanwhile() []publish.Task {
	tasks := []publish.Task{s.upkeep.Elected, func(ctx context.Context, _ storage.Term) error { return s.registry.ForgetLost(ctx) }}
	if days := s.settings.Revisions.RetentionDays; days > 0 {
		tasks = append(tasks, publish.NewRetention(publish.RetentionConfig{
			History: s.database, For: time.Duration(days) * 24 * time.Hour, Log: s.log,
		}).Run)
	}
	return append(tasks, s.rosters()...)
}

// countCrowded makes the counter of connections that are not let in.
func (s *Server) countCrowded() error {
	s.crowded = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "sallyport_proxy_connections_refused_total",
		Help: "Connections of proxies that were closed because too many came at once. They come again.",
	})
	return s.metrics.Register(s.crowded)
}

func (s *Server) openDecisions(key ed25519.PrivateKey) (err error) {
	if s.nyms, err = decisions.NewPseudonyms(key); err != nil {
		return err
	}
	s.decisions, err = decisions.New(decisions.Config{
		Sink: s.records, Registry: s.registry, States: s.hub, Pseudonyms: s.nyms, Log: s.log,
		Retention: time.Duration(s.settings.Decisions.RetentionDays) * 24 * time.Hour, Registerer: s.metrics,
	})
	if err == nil {
		s.openIntake()
	}
	return err
}

func (s *Server) openAPI() (err error) {
	if s.callers, err = newCallers(s.settings.Admin.IdentityProviders, s.metrics, s.log); err != nil {
		return err
	}
	control, err := s.settings.Admin.control()
	if err != nil {
		return err
	}
	s.api, err = api.New(api.Config{
		Store:    &compared{s.database, s.timeline, s.witnesses},
		Registry: s.registry,
		Control:  control,
		Identify: s.callers.identify,
		Log:      s.log,
		Targets:  s.targets.names(),

		Decisions: s.records,
		Pseudonym: s.nyms.Of,
		Published: s.hub.Bundle,
		Edges:     s.askable(),
		Signer:    s.signing.Signer,
		Verifier:  s.signing.verifier,

		Ready:   func() bool { return s.unready() == "" },
		Metrics: s.metrics,
	})
	return err
}

// Migrate brings the database of the settings to the schema of this build.
func Migrate(ctx context.Context, s Settings) error {
	if err := s.full(); err != nil {
		return err
	}
	dsn, err := s.Database.dsn()
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	return postgres.Migrate(ctx, dsn)
}

// Run serves until ctx ends or a listener fails, then drains. Losing Postgres,
// etcd or the Workload API ends nothing.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.source.Run(ctx) })
	g.Go(func() error { return s.health(ctx) })
	if s.edge != nil {
		g.Go(func() error { return s.serveEdge(ctx) })
	} else {
		g.Go(func() error { return s.serveAll(ctx) })
	}
	return errors.Join(g.Wait(), s.close())
}

// serveAll serves operators and proxies once the database has the schema of
// this build.
func (s *Server) serveAll(ctx context.Context) error {
	if err := s.await(ctx, s.database.CheckSchema); err != nil || ctx.Err() != nil {
		return err
	}
	// What the database says of keys counts before what etcd does: a key that was
	// retired could make a chain of its own for a replica that knows of none yet.
	if err := s.await(ctx, s.publisher.Learn); err != nil || ctx.Err() != nil {
		return err
	}
	s.witnesses.begin(ctx, s)
	g, ctx := errgroup.WithContext(ctx)
	for _, part := range []func(context.Context) error{
		s.database.Run, s.feed.Run, s.hub.Run, s.registry.Run, s.publish, s.upkeep.Run, s.timeline.Run, s.keyring.Run, s.idps.Run, s.callers.Run,
		s.observer.Run, s.decisions.Run, s.api.Run, s.balance.Run, s.serveAdmin, s.serveProxies,
	} {
		g.Go(func() error { return part(ctx) })
	}
	return g.Wait()
}

// close ends the connections that there are.
func (s *Server) close() error {
	s.signing.close()
	if s.database != nil {
		s.database.Close()
	}
	if s.records != nil {
		s.records.Close()
	}
	return s.targets.close()
}

// await asks the database until it can be reached, or ctx ends. What it says then,
// such as that its schema does not fit this build, is an error: someone has to act.
func (s *Server) await(ctx context.Context, ask func(context.Context) error) error {
	for {
		err := ask(ctx)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		if !postgres.Unreachable(err) {
			return err
		}
		s.log.WarnContext(ctx, "database cannot be reached yet", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(schemaRetry):
		}
	}
}
