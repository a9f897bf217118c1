package gateway

import (
	"net/http"
	"time"

	"github.com/sallyport/sallyport/internal/failpoint"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/revocation"
)

// Revoke puts set in force: requests that begin after it has returned are asked
// against it, and of those that were let through before none is carried any more
// that it cuts off. A set that is unavailable cuts off all, since nobody can tell
// whom it was meant for. It is called by one goroutine at a time.
func (g *Gateway) Revoke(set *revocation.Set) {
	if failpoint.Active("gateway.skip-revoke") {
		return
	}
	// In this order: a request that is not swept yet looks again when it is an
	// open stream, and sees the new set.
	g.revocations.Store(set)
	closed := g.sweep(set)
	g.log.Info("revocations applied", "revision", int64(set.Head().Revision), "rejects", len(set.Rejects()), "closed", closed)
}

// Revocations returns the set in force, nil before the first.
func (g *Gateway) Revocations() *revocation.Set { return g.revocations.Load() }

// sweep closes the open streams that set cuts off, and returns how many.
func (g *Gateway) sweep(set *revocation.Set) (closed int) {
	by, now := grounds{g.state.Load(), set}, g.now()
	g.streams.each(func(s *Stream) {
		v := verdict{allow: true, way: s.exchange.verdict.way, principal: s.Principal, shown: s.exchange.verdict.shown}
		if set.Unavailable() != "" {
			v.deny(failure{reason: ReasonUnavailable, status: http.StatusForbidden, detail: set.Unavailable()})
		} else if !v.revoked(set, s.Principal, now) {
			v.deviceRevoked(set, now)
		}
		if !v.allow && g.lose(s, by, now, v) {
			closed++
		}
	})
	return closed
}

// revoked denies a principal that is cut off, and reports whether it did.
func (v *verdict) revoked(set *revocation.Set, p *policy.Principal, now time.Time) bool {
	by, revoked := set.Revoked(p, now)
	if revoked {
		v.deny(failure{reason: ReasonRevoked, status: http.StatusUnauthorized, detail: by})
	}
	return revoked
}

// overtaken denies a request which is an open stream by now, if it was decided
// on by revocations that have changed for the worse. A sweep that came before
// has not seen it, and one that comes later will.
func (x *exchange) overtaken() {
	set, v := x.gateway.revocations.Load(), &x.verdict
	switch {
	case set == x.revocations:
	case set.Unavailable() != "":
		v.deny(failure{reason: ReasonUnavailable, status: http.StatusForbidden, detail: set.Unavailable()})
	case v.revoked(set, v.principal, x.began):
	default:
		v.deviceRevoked(set, x.began)
	}
}
