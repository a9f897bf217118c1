package gateway

import (
	"net/http"

	"github.com/sallyport/sallyport/internal/authn"
)

// blame counts a denial against the address that it was sent from, and the principal
// that has proven who it is.
func (x *exchange) blame() {
	v := &x.verdict
	if !v.blames() {
		return
	}
	who := v.principal
	if v.reason == ReasonRevoked || v.reason == ReasonDeviceRevoked {
		who = nil // what was taken from somebody is not turned against them
	}
	x.gateway.denials.Add(who, x.address.IP, x.began)
}

// blames reports whether a request was denied for what it is. Nobody is to blame for
// what is our trouble, nor for what a client is told to do next.
func (v *verdict) blames() bool {
	switch {
	case v.allow, v.status < http.StatusBadRequest, v.status >= http.StatusInternalServerError:
		return false
	case v.reason == ReasonUnavailable, v.reason == string(authn.ProofNonce), v.reason == string(authn.StepUpRequired):
		return false
	}
	return true
}
