package controlplane

import (
	"crypto/tls"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// NewTurnstile lets in so many connections per second.
func NewTurnstile(ln net.Listener, perSecond int, refused prometheus.Counter) net.Listener {
	return newTurnstile(ln, perSecond, refused)
}

// TestOnlyHandlers returns what is served to callers, by listener.
func (s *Server) TestOnlyHandlers() map[string]http.Handler {
	return map[string]http.Handler{ListenerAdmin: s.adminHandler(), ListenerProxies: s.proxiesHandler()}
}

// TestOnlyRecheck returns why a proxy that was let in would not be any more.
func (s *Server) TestOnlyRecheck(c *tls.ConnectionState) error { return s.recheck(c) }

// TestOnlyWitnessesWithin changes how long proxies have to show what they have, before
// Run.
func (s *Server) TestOnlyWitnessesWithin(d time.Duration) { s.witnesses.within = d }
