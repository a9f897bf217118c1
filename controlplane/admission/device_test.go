package admission_test

import (
	"strings"
	"testing"
)

const (
	facts = `expiresAt: "2026-11-27T09:00:00Z"`
	sum   = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
	key   = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
)

const laptop = `Device laptop {match: {certificates: [` + sum + `], spiffeId: "spiffe://a/1", certified: {issuer: i, id: d}, keys: [` + key + `]}, ` + facts + `}`

func TestDevices(t *testing.T) {
	for name, c := range map[string]struct{ apply, want string }{
		"another":                       {`Device phone {match: {spiffeId: "spiffe://a/2"}, ` + facts + `}`, ``},
		"the same again, known by less": {`Device laptop {match: {spiffeId: "spiffe://a/1"}, ` + facts + `}`, ``},
		"of the same certificate": {`Device phone {match: {certificates: [` + strings.Repeat("0a", 32) + `, ` + sum + `]}, ` + facts + `}`,
			`0 Device/phone spec.match.certificates[1]: device_conflict: Device/laptop is known by certificate ` + sum + ` as well`},
		"of the same ID": {`Device phone {match: {spiffeId: "spiffe://a/1"}, ` + facts + `}`,
			`0 Device/phone spec.match.spiffeId: device_conflict: Device/laptop is known by spiffe://a/1 as well`},
		"of the same subject": {`Device phone {match: {certified: {issuer: i, id: d}}, ` + facts + `}`,
			`0 Device/phone spec.match.certified: device_conflict: Device/laptop is known by "d" of "i" as well`},
		"of the same key": {`Device phone {match: {keys: [` + key + `]}, ` + facts + `}`,
			`0 Device/phone spec.match.keys[0]: device_conflict: Device/laptop is known by key ` + key + ` as well`},
		"of the same subject at another issuer": {`Device phone {match: {certified: {issuer: j, id: d}}, ` + facts + `}`, ``},
		"two at once": {`
			Device a {match: {spiffeId: "spiffe://a/3"}, ` + facts + `}
			Device b {match: {spiffeId: "spiffe://a/3"}, ` + facts + `}`, `
			0 Device/a spec.match.spiffeId: device_conflict: Device/b is known by spiffe://a/3 as well
			1 Device/b spec.match.spiffeId: device_conflict: Device/a is known by spiffe://a/3 as well`},
		"of which nothing is known any more": {`Device phone {match: {spiffeId: "spiffe://a/2"}, expiresAt: "2026-11-26T09:00:00Z"}`,
			`0 Device/phone spec.expiresAt: invalid_value: 2026-11-26T09:00:00Z is in the past: nothing would be known of the device`},
		"revoked":                {`Revocation lost {device: laptop}`, ``},
		"revoked with the first": {"Revocation lost {device: phone}\n" + `Device phone {match: {spiffeId: "spiffe://a/2"}, ` + facts + `}`, ``},
		"revoked, of nobody":     {`Revocation lost {device: phone}`, `0 Revocation/lost spec.device: dangling_reference: there is no Device/phone`},
		"beside what makes a revision": {"Environment lab {}\n" + `Device phone {match: {spiffeId: "spiffe://a/2"}, ` + facts + `}`,
			`1 Device/phone kind: mixed_lanes: is in force at once and makes no revision: name resources of kind Device in a call of their own`},
	} {
		t.Run(name, func(t *testing.T) {
			_, problems := newFleet(t, laptop).apply(t, c.apply)
			same(t, texts(problems), c.want)
		})
	}
}

// A device that is revoked is not deleted: what comes from it would pass.
func TestRevokedDevicesStay(t *testing.T) {
	f := newFleet(t, laptop+"\nRevocation lost {device: laptop}")
	_, problems := f.delete(t, "Device laptop")
	same(t, texts(problems), `0 Device/laptop : still_referenced: Revocation/lost refers to it (spec.device)`)
	if _, problems := f.delete(t, "Device laptop\nRevocation lost"); problems.Total > 0 {
		t.Error(texts(problems))
	}
}
