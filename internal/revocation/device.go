package revocation

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"time"

	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/resource"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// Evidence is what a request proves of the device that it comes from. The zero
// value is nothing.
type Evidence struct {
	Certificate     [32]byte // SHA-256 of the client certificate
	SPIFFEID        string   // in it
	Issuer, Subject string   // that its identity provider makes of it
	Key             [32]byte // thumbprint of the key that signed a device token
}

// Device returns the device that has all of the evidence that any device has;
// nil where none has any. With clash the evidence is of several, and so of none.
// It does not allocate; what it returns is not to be changed.
func (s *Set) Device(e *Evidence) (d *policy.Device, clash bool) {
	for _, list := range s.matches(e) {
		for _, r := range list {
			if d != nil && d != r.device {
				return nil, true
			}
			d = r.device
		}
	}
	return d, false
}

// DeviceRevoked reports whether a device that has any of the evidence is cut off
// at now, and the name of a Revocation that does it. It does not allocate. A nil
// Set knows no device: see Revoked.
func (s *Set) DeviceRevoked(e *Evidence, now time.Time) (name string, revoked bool) {
	if s == nil || s.indexes[devices] == nil {
		return "", false
	}
	for _, list := range s.matches(e) {
		for _, d := range list {
			if r := first(s.indexes[devices].of("", d.device.ID), time.Time{}, now); r != nil {
				return r.entry.Key.Name, true
			}
		}
	}
	return "", false
}

// matches returns the devices of each part of the evidence.
func (s *Set) matches(e *Evidence) (all [4][]*document) {
	if s == nil {
		return all
	}
	if e.Certificate != [32]byte{} {
		all[0] = s.indexes[deviceCertificates].of("", string(e.Certificate[:]))
	}
	all[1] = s.indexes[deviceSPIFFEIDs].of("", e.SPIFFEID)
	all[2] = s.indexes[deviceSubjects].of(e.Issuer, e.Subject)
	if e.Key != [32]byte{} {
		all[3] = s.indexes[deviceKeys].of("", string(e.Key[:]))
	}
	return all
}

var errUnmatched = errors.New("does not say by what the device is known")

// know reads what a device is known by, and what is known of it.
func (r *document) know(spec *resourcev1.Device) error {
	match := spec.GetMatch()
	for _, text := range match.GetCertificates() {
		sum, err := hex.DecodeString(text)
		if err != nil {
			return err
		}
		r.at(deviceCertificates, "", string(sum))
	}
	for _, text := range match.GetKeys() {
		sum, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil {
			return err
		}
		r.at(deviceKeys, "", string(sum))
	}
	if id := match.GetSpiffeId(); id != "" {
		r.at(deviceSPIFFEIDs, "", id)
	}
	if by := match.GetCertified(); by != nil {
		r.at(deviceSubjects, by.GetIssuer(), by.GetId())
	}
	if len(r.places) == 0 {
		return errUnmatched
	}
	r.device = &policy.Device{
		ID: r.entry.Key.Name, OS: spec.GetOs(), OSVersion: spec.GetOsVersion(), Owner: spec.GetOwner(),
		DiskEncrypted: fact(spec.DiskEncrypted), ScreenLock: fact(spec.ScreenLock),
		Compliant: fact(spec.Compliant), Managed: fact(spec.Managed),
		LastSeen: moment(spec.GetLastSeen()), Expires: moment(spec.GetExpiresAt()),
	}
	return nil
}

func fact(told *bool) policy.Fact {
	switch {
	case told == nil:
		return policy.Unknown
	case *told:
		return policy.Yes
	}
	return policy.No
}

// doubt returns the first reject for which nobody can tell who is cut off. That
// of a device is none, as nothing is known of it then, unless it is revoked: its
// requests could not be told from others.
func (s *Set) doubt() string {
	for _, r := range s.rejects {
		if r.Key.Kind != resource.KindDevice || len(s.indexes[devices].of("", r.Key.Name)) > 0 {
			return r.String()
		}
	}
	return ""
}
