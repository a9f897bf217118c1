package controlplane

import (
	"net"

	"github.com/prometheus/client_golang/prometheus"
)

// NewTurnstile lets in so many connections per second.
func NewTurnstile(ln net.Listener, perSecond int, refused prometheus.Counter) net.Listener {
	return newTurnstile(ln, perSecond, refused)
}
