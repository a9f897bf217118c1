// Package controlplane wires one replica of the control plane from its
// settings.
package controlplane

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/controlplane/api"
	"github.com/sallyport/sallyport/controlplane/publish"
	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/controlplane/stream"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage/etcd"
	"github.com/sallyport/sallyport/storage/postgres"
)

const (
	// drainFor is how long calls and streams may take to end when the replica
	// stops.
	drainFor = 5 * time.Second
	// schemaRetry is when a database that cannot be reached at the start is
	// tried again.
	schemaRetry = time.Second
	// cursorName names the cursors of this fleet's etcd in the database.
	cursorName = "etcd"
)

// Server is one replica of the control plane.
type Server struct {
	settings Settings
	log      *slog.Logger
	metrics  *prometheus.Registry

	source    *identity.Source
	database  *postgres.Store
	etcd      *etcd.Store
	feed      *etcd.Feed
	hub       *stream.Hub
	registry  *registry.Registry
	publisher *publish.Publisher
	proxies   *stream.Service
	callers   *callers
	api       *api.API
}

// New checks the settings and builds a replica. It reads the files that they
// name and connects to nothing.
func New(s Settings, log *slog.Logger) (*Server, error) {
	srv := &Server{settings: s, log: log, metrics: prometheus.NewRegistry()}
	srv.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := srv.openStores(); err != nil {
		return nil, err
	}
	if err := srv.openIdentity(); err != nil {
		return nil, err
	}
	key, err := readSigningKey(s.SigningKeyFile)
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	signer := snapshot.NewSigner(key)
	srv.feed = etcd.NewFeed(srv.etcd)
	srv.hub = stream.NewHub(srv.feed, srv.etcd, signer.Verifier(), log)
	srv.registry = registry.New(registry.Config{Store: srv.database, Replica: s.Replica, Log: log})
	srv.proxies = stream.NewService(stream.Config{Hub: srv.hub, Registry: srv.registry, Log: log})
	srv.publisher = publish.New(publish.Config{
		Store:      srv.database,
		Target:     srv.etcd,
		TargetName: cursorName,
		Signer:     signer,
		Holder:     s.Replica,
		Log:        log,
	})
	if srv.callers, err = newCallers(s.Admin.IdentityProviders, srv.metrics, log); err != nil {
		return nil, err
	}
	control, err := s.Admin.control()
	if err != nil {
		return nil, err
	}
	srv.api, err = api.New(api.Config{
		Store:    srv.database,
		Registry: srv.registry,
		Control:  control,
		Identify: srv.callers.identify,
		Log:      log,
	})
	return srv, err
}

func (s *Server) openStores() error {
	url, err := readBounded(s.settings.Database.URLFile)
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	s.database, err = postgres.New(postgres.Config{
		DSN:      strings.TrimSpace(string(url)),
		MaxConns: s.settings.Database.MaxConnections,
		Log:      s.log,
	})
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	tlsConfig, err := s.settings.Etcd.tls()
	if err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	s.etcd, err = etcd.New(etcd.Config{
		Endpoints: s.settings.Etcd.Endpoints,
		TLS:       tlsConfig,
		Prefix:    s.settings.Etcd.Prefix,
		Log:       s.log,
	})
	return err
}

func (s *Server) openIdentity() error {
	addr, err := identity.SocketAddr(s.settings.Workload.Socket)
	if err != nil {
		return fmt.Errorf("workload.socket: %w", err)
	}
	domain, err := identity.ParseTrustDomain(s.settings.Workload.TrustDomain)
	if err != nil {
		return fmt.Errorf("workload.trust_domain: %w", err)
	}
	s.source, err = identity.New(identity.Config{SocketAddr: addr, TrustDomain: domain, Log: s.log})
	return err
}

// tls returns nil without certificates.
func (e *Etcd) tls() (*tls.Config, error) {
	if e.CAFile == "" {
		return nil, nil //nolint:nilnil // documented
	}
	ca, err := readBounded(e.CAFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("ca_file holds no certificate")
	}
	certificate, err := tls.LoadX509KeyPair(e.CertificateFile, e.PrivateKeyFile)
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: []tls.Certificate{certificate}}, nil
}

