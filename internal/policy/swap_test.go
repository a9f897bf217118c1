package policy_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/sallyport/sallyport/internal/policy"
)

// setsOf are the sets of terms, as they have become.
func setsOf(office, staff string) func(string) *policy.Members {
	sets := map[string]*policy.Members{
		"office": policy.NewNetworks([]netip.Prefix{netip.MustParsePrefix(office)}), "staff": policy.NewIDs([]string{staff}),
	}
	return func(name string) *policy.Members { return sets[name] }
}

// A policy with other sets decides and explains as one that is compiled with
// them, and the one that it was made of as before.
func TestWithSets(t *testing.T) {
	named := terms(map[string]string{
		"inside": `signals.ip.inSet("office")`, "known": `condition("inside") || principal.id.inSet("staff")`,
	})
	later := *named
	later.Set = setsOf("192.0.2.0/24", "dora")
	for _, text := range []string{
		`signals.ip.inSet("office")`,
		`condition("known") && request.method == "GET"`,
		`condition("inside") ? principal.id.inSet("staff") : condition("known")`,
		`principal.groups.exists(g, g.inSet("staff"))`,
		`type(request.method) == string && !principal.id.inSet("staff")`, // closures leave it to the library
		`request.method == "GET"`,
		"",
	} {
		before, want := allow(t, "p", authenticated(), when(text), with(named)), allow(t, "p", authenticated(), when(text), with(&later))
		got, ok := before.WithSets(later.Set)
		if !ok {
			t.Errorf("%s: cannot be", text)
			continue
		}
		differs := false
		for _, ip := range []string{"10.1.2.3", "192.0.2.1", ""} {
			for _, who := range []string{"ann", "dora", "eve"} {
				in := request(user(who, who), "GET", "/")
				if in.ClientIP = (netip.Addr{}); ip != "" {
					in.ClientIP = netip.MustParseAddr(ip)
				}
				was := shown(allow(t, "p", authenticated(), when(text), with(named)), in)
				if g, w := shown(got, in), shown(want, in); g != w {
					t.Errorf("%s: %s from %q: got\n%s, want\n%s", text, who, ip, g, w)
				}
				if g := shown(before, in); g != was {
					t.Errorf("%s: %s from %q: the one before has become\n%s, was\n%s", text, who, ip, g, was)
				}
				differs = differs || shown(got, in) != was
			}
		}
		if sees := text != "" && text != `request.method == "GET"`; differs != sees {
			t.Errorf("%s: other sets make a difference: %v", text, differs)
		}
	}
}

// shown is all that a policy says of a request.
func shown(p *policy.Policy, in *policy.Input) string {
	set := onOrders(p)
	return fmt.Sprintf("%+v %+v", set.Decide(in), set.Explain(in))
}

// Where the sets are not as they were looked up the policy has to be compiled.
func TestWithSetsOfAnotherKind(t *testing.T) {
	p := allow(t, "p", authenticated(), when(`signals.ip.inSet("office") && principal.id.inSet("staff")`), with(terms(nil)))
	for name, sets := range map[string]map[string]*policy.Members{
		"one is not there":    {"office": policy.NewNetworks(nil)},
		"texts for addresses": {"office": policy.NewIDs(nil), "staff": policy.NewIDs(nil)},
		"addresses for texts": {"office": policy.NewNetworks(nil), "staff": policy.NewNetworks(nil)},
	} {
		if _, ok := p.WithSets(func(name string) *policy.Members { return sets[name] }); ok {
			t.Errorf("%s: has become a policy", name)
		}
	}
}

func BenchmarkWithSets(b *testing.B) {
	p := allow(b, "p", authenticated(), when(`request.path.startsWith("/v1/") && signals.ip.inSet("office")`), with(terms(nil)))
	sets := setsOf("192.0.2.0/24", "dora")
	for b.Loop() {
		if _, ok := p.WithSets(sets); !ok {
			b.Fatal("cannot be")
		}
	}
}
