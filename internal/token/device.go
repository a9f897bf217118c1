package token

import (
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"time"
)

// DeviceType is the typ of device tokens.
const DeviceType = "device+jwt"

// MaxDeviceLifetime is the longest time from iat to exp of a device token.
const MaxDeviceLifetime = 5 * time.Minute

// maxDeviceSize is the length in bytes of the longest device token that is looked
// at: one with three audiences has some 700.
const maxDeviceSize = 4 << 10

// DeviceToken is what a device says of itself. Key tells whose it would be, and
// nothing is proven before Verify. It does not change.
type DeviceToken struct {
	Key     Thumbprint // of the key that it brings
	Expires time.Time

	key               embeddedKey
	token             *Parsed
	issued, notBefore time.Time // notBefore is zero without nbf
}

// ParseDevice reads a device token strictly: a JWT of typ device+jwt that is signed
// with ES256 or EdDSA and brings the public key in its header. Every error is an
// *Error.
func ParseDevice(raw string) (*DeviceToken, error) {
	t, key, err := bringing(raw, DeviceType, maxDeviceSize)
	if err != nil {
		return nil, err
	}
	if key.algorithm != ES256 && key.algorithm != EdDSA {
		return nil, refuse(WrongAlgorithm)
	}
	d := &DeviceToken{Key: key.thumbprint, key: key, token: t}
	if err := d.read(); err != nil {
		return nil, err
	}
	return d, nil
}

// Verify checks that the key has signed the token, and so that the device has it.
func (d *DeviceToken) Verify() error {
	if d.key.verify(d.token) != nil {
		return refuse(BadSignature)
	}
	return nil
}

// Use is what a device token is sent for.
type Use struct {
	Host   string
	Bearer string // the token that the request has beside it, or empty
}

// Check checks that the token is for a use at now: aud names the host, exp is at
// most MaxDeviceLifetime after iat, and ath, if it is there, is the Hash of the
// token beside it.
func (d *DeviceToken) Check(u Use, now time.Time) error {
	if !isFor(d.token.claims, []string{u.Host}) {
		return refuse(WrongAudience)
	}
	if ath, bound := d.token.claims["ath"]; bound && (u.Bearer == "" || ath != Hash(u.Bearer)) {
		return refuse(WrongClaim)
	}
	latest := now.Add(DefaultLeeway)
	switch {
	case d.issued.After(latest), d.notBefore.After(latest):
		return refuse(NotYetValid)
	case !now.Before(d.Expires.Add(DefaultLeeway)):
		return refuse(Expired)
	}
	return nil
}

// read wants iat and exp, and understands nbf.
func (d *DeviceToken) read() error {
	var ok [3]bool
	d.issued, ok[0] = date(d.token.claims, "iat")
	d.notBefore, ok[1] = date(d.token.claims, "nbf")
	d.Expires, ok[2] = date(d.token.claims, "exp")
	switch {
	case slices.Contains(ok[:], false), d.issued.IsZero(), d.Expires.IsZero():
		return refuse(BadClaim)
	case d.Expires.Sub(d.issued) > MaxDeviceLifetime:
		return refuse(LongLived)
	}
	return nil
}

// Hash is what proofs and device tokens say of the token that they go with (RFC
// 9449 §4.2).
func Hash(raw string) string {
	sum := sha256.Sum256([]byte(raw))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
