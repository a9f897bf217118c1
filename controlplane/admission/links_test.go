package admission_test

import "testing"

// What policies refer to by name does not go away or become something else under
// them.
func TestWhatIsNamedStaysFit(t *testing.T) {
	const fleet = shop + `
		Set shop/office {cidrs: [10.0.0.0/8]}
		Condition shop/inside {when: 'signals.ip.inSet("office")'}
		Condition shop/outer {when: 'condition("inside")'}
		Policy shop/a {routes: {names: [orders]}, effect: DENY, when: '!condition("outer")'}
	`
	for name, c := range map[string]struct{ apply, want string }{
		"a set of another type": {
			`Set shop/office {ids: [a]}`,
			`-1 Condition/shop/inside spec.when 1:18: invalid_cel: Set "office" has ids: look up a text, as principal.id
			 -1 Condition/shop/outer spec.when 1:11: invalid_cel: Condition "inside": Set "office" has ids: look up a text, as principal.id
			 -1 Policy/shop/a spec.when 1:12: invalid_cel: Condition "outer": Condition "inside": Set "office" has ids: look up a text, as principal.id`,
		},
		"a circle": {
			`Condition shop/inside {when: 'condition("outer")'}`,
			`0 Condition/shop/inside spec.when 1:11: invalid_cel: Condition "outer": Condition "inside" refers to itself
			 -1 Condition/shop/outer spec.when 1:11: invalid_cel: Condition "inside": Condition "outer" refers to itself
			 -1 Policy/shop/a spec.when 1:12: invalid_cel: Condition "outer": Condition "inside": Condition "outer" refers to itself`,
		},
		"one environment less": {
			`Condition shop/outer {environments: [aws], when: 'condition("inside")'}`,
			`-1 Policy/shop/a spec.when 1:12: not_everywhere: Condition/shop/outer is not in every environment that this is in`,
		},
		"another text":    {`Condition shop/inside {when: 'signals.ip.inSet("office") || true'}`, ""},
		"another network": {`Set shop/office {cidrs: [192.0.2.0/24]}`, ""},
	} {
		_, problems := newFleet(t, fleet).apply(t, c.apply)
		if texts(problems) != "" || c.want != "" {
			t.Log(name)
			same(t, texts(problems), c.want)
		}
	}
	_, problems := newFleet(t, fleet).delete(t, "Condition shop/inside\nSet shop/office")
	same(t, texts(problems), `0 Condition/shop/inside : still_referenced: Condition/shop/outer refers to it (spec.when)`)
}