// Migrate brings the database of the settings to the schema of this build.
func Migrate(ctx context.Context, s Settings) error {
	url, err := readBounded(s.Database.URLFile)
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	return postgres.Migrate(ctx, strings.TrimSpace(string(url)))
}

// Run serves until ctx ends or a listener fails, then drains. Losing Postgres,
// etcd or the Workload API ends nothing.
func (s *Server) Run(ctx context.Context) error {
	defer s.close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.source.Run(ctx) })
	g.Go(func() error { return s.health(ctx) })
	if err := s.awaitSchema(ctx); err != nil {
		if ctx.Err() != nil {
			return g.Wait()
		}
		return err
	}
	g.Go(func() error { return s.database.Run(ctx) })
	g.Go(func() error { return s.feed.Run(ctx) })
	g.Go(func() error { return s.hub.Run(ctx) })
	g.Go(func() error { return s.registry.Run(ctx) })
	g.Go(func() error { return s.publisher.Run(ctx) })
	g.Go(func() error { return s.callers.Run(ctx) })
	g.Go(func() error { return s.serveAdmin(ctx) })
	g.Go(func() error { return s.serveProxies(ctx) })
	return g.Wait()
}

func (s *Server) close() {
	s.database.Close()
	if err := s.etcd.Close(); err != nil {
		s.log.Debug("etcd client was not closed", "err", err)
	}
}

// awaitSchema waits for the database. A schema that this build does not fit is
// an error: someone has to act.
func (s *Server) awaitSchema(ctx context.Context) error {
	for {
		err := s.database.CheckSchema(ctx)
		if err == nil || !postgres.Unreachable(err) {
			return err
		}
		s.log.WarnContext(ctx, "database cannot be reached yet", "err", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(schemaRetry):
		}
	}
}

func (s *Server) serveAdmin(ctx context.Context) error {
	var certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	if file := s.settings.Admin.CertificateFile; file != "" {
		certificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			c, err := tls.LoadX509KeyPair(file, s.settings.Admin.PrivateKeyFile) // renewed files count at once
			return &c, err
		}
	}
	return s.serve(ctx, listener{
		name:    "admin",
		address: s.settings.Admin.Address,
		tls:     identity.ListenerConfig(s.source, certificate),
		handler: s.api.Handler(),
	})
}

func (s *Server) serveProxies(ctx context.Context) error {
	domain, err := identity.ParseTrustDomain(s.settings.Workload.TrustDomain)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle(s.proxies.Handler())
	return s.serve(ctx, listener{
		name:    "proxies",
		address: s.settings.Proxies.Address,
		tls:     identity.ServerConfig(s.source, identity.Member(domain)),
		handler: mux,
		drain:   s.proxies.Drain,
	})
}

// listener is one address with what is served there.
type listener struct {
	name    string
	address string
	tls     *tls.Config // plain HTTP when nil
	handler http.Handler
	drain   func() // asks long streams to end; may be nil
}

// serve serves until ctx ends, then lets calls end for a while, and then ends
// them.
func (s *Server) serve(ctx context.Context, l listener) error {
	ln, err := net.Listen("tcp", l.address)
	if err != nil {
		return fmt.Errorf("listen for %s: %w", l.name, err)
	}
	if l.tls != nil {
		ln = tls.NewListener(ln, l.tls)
	}
	base, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	server := &http.Server{
		Handler:           l.handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // handshakes of strangers
		BaseContext:       func(net.Listener) context.Context { return base },
	}
	s.log.InfoContext(ctx, "listening", "listener", l.name, "address", ln.Addr().String())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve %s: %w", l.name, err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		if l.drain != nil {
			l.drain()
		}
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainFor)
		defer cancel()
		time.AfterFunc(drainFor/2, end)
		if err := server.Shutdown(stop); err != nil {
			return errors.Join(fmt.Errorf("drain %s: %w", l.name, err), server.Close())
		}
		return nil
	})
	return g.Wait()
}
