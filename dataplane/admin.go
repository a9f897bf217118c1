package dataplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sallyport/sallyport/internal/profile"
	"github.com/sallyport/sallyport/internal/token"
)

const (
	// adminTimeout bounds what a client of the admin listener may take its time
	// for.
	adminTimeout = 10 * time.Second
	// adminDrain is how long its calls may take to end.
	adminDrain = time.Second
)

// admin serves /healthz, /readyz, /metrics, the keys of assertions and profiles
// until ctx ends.
func (p *Proxy) admin(ctx context.Context) error {
	if p.settings.Admin.Address == "" {
		return nil
	}
	ln, err := p.sockets.Alone(ctx, p.settings.Admin.Address)
	if err != nil {
		return fmt.Errorf("listen for admin: %w", err)
	}
	p.log.InfoContext(ctx, "listening", "listener", "admin", "address", ln.Addr().String())
	server := &http.Server{
		Handler:           p.adminHandler(),
		ReadHeaderTimeout: adminTimeout,
		ReadTimeout:       adminTimeout,
		WriteTimeout:      adminTimeout,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
	var failed error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		failed = server.Serve(ln)
	}()
	select {
	case <-ended:
		return fmt.Errorf("serve admin: %w", failed)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), adminDrain)
	defer cancel()
	if err := server.Shutdown(stop); err != nil {
		err = errors.Join(fmt.Errorf("drain admin: %w", err), server.Close())
		p.log.DebugContext(ctx, "admin listener was cut", "err", err)
	}
	<-ended
	return nil
}

func (p *Proxy) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if why := p.unready(); why != "" {
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusOK)
	})
	mux.HandleFunc("GET /.well-known/sallyport/jwks.json", p.publishKeys)
	mux.Handle("GET /debug/", profile.Handler())
	mux.Handle("GET /metrics", promhttp.HandlerFor(p.metrics, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	return mux
}

// publishKeys serves the keys of this proxy's own assertions, for upstreams on
// the same machine.
func (p *Proxy) publishKeys(w http.ResponseWriter, _ *http.Request) {
	set, err := token.EncodeKeySet(p.keys.Public())
	if err != nil {
		http.Error(w, "internal", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/jwk-set+json")
	w.Header().Set("Cache-Control", "public, max-age=300")
	_, _ = w.Write(set) // a client that does not hear it asks again
}

// unready says why requests should not be sent here; empty when they may.
func (p *Proxy) unready() string {
	if p.stopping.Load() {
		return "the proxy is stopping"
	}
	if p.draining.Load() {
		return "an operator has this proxy drained"
	}
	if !p.link.Enforcing() {
		return "no snapshot is enforced yet"
	}
	if !p.link.Secured() {
		return "it is not known yet whose credentials are revoked"
	}
	// One that does not listen must not take the others from service: the
	// fleet's listing tells of it.
	why := []string{"no listener is open"}
	for _, l := range p.gateway.Listeners() {
		if l.Open {
			return ""
		}
		why = append(why, fmt.Sprintf("%s/%s: %s", l.Namespace, l.Name, l.Error))
	}
	return strings.Join(why, "\n")
}
