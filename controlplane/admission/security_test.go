package admission_test

import (
	"testing"

	"github.com/sallyport/sallyport/controlplane/admission"
)

func TestRevocations(t *testing.T) {
	for name, c := range map[string]struct{ apply, want string }{
		"good": {`
			Revocation token {token: {issuer: "https://login.example", id: a1}, expiresAt: "2026-11-26T09:00:01Z"}
			Revocation ann {subject: {issuer: "https://login.example", id: ann}, issuedBefore: "2026-11-26T09:05:00Z"}
			Revocation key {key: batch}`, ``},
		"without effect": {
			`Revocation token {token: {issuer: "https://login.example", id: a1}, expiresAt: "2026-11-26T10:00:00+01:00"}`,
			`0 Revocation/token spec.expiresAt: invalid_value: 2026-11-26T09:00:00Z is in the past: it would have no effect`,
		},
		"on what is still to come": {
			`Revocation all {everyone: true, issuedBefore: "2026-11-26T09:05:01Z"}`,
			`0 Revocation/all spec.issuedBefore: invalid_value: 2026-11-26T09:05:01Z is still to come: what will be issued until then cannot be told to be bad`,
		},
		"everything at once": {`
			Revocation a {key: k, keys: l, expiresAt: "2020-01-01T00:00:00Z", issuedBefore: "2030-01-01T00:00:00Z"}
			Revocation b {key: k}
			Revocation b {key: l}`, `
			0 Revocation/a spec.keys: unknown_field: "keys" is no field of Revocation
			0 Revocation/a spec.expiresAt: invalid_value: 2020-01-01T00:00:00Z is in the past: it would have no effect
			0 Revocation/a spec.issuedBefore: invalid_value: 2030-01-01T00:00:00Z is still to come: what will be issued until then cannot be told to be bad
			2 Revocation/b : duplicate_resource: is in this request twice`},
		"beside what makes a revision": {`
			Environment lab {}
			Revocation a {key: k}
			Upstream shop/new {endpoints: ["a:0"], tls: {}}`, `
			1 Revocation/a kind: mixed_lanes: is in force at once and makes no revision: name resources of kind Revocation in a call of their own
			2 Upstream/shop/new spec.endpoints[0]: invalid_value: "a:0": nothing listens on port 0`},
		"beside what is nothing": {`
			Revocation a {key: k}
			Revocations b {key: k}`, `
			1 Revocations/b kind: unknown_kind: "Revocations" is none of Environment, Enrollment, TrustDomain, Listener, IdentityProvider, ApiKey, Upstream, Schema, Route, Set, Condition, Policy, Grant, RateLimit, Device, Revocation`},
	} {
		t.Run(name, func(t *testing.T) {
			_, problems := newFleet(t, "").apply(t, c.apply)
			same(t, texts(problems), c.want)
		})
	}
}

func TestRevocationsAreDeletedApart(t *testing.T) {
	f := newFleet(t, "Revocation a {key: k}")
	_, problems := f.delete(t, "Revocation a\nEnvironment aws")
	same(t, texts(problems), `
		0 Revocation/a kind: mixed_lanes: is in force at once and makes no revision: name resources of kind Revocation in a call of their own
		1 Environment/aws : not_found: does not exist`)
	if _, problems := f.delete(t, "Revocation a"); problems.Total > 0 {
		t.Error(texts(problems))
	}
}

func TestImmediate(t *testing.T) {
	for lines, want := range map[string]bool{
		"Revocation a {key: k}":                        true,
		"Revocation a {key: k}\nRevocation b {key: l}": true,
		"Revocation a {kye: k}":                        true,
		"Revocation a {key: k}\nEnvironment b {}":      false,
		"Environment b {}":                             false,
	} {
		if got := admission.NewApply(resources(t, lines), now).Immediate(); got != want {
			t.Errorf("%s: immediate %v", lines, got)
		}
	}
}
