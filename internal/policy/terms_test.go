package policy_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/policy"
)

// terms are conditions by name, and two sets.
func terms(conditions map[string]string) *policy.Terms {
	sets := map[string]*policy.Members{
		"office": policy.NewNetworks([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}),
		"staff":  policy.NewIDs([]string{"ann", "bob"}),
	}
	return &policy.Terms{
		Condition: func(name string) (string, bool) { when, ok := conditions[name]; return when, ok },
		Set:       func(name string) *policy.Members { return sets[name] },
	}
}

func with(t *policy.Terms) part { return func(s *policy.Spec) { s.Terms = t } }

func TestTerms(t *testing.T) {
	named := terms(map[string]string{
		"tls":     `signals.tls.version == "1.3"`,
		"inside":  `signals.ip.inSet("office")`,
		"trusted": `condition("tls") && (condition("inside") || "vpn" in principal.groups)`,
		"fails":   `request.headers["x-no"] == "1"`,
		"loops":   `principal.groups.exists(g, g == "shop" || g.inSet("staff"))`,
	})
	from := func(ip string) *policy.Input {
		in := request(user("ann", "shop"), "GET", "/")
		in.ClientIP, in.TLSVersion = netip.Addr{}, "1.3"
		if ip != "" {
			in.ClientIP = netip.MustParseAddr(ip)
		}
		return in
	}
	const inside, away, nowhere = "10.1.2.3", "192.0.2.1", ""
	for _, c := range []struct {
		ip, when string
		reason   policy.Reason
	}{
		{inside, `condition("tls")`, policy.ReasonAllowed},
		{inside, `!condition("tls")`, policy.ReasonNoMatch},
		{inside, `condition("trusted")`, policy.ReasonAllowed},
		{inside, `condition("trusted") && condition("tls") && condition("trusted")`, policy.ReasonAllowed},
		{away, `condition("trusted")`, policy.ReasonNoMatch},
		{away, `condition("trusted") || request.method == "GET"`, policy.ReasonAllowed},
		{inside, `condition("fails")`, policy.ReasonEvaluationError},
		{inside, `condition("fails") || condition("tls")`, policy.ReasonAllowed},
		{inside, `condition("loops") ? condition("inside") : false`, policy.ReasonAllowed},
		{inside, `signals.ip.inSet("office") && principal.id.inSet("staff")`, policy.ReasonAllowed},
		{inside, `request.method.inSet("staff")`, policy.ReasonNoMatch},
		{"2001:db8::1", `signals.ip.inSet("office")`, policy.ReasonAllowed},
		{"::ffff:10.0.0.1", `signals.ip.inSet("office")`, policy.ReasonAllowed},
		{away, `signals.ip.inSet("office")`, policy.ReasonNoMatch},
		{nowhere, `signals.ip.inSet("office")`, policy.ReasonEvaluationError},
		{nowhere, `has(signals.ip) && signals.ip.inSet("office")`, policy.ReasonNoMatch},
		{inside, `principal.groups.exists(g, g.inSet("staff"))`, policy.ReasonNoMatch},
		{inside, `principal.claims.sub.inSet("staff")`, policy.ReasonEvaluationError}, // there is no such claim
		// What closures leave to the library.
		{inside, `type(request.method) == string && signals.ip.inSet("office") && principal.id.inSet("staff") && !"x".inSet("staff")`, policy.ReasonAllowed},
	} {
		got := onOrders(allow(t, "p", authenticated(), when(c.when), with(named))).Decide(from(c.ip))
		if got.Reason != c.reason {
			t.Errorf("%s from %s: got %+v, want %s", c.when, c.ip, got, c.reason)
		}
	}
	// Without terms a reference has no value.
	for _, text := range []string{`condition("tls")`, `signals.ip.inSet("office")`} {
		if got := onOrders(allow(t, "p", authenticated(), when(text))).Decide(from(inside)); got.Reason != policy.ReasonEvaluationError {
			t.Errorf("%s, not linked: got %+v", text, got)
		}
	}
}

