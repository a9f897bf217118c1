package authn

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/internal/token"
)

// Reachable and NewTransport let tests look at the guard without a network that
// has such addresses.
var (
	Reachable    = reachable
	NewTransport = newTransport
)

// Held returns how many verified tokens a pool remembers, and the bytes of
// token text in its fullest shard.
func Held(p *Pool) (tokens, most int) {
	for i := range p.cache.shards {
		s := &p.cache.shards[i]
		tokens += len(s.held)
		most = max(most, s.size)
	}
	return tokens, most
}

// CheckProof lets the proofs of RFC 9449 be checked, whose tokens are no JWTs.
func CheckProof(c Credentials, raw string, key token.Thumbprint, now time.Time) Reason {
	p := &proofs{newReplays(8, prometheus.NewGauge(prometheus.GaugeOpts{})), newNonces()}
	return p.check(&attempt{Credentials: c, now: now}, raw, key)
}
