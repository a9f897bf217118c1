package authn

import (
	"errors"
	"time"

	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/token"
)

// HeaderDevice is the field that device tokens are sent in.
const HeaderDevice = "Sallyport-Device"

// UnknownDevice is why a device token is refused whose key is no device's. The
// other reasons are those of package token.
const UnknownDevice token.Reason = "unknown_device"

// DeviceToken returns the thumbprint of the key that has signed the one device
// token of values, if it is good for a request with this host and header at now;
// else the reason why not. Only keys that known accepts are looked at closer: what
// others made up costs no more than to be read. What was verified before is
// checked anew but for its signature.
func (a *Authenticator) DeviceToken(values []string, host string, header map[string][]string, known func(token.Thumbprint) bool, now time.Time) (token.Thumbprint, token.Reason) {
	if len(values) != 1 || a == nil {
		return token.Thumbprint{}, token.Malformed
	}
	d, err := a.signed(values[0], known)
	if err == nil {
		err = d.Check(token.Use{Host: host, Bearer: besides(header)}, now)
	}
	switch {
	case err != nil:
		return token.Thumbprint{}, deviceReason(err)
	case !known(d.Key):
		return token.Thumbprint{}, UnknownDevice
	}
	return d.Key, ""
}

// signed returns a token that its key has signed.
func (a *Authenticator) signed(raw string, known func(token.Thumbprint) bool) (*token.DeviceToken, error) {
	if a.devices == nil {
		return nil, &token.Error{Reason: UnknownDevice}
	}
	key := cacheKey{hash: a.devices.hash(raw), device: true}
	if v := a.devices.get(key, raw); v != nil {
		return v.device, nil
	}
	d, err := token.ParseDevice(raw)
	switch {
	case err != nil:
		return nil, err
	case !known(d.Key):
		return nil, &token.Error{Reason: UnknownDevice}
	}
	if err := d.Verify(); err != nil {
		return nil, err
	}
	a.devices.put(key, &verified{device: d, principal: &policy.Principal{Expires: d.Expires}}, raw)
	return d, nil
}

// besides returns the token of the Authorization header, whoever it is for.
func besides(header map[string][]string) string {
	values := header["Authorization"]
	if len(values) == 0 {
		return ""
	}
	raw, _, reason := bearer(values)
	if reason != "" {
		return ""
	}
	return raw
}

func deviceReason(err error) token.Reason {
	if e, ok := errors.AsType[*token.Error](err); ok {
		return e.Reason
	}
	return token.Malformed
}
