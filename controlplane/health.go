package controlplane

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sallyport/sallyport/internal/profile"
)

// health serves /healthz, /readyz, /metrics and profiles until ctx ends.
func (s *Server) health(ctx context.Context) error {
	if s.settings.Health.Address == "" {
		return nil
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if why := s.unready(); why != "" {
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusOK)
		if s.edge != nil {
			return
		}
		if ahead := s.observer.ahead.Load(); ahead != nil { // proxies are served nevertheless
			_, _ = fmt.Fprintln(w, "changes are refused:", ahead) // who asked may have gone
		}
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	all := http.NewServeMux()
	all.Handle("GET /debug/", profile.Handler()) // which may take longer
	all.Handle("/", impatient(http.TimeoutHandler(mux, 10*time.Second, "took too long")))
	return s.serve(ctx, listener{
		name:    ListenerHealth,
		address: s.settings.Health.Address,
		handler: all,
	})
}

// unready says what this replica still waits for; empty when it serves.
func (s *Server) unready() string {
	switch {
	case !s.source.Ready():
		return "no identity from the Workload API yet"
	case s.edge != nil && !s.registry.Ready():
		return "no roster has been taken from etcd yet"
	case s.edge != nil && s.Addr(ListenerProxies) == nil:
		return "it does not listen for proxies yet"
	case s.edge == nil && (s.Addr(ListenerAdmin) == nil || s.Addr(ListenerProxies) == nil):
		return "the database has not been reached yet"
	case !s.registry.Ready():
		return "the fleet was not read from the database yet"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return "this replica is about to end"
	}
	return ""
}
