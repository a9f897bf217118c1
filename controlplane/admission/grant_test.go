package admission_test

import (
	"fmt"
	"testing"

	"github.com/sallyport/sallyport/controlplane/admission"
)

const grant = `Grant shop/night {routes: {names: [orders]}, principals: [{group: oncall}], methods: [POST], notBefore: %s, notAfter: %s, reason: incident, approver: %s}`

// A grant has a time, which has not ended, and somebody else who approved it.
func TestGrants(t *testing.T) {
	for name, c := range map[string]struct{ apply, want string }{
		"in force":      {fmt.Sprintf(grant, "2026-11-26T08:00:00Z", "2026-11-26T18:00:00Z", "eve"), ""},
		"still to come": {fmt.Sprintf(grant, "2027-11-26T08:00:00Z", "2027-11-26T18:00:00Z", "eve"), ""},
		"ended": {
			fmt.Sprintf(grant, "2026-11-25T08:00:00Z", "2026-11-26T09:00:00Z", "eve"),
			`0 Grant/shop/night spec.notAfter: invalid_value: 2026-11-26T09:00:00Z is in the past: it would have no effect`,
		},
		"too long": {
			fmt.Sprintf(grant, "2026-11-26T08:00:00Z", "2026-12-26T08:00:01Z", "eve"),
			`0 Grant/shop/night spec.notAfter: invalid_value: a grant ends after it begins, 30 days at most`,
		},
		"ends before it begins": {
			fmt.Sprintf(grant, "2026-11-27T08:00:00Z", "2026-11-27T08:00:00Z", "eve"),
			`0 Grant/shop/night spec.notAfter: invalid_value: a grant ends after it begins, 30 days at most`,
		},
		"approved by who applies it": {
			fmt.Sprintf(grant, "2026-11-26T08:00:00Z", "2026-11-26T18:00:00Z", "ann"),
			`0 Grant/shop/night spec.approver: own_approval: somebody else than who applies it has to have approved it`,
		},
		"approved by whom it is for": {
			`Grant shop/a {routes: {names: [orders]}, principals: [{subject: bob}], notBefore: 2026-11-26T08:00:00Z, notAfter: 2026-11-26T18:00:00Z, reason: x, approver: bob}`,
			`0 Grant/shop/a spec.approver: invalid_value: nobody approves what is for themselves`,
		},
		"without anything": {
			`Grant shop/a {}`,
			`0 Grant/shop/a spec.routes: required: value is required
			 0 Grant/shop/a spec.principals: invalid_value: must contain at least 1 item(s)
			 0 Grant/shop/a spec.notBefore: required: value is required
			 0 Grant/shop/a spec.notAfter: required: value is required
			 0 Grant/shop/a spec.reason: required: value is required
			 0 Grant/shop/a spec.approver: required: value is required`,
		},
		"never met": {
			`Grant shop/a {routes: {names: [orders]}, principals: [{group: a}], methods: [PUT], notBefore: 2026-11-26T08:00:00Z, notAfter: 2026-11-26T18:00:00Z, reason: x, approver: eve}`,
			`0 Grant/shop/a spec.methods: never_fires: no route that it selects takes PUT`,
		},
		"of a route that is not there": {
			`Grant shop/a {routes: {names: [gone]}, principals: [{group: a}], notBefore: 2026-11-26T08:00:00Z, notAfter: 2026-11-26T18:00:00Z, reason: x, approver: eve}`,
			`0 Grant/shop/a spec.routes.names[0]: dangling_reference: there is no Route/shop/gone`,
		},
	} {
		r := admission.NewApply(resources(t, c.apply), now)
		r.AppliedBy("ann@login", "ann", "")
		_, problems := newFleet(t, shop).commit(t, r)
		if texts(problems) != c.want {
			t.Log(name)
			same(t, texts(problems), c.want)
		}
	}
}
