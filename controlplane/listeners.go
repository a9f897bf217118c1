package controlplane

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/internal/identity"
)

const (
	// drainFor is how long calls and streams may take to end when the replica
	// stops.
	drainFor = 5 * time.Second
	// patience is how long a call may take to be read where nothing less is said, and
	// half of how long it may take in all.
	patience = time.Minute
)

// The listeners of a replica.
const (
	ListenerAdmin   = "admin"
	ListenerProxies = "proxies"
	ListenerHealth  = "health"
)

func (s *Server) serveAdmin(ctx context.Context) error {
	var certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	if s.settings.Admin.CertificateFile != "" {
		pair := &keyPair{certificate: s.settings.Admin.CertificateFile, key: s.settings.Admin.PrivateKeyFile, log: s.log}
		certificate = pair.current
	}
	config := identity.ListenerConfig(s.source, certificate)
	config.MinVersion = tls.VersionTLS13 // operators' programs are ours to choose
	return s.serve(ctx, listener{
		name:    ListenerAdmin,
		address: s.settings.Admin.Address,
		tls:     config,
		handler: s.adminHandler(),
		drain:   s.api.Drain,
	})
}

// adminHandler serves operators, and whoever wants to verify assertions.
func (s *Server) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /.well-known/sallyport/{environment}/jwks.json", &keySets{keys: s.registry.AssertionKeys, sets: map[string]keySet{}})
	mux.Handle("/", s.api.Handler())
	return impatient(mux)
}

func (s *Server) serveProxies(ctx context.Context) error {
	return s.serveStreams(ctx, s.proxiesHandler())
}

// peers says whose SVIDs are let in: those of proxies, and of edges.
func (s *Server) peers() identity.Authorizer {
	return s.registry.Authorizer(s.domain, s.settings.edges()...)
}

// recheck returns why who was let in would not be any more.
func (s *Server) recheck(c *tls.ConnectionState) error {
	return identity.Recheck(s.source, c, s.peers())
}

// proxiesHandler serves proxies, and edges if there are any.
func (s *Server) proxiesHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(s.proxies.Handler())
	mux.Handle(s.decisions.Handler())
	if s.intake != nil {
		mux.Handle(s.intake.Handler())
	}
	return impatient(mux)
}

// serveStreams serves proxies, of which there may be thousands.
func (s *Server) serveStreams(ctx context.Context, handler http.Handler) error {
	return s.serve(ctx, listener{
		name:    ListenerProxies,
		address: s.settings.Proxies.Address,
		tls:     identity.ServerConfig(s.source, s.peers()),
		handler: handler,
		pace:    letInPerProcessor * runtime.GOMAXPROCS(0),
		drain:   s.drainStreams,
	})
}

// drainStreams asks proxies, and edges, to go elsewhere.
func (s *Server) drainStreams() {
	s.proxies.Drain()
	if s.intake != nil {
		s.intake.Drain()
	}
}

// impatient gives every call some time to be read, and to be answered, whatever becomes
// of it: also where nothing is served. Whoever needs less, or streams, says so himself.
func impatient(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control, now := http.NewResponseController(w), time.Now()
		if control.SetReadDeadline(now.Add(patience)) != nil || control.SetWriteDeadline(now.Add(2*patience)) != nil {
			http.Error(w, "internal", http.StatusInternalServerError) // not a connection of ours
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Addr returns where a listener listens; nil while it does not.
func (s *Server) Addr(listener string) net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listening[listener]
}

// listener is one address with what is served there.
type listener struct {
	name    string
	address string
	tls     *tls.Config // plain HTTP when nil
	handler http.Handler
	pace    int    // connections per second; as many as come when 0
	drain   func() // asks long streams to end; may be nil
}

func (s *Server) listen(l listener) (net.Listener, error) {
	ln, err := net.Listen("tcp", l.address)
	if err != nil {
		return nil, fmt.Errorf("listen for %s: %w", l.name, err)
	}
	s.mu.Lock()
	s.listening[l.name] = ln.Addr()
	s.mu.Unlock()
	s.log.Info("listening", "listener", l.name, "address", ln.Addr().String())
	if l.pace > 0 {
		ln = newTurnstile(ln, l.pace, s.crowded)
	}
	if l.tls != nil {
		ln = tls.NewListener(ln, l.tls)
	}
	return ln, nil
}

// serve serves until ctx ends, then lets calls end for a while, and then ends
// them.
func (s *Server) serve(ctx context.Context, l listener) error {
	ln, err := s.listen(l)
	if err != nil {
		return err
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
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve %s: %w", l.name, err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		s.drain()
		if l.drain != nil {
			l.drain()
		}
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainFor)
		defer cancel()
		defer time.AfterFunc(drainFor/2, end).Stop()
		if err := server.Shutdown(stop); err != nil {
			return errors.Join(fmt.Errorf("drain %s: %w", l.name, err), server.Close())
		}
		return nil
	})
	return g.Wait()
}

// drain makes the replica unready, so that others get its work.
func (s *Server) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
}
