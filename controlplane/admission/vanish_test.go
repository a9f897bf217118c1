package admission_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/controlplane/admission"
)

// guarded is shop with n more policies, sets and conditions.
func guarded(n int) string {
	var b strings.Builder
	b.WriteString(shop)
	for i := range n {
		fmt.Fprintf(&b, "Policy shop/p%d {routes: {names: [orders]}, effect: DENY, methods: [POST]}\n", i)
	}
	b.WriteString("Set shop/a {ids: [a]}\nSet shop/b {ids: [a]}\nCondition shop/only {when: 'true'}\n")
	return b.String()
}

// names is a list of keys, one a line.
func names(format string, from, to int) string {
	var b strings.Builder
	for i := from; i < to; i++ {
		fmt.Fprintf(&b, format+"\n", i)
	}
	return b.String()
}

// What would take much of what protects an environment is refused, unless it is
// said to be meant.
func TestWhatMustNotVanish(t *testing.T) {
	const of20 = `-1 Environment/%s : removes_too_much: would lose %d of its 20 resources of kind Policy: allow removals if that is meant`
	both := func(n int) string { return fmt.Sprintf(of20+"\n"+of20, "aws", n, "gcp", n) }
	moved := "{environments: [aws], routes: {names: [orders]}, effect: DENY, methods: [POST]}"
	for name, c := range map[string]struct {
		fewer               bool
		apply, remove, want string
	}{
		"a fifth of the policies":      {remove: names("Policy shop/p%d", 0, 4)},
		"more than that":               {remove: names("Policy shop/p%d", 0, 5), want: both(5)},
		"three, however few there are": {fewer: true, remove: names("Policy shop/p%d", 0, 3)},
		"a fifth moves out":            {apply: names("Policy shop/p%d "+moved, 0, 4)},
		"more than that moves out":     {apply: names("Policy shop/p%d "+moved, 0, 5), want: fmt.Sprintf(of20, "gcp", 5)},
		"policies are replaced":        {apply: names("Policy shop/p%d {routes: {names: [orders]}, effect: DENY, methods: [GET]}", 0, 17)},
		"one of two of a kind":         {remove: "Set shop/a"},
		"both of them": {remove: "Set shop/a\nSet shop/b", want: `
			-1 Environment/aws : removes_too_much: would lose 2 of its 2 resources of kind Set: allow removals if that is meant
			-1 Environment/gcp : removes_too_much: would lose 2 of its 2 resources of kind Set: allow removals if that is meant`},
		"both move out": {apply: "Set shop/a {environments: [aws], ids: [a]}\nSet shop/b {environments: [aws], ids: [a]}",
			want: `-1 Environment/gcp : removes_too_much: would lose 2 of its 2 resources of kind Set: allow removals if that is meant`},
		"both move out, and another comes": {apply: "Set shop/a {environments: [aws], ids: [a]}\nSet shop/b {environments: [aws], ids: [a]}\nSet shop/c {ids: [a]}"},
		"the only one of a kind":           {remove: "Condition shop/only"},
		"the only Enrollment":              {remove: "Enrollment aws"},
		"an environment": {remove: "Environment gcp", want: `
			0 Environment/gcp : removes_too_much: would be gone with all of its 32 resources: allow removals if that is meant`},
		"what is wrong besides": {apply: names("Policy shop/p%d "+moved, 0, 5) + "Policy shop/new {routes: {names: [gone]}, effect: DENY}",
			want: fmt.Sprintf(of20, "gcp", 5) + "\n5 Policy/shop/new spec.routes.names[0]: dangling_reference: there is no Route/shop/gone"},
	} {
		t.Run(name, func(t *testing.T) {
			n := 17
			if c.fewer {
				n = 3
			}
			request := func() *admission.Request {
				if c.apply != "" {
					return admission.NewApply(resources(t, c.apply), now)
				}
				return admission.NewDelete(keys(c.remove))
			}
			f := newFleet(t, guarded(n))
			before := f.Dump()
			r := request()
			_, problems := f.commit(t, r)
			same(t, texts(problems), c.want)
			if c.want == "" {
				return
			}
			if f.Dump() != before {
				t.Error("what was refused changed the state")
			}
			r = request()
			r.AllowRemovals()
			_, problems = f.Plan(r)
			if strings.Contains(texts(problems), admission.ReasonRemovesTooMuch) {
				t.Errorf("allowed: %s", texts(problems))
			}
		})
	}
}

// An environment that loses all its Enrollments would take no proxy any more.
func TestEnrollmentsMustNotVanish(t *testing.T) {
	f := newFleet(t, shop+"\nEnrollment more {spiffeId: \"spiffe://prod.example/more/**\", environment: aws}\n")
	_, problems := f.commit(t, admission.NewDelete(keys("Enrollment aws\nEnrollment more")))
	same(t, texts(problems), `-1 Environment/aws : removes_too_much: would lose 2 of its 2 resources of kind Enrollment: allow removals if that is meant`)
}
