package gateway

import (
	"net/http"
	"slices"
	"time"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/identity/authority"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/revocation"
	"github.com/sallyport/sallyport/internal/token"
)

// The reasons for which a request is denied because of the device that it comes
// from, or says that it does.
const (
	ReasonDeviceToken    = "device_token_invalid" // the device token; detail says why
	ReasonDeviceMismatch = "device_mismatch"      // certificate and token are of different devices
	ReasonDeviceRevoked  = "device_revoked"       // a Revocation names the device
)

// provenance is what a request has proven of the device that it comes from. The
// zero value is nothing.
type provenance struct {
	revocation.Evidence

	// trusted says that the client certificate counts now. One that does not still
	// tells a device that is revoked.
	trusted bool
}

// device returns the device that set knows by p, nil for none. With clash, p is of
// several.
func (p *provenance) device(set *revocation.Set) (d *policy.Device, clash bool) {
	d, clash = set.Device(&p.Evidence)
	if d == nil || p.trusted {
		return d, clash
	}
	return set.Device(&revocation.Evidence{Key: p.Key})
}

// comesFrom finds out what device a request comes from. It denies one that is not
// sound, or revoked, and reports whether it did. A device token has proved its key
// for as long as the stream is open that it came with.
func (g *Gateway) comesFrom(s grounds, q *question, v *verdict) (denied bool) {
	if q.again != nil {
		v.shown.Key = q.exchange.verdict.shown.Key
	}
	if q.from.peer.Thumbprint == (token.Thumbprint{}) && len(q.device) == 0 && v.shown.Key == (token.Thumbprint{}) {
		return false
	}
	g.certified(s, q, v)
	if reason := v.tokenOf(s, q); reason != "" {
		v.deny(failure{reason: ReasonDeviceToken, status: http.StatusForbidden, detail: string(reason)})
		return true
	}
	if v.deviceRevoked(s.revocations, q.now) {
		return true
	}
	d, clash := v.shown.device(s.revocations)
	if clash {
		v.deny(failure{reason: ReasonDeviceMismatch, status: http.StatusForbidden})
	}
	v.device = d
	return clash
}

// certified notes what the client certificate of the connection proves.
func (g *Gateway) certified(s grounds, q *question, v *verdict) {
	peer := &q.from.peer
	v.shown.Certificate, v.shown.SPIFFEID = peer.Thumbprint, peer.ID
	if peer.Certificate == nil {
		v.shown.trusted = peer.ID != "" && g.identity.Trusts(identity.ID(peer.ID)) && q.now.Before(peer.Expires)
		return
	}
	if id, _ := s.authn.Authorities().Verify(slices.Values(v.way.vouchers), peer.Certificate, q.now); id != nil {
		v.shown.Issuer, v.shown.Subject, v.shown.trusted = id.Issuer, id.Subject, true
	}
}

// tokenOf notes what the device token proves, if there is one, or returns why it
// proves nothing.
func (v *verdict) tokenOf(s grounds, q *question) token.Reason {
	if len(q.device) == 0 {
		return ""
	}
	known := func(key token.Thumbprint) bool {
		d, clash := s.revocations.Device(&revocation.Evidence{Key: key})
		return d != nil || clash
	}
	key, reason := s.authn.DeviceToken(q.device, v.request.Host, v.request.Header, known, q.now)
	v.shown.Key = key
	return reason
}

// deviceRevoked denies what comes from a device that is cut off, and reports
// whether it did.
func (v *verdict) deviceRevoked(set *revocation.Set, now time.Time) bool {
	by, revoked := set.DeviceRevoked(&v.shown.Evidence, now)
	if revoked {
		v.deny(failure{reason: ReasonDeviceRevoked, status: http.StatusForbidden, detail: by})
	}
	return revoked
}

// vouchers are the authorities that a route's namespace has: whose certificates
// its devices may show, whether they are a credential of the route or not.
func vouchers(r *compile.Route, all []*compile.Provider) (names []authority.Name) {
	for _, p := range all {
		if p.Key.Namespace == r.Key.Namespace && p.Spec.GetX509() != nil {
			names = append(names, authority.Name{Namespace: p.Key.Namespace, Name: p.Key.Name})
		}
	}
	return names
}