func TestTermsRefused(t *testing.T) {
	conditions := map[string]string{
		"self": `true || condition("self")`, "ping": `condition("pong")`, "pong": `condition("ping")`,
		"loop": `principal.groups.exists(g, g == "a")`, "large": strings.Repeat("true || ", 300) + "true", "dangling": `condition("none")`,
	}
	for i := range 10 {
		conditions[fmt.Sprintf("deep%d", i)] = fmt.Sprintf(`condition("deep%d")`, i+1)
	}
	conditions["deep10"] = "true"
	for text, want := range map[string]string{
		`condition("none")`:                                         `when:1:11: there is no Condition "none"`,
		"true &&\n  signals.ip.inSet(\"none\")":                     `when:2:20: there is no Set "none"`,
		`signals.ip.inSet("staff")`:                                 `when:1:18: Set "staff" has ids: look up a text, as principal.id`,
		`principal.id.inSet("office")`:                              `when:1:20: Set "office" has cidrs: look up an address, as signals.ip`,
		`condition("self")`:                                         `when:1:11: Condition "self": Condition "self" refers to itself`,
		`condition("ping")`:                                         `when:1:11: Condition "ping": Condition "pong": Condition "ping" refers to itself`,
		`condition("dangling")`:                                     `when:1:11: Condition "dangling": there is no Condition "none"`,
		`condition("deep4")`:                                        "",
		`condition("deep1")`:                                        `more than 8 deep`,
		`condition("large") || condition("large")`:                  `has more than 1000 parts`,
		`condition(request.method)`:                                 `name it by a literal`,
		`principal.id.inSet("sta" + "ff")`:                          `name it by a literal`,
		`condition("")`:                                             `name it by a literal`,
		`principal.groups.exists(g, condition("loop") || g == "b")`: `does not go into a loop`,
		`condition("loop") == 1`:                                    `no matching overload`,
		`signals.time.inSet("office")`:                              `no matching overload`,
	} {
		_, err := policy.Compile(spec(policy.Deny, "p", when(text), with(terms(conditions))))
		if want == "" && err == nil {
			continue
		}
		if err == nil || want == "" || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
	if err := policy.CheckCondition(conditions["ping"], terms(conditions), "ping"); err == nil || !strings.Contains(err.Error(), "refers to itself") {
		t.Errorf("a circle of two: %v", err)
	}
	if err := policy.CheckCondition(conditions["ping"], nil, "ping"); err != nil {
		t.Errorf("a circle of two, one alone: %v", err)
	}
}

func TestTermsOf(t *testing.T) {
	got := policy.TermsOf("condition(\"a\") &&\n principal.groups.exists(g, g.inSet(\"b\")) || \"condition\" == \"inSet\"")
	want := []policy.Term{{Name: "a", Line: 1, Column: 11}, {Set: true, Name: "b", Line: 2, Column: 37}}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, text := range []string{"", "true", "condition(", `condition(request.method)`} {
		if got := policy.TermsOf(text); len(got) > 0 {
			t.Errorf("%q: got %+v", text, got)
		}
	}
}

// An explanation names the clause within the named condition, at its place there.
func TestExplanationsGoIntoNamedConditions(t *testing.T) {
	named := terms(map[string]string{
		"tls":     "\n signals.tls.version == \"1.2\"",
		"trusted": `request.method == "PUT" || condition("tls")`,
	})
	p := allow(t, "p", authenticated(), when(`request.host == "api.example" && condition("trusted") && !principal.id.inSet("staff")`), with(named))
	var got []string
	for _, w := range onOrders(p).Explain(request(user("ann"), "GET", "/")).Steps[0].Ways {
		for _, c := range w {
			got = append(got, strings.TrimPrefix(c.Condition+" "+told(c), " "))
		}
	}
	staff := `1:59 [principal.id.inSet("staff")] is true`
	want := []string{`trusted 1:1 [request.method == "PUT"] is false`, staff, `tls 2:2 [signals.tls.version == "1.2"] is false`, staff}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSetsOfManyEntries(t *testing.T) {
	ids, networks := make([]string, 100_000), make([]netip.Prefix, 100_000)
	for i := range ids {
		ids[i] = fmt.Sprintf("user-%06d", i)
		networks[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
	}
	sets := map[string]*policy.Members{"ids": policy.NewIDs(ids), "cidrs": policy.NewNetworks(networks)}
	set := onOrders(allow(t, "p", authenticated(), when(`principal.id.inSet("ids") && signals.ip.inSet("cidrs")`),
		with(&policy.Terms{Set: func(name string) *policy.Members { return sets[name] }})))
	in := request(user("user-099999"), "GET", "/")
	in.ClientIP = netip.MustParseAddr("10.1.134.159")
	if got := set.Decide(in); !got.Allow {
		t.Errorf("the last of 100,000: %+v", got)
	}
	if n := testing.AllocsPerRun(100, func() { set.Decide(in) }); n > 0 {
		t.Errorf("a look-up in both allocates %v times", n)
	}
	in.ClientIP = netip.MustParseAddr("10.1.134.160")
	if got := set.Decide(in); got.Reason != policy.ReasonNoMatch {
		t.Errorf("the one behind the last: %+v", got)
	}
}
