package policy_test

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sallyport/sallyport/internal/policy"
)

// The policies drawn here ask alike questions, and such as differ in one thing
// only. Some have no value, or one that only CEL's library knows.
var (
	genAskedOne = rapid.Custom(func(t *rapid.T) string {
		n := rapid.IntRange(0, 3).Draw(t, "n")
		return rapid.SampledFrom([]string{
			fmt.Sprintf(`principal.acr == "acr-%d"`, n),
			fmt.Sprintf(`principal.issuer == "acr-%d"`, n),
			fmt.Sprintf(`principal.acr != "acr-%d"`, n),
			fmt.Sprintf(`principal.acr in ["acr-%d", "acr-2"]`, n),
			fmt.Sprintf(`principal.acr in ["acr-%d\", \"acr-2"]`, n),
			fmt.Sprintf(`cidr("10.%d.0.0/15").containsIP(signals.ip)`, n),
			rapid.SampledFrom([]string{
				`cidr("0.0.0.0/0").containsIP(signals.ip)`, `cidr("::/0").containsIP(signals.ip)`, `cidr("10.0.0.1/32").containsIP(signals.ip)`,
				`cidr("2001:db8:0:1::/64").containsIP(signals.ip)`, `cidr("2001:db8::/63").containsIP(signals.ip)`, `cidr("2001:db8::/65").containsIP(signals.ip)`,
				`cidr("::a00:1/128").containsIP(signals.ip)`,
			}).Draw(t, "network"),
			fmt.Sprintf(`signals.time >= timestamp("2026-11-26T1%d:00:00Z")`, n),
			fmt.Sprintf(`signals.time < timestamp("2026-11-26T1%d:00:00Z")`, n),
			fmt.Sprintf(`signals.time <= timestamp("2026-11-26T1%d:00:00Z")`, n),
			fmt.Sprintf(`signals.time > timestamp("2026-11-26T1%d:00:00Z")`, n),
			`signals.time > timestamp("0001-01-01T00:00:00Z")`,
			`signals.time <= timestamp("9999-12-31T23:59:59.999999999Z")`,
			fmt.Sprintf(`principal.authenticated_at < timestamp("2026-11-26T1%d:00:00Z")`, n),
			fmt.Sprintf(`signals.time >= timestamp("2026-11-26T11:00:00Z") && signals.time < timestamp("2026-11-26T1%d:30:00Z")`, n),
			fmt.Sprintf(`principal.claims.level >= %d`, n),
			fmt.Sprintf(`principal.claims.level > %d`, n),
			fmt.Sprintf(`principal.claims.tenant >= %d`, n),
			fmt.Sprintf(`principal.claims.level == "%d"`, n),
			fmt.Sprintf(`principal.claims.tenant == "%d"`, n),
			fmt.Sprintf(`"%d" in principal.claims.roles`, n),
			fmt.Sprintf(`"%d" in principal.claims.tenant`, n),
			fmt.Sprintf(`has(principal.claims.level) && principal.claims.level < %d`, n),
			fmt.Sprintf(`(principal.claims.level < %d || "1" in principal.claims.roles)`, n),
			fmt.Sprintf(`request.path.startsWith("/a/%d")`, n),
			fmt.Sprintf(`[1, 2].map(i, i + 1).exists(i, i == %d)`, n),
		}).Draw(t, "question")
	})
	genAsked = rapid.Custom(func(t *rapid.T) string {
		operator := rapid.SampledFrom([]string{" && ", " && ", " && ", " || "}).Draw(t, "operator")
		return strings.Join(rapid.SliceOfN(genAskedOne, 1, 4).Draw(t, "questions"), operator)
	})
	genClaim = rapid.SampledFrom([]any{
		float64(0), float64(2), float64(3), int64(2), int64(3), "0", "2", true, nil, []any{"0", "1"}, []any{"1", 2.0}, make([]any, 600), map[string]any{"1": nil},
	})
	genAsker = rapid.Custom(func(t *rapid.T) *policy.Input {
		in := genInput.Draw(t, "in")
		in.ClientIP = rapid.SampledFrom([]netip.Addr{
			{}, netip.MustParseAddr("10.2.0.1"), netip.MustParseAddr("::ffff:10.0.0.1"), netip.MustParseAddr("::10.0.0.1"),
			netip.MustParseAddr("2001:db8:0:1::1"), netip.MustParseAddr("2001:db8::8000:0:0:1%eth0"), netip.MustParseAddr("::"),
		}).Draw(t, "ip")
		in.Now = rapid.SampledFrom([]time.Time{
			{}, noon, noon.Add(-time.Nanosecond), noon.Add(time.Nanosecond), noon.Add(time.Hour).In(time.FixedZone("east", 7200)),
			time.Unix(math.MaxInt64, 0), time.Unix(math.MinInt64, 0), time.Unix(math.MinInt64/2, 0), time.Unix(math.MaxInt64-62135596800, 1),
		}).Draw(t, "now")
		if p := in.Principal; p != nil {
			p.ACR = rapid.SampledFrom([]string{"", "acr-0", "acr-1", `acr-1", "acr-2`, strings.Repeat("x", 9000)}).Draw(t, "acr")
			p.AuthenticatedAt = rapid.SampledFrom([]time.Time{{}, noon}).Draw(t, "at")
			p.Claims = rapid.MapOfN(rapid.SampledFrom([]string{"level", "tenant", "roles"}), genClaim, 0, 3).Draw(t, "claims")
		}
		return in
	})
)

// Explain asks every policy alone, and Decide asks what they have in common once.
func TestDecideAgreesWithEveryPolicyAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		specs := rapid.SliceOfNDistinct(genSpec, 1, policy.MaxSteps, nameOf).Draw(t, "specs")
		for i := range specs {
			specs[i].When = genAsked.Draw(t, "when")
		}
		set := onOrders(compileAll(t, specs)...)
		for range 8 {
			in := genAsker.Draw(t, "in")
			e := set.Explain(in)
			d := e.Decision
			d.Detail, d.Shadow = "", policy.Shadow{}
			if want := resolve(e.Steps); d != want {
				t.Fatalf("got %+v, want %+v", d, want)
			}
		}
	})
}

// Of two conditions that differ in one thing, one holds and the other does not: a
// route that has both does not take one for the other.
func TestDecideTellsQuestionsApart(t *testing.T) {
	p := user("ann")
	p.ACR, p.AuthenticatedAt = "gold", noon.Add(-2*time.Hour)
	p.Claims = map[string]any{"roles": []any{"gold"}, "tier": "gold", "level": 2.0, "rank": 3.0}
	in := request(p, "GET", "/v1/orders/7")
	in.ClientIP, in.Now = netip.MustParseAddr("10.2.0.1"), noon
	for difference, c := range map[string]struct{ holds, misses string }{
		"what is read":      {`principal.acr == "gold"`, `principal.issuer == "gold"`},
		"text":              {`principal.acr == "gold"`, `principal.acr == "iron"`},
		"texts":             {`principal.acr in ["gold", "iron"]`, `principal.acr in ["iron", "lead"]`},
		"where texts end":   {`principal.acr in ["gold", "iron"]`, `principal.acr in ["gold\", \"iron"]`},
		"network":           {`cidr("10.2.0.0/16").containsIP(signals.ip)`, `cidr("10.3.0.0/16").containsIP(signals.ip)`},
		"length of network": {`cidr("10.0.0.0/8").containsIP(signals.ip)`, `cidr("10.0.0.0/16").containsIP(signals.ip)`},
		"moment":            {`signals.time < timestamp("2026-11-26T13:00:00Z")`, `signals.time < timestamp("2026-11-26T11:00:00Z")`},
		"whose moment":      {`principal.authenticated_at < timestamp("2026-11-26T11:00:00Z")`, `signals.time < timestamp("2026-11-26T11:00:00Z")`},
		"order of moments":  {`signals.time <= timestamp("2026-11-26T12:00:00Z")`, `signals.time < timestamp("2026-11-26T12:00:00Z")`},
		"beginning": {`signals.time >= timestamp("2026-11-26T11:00:00Z") && signals.time < timestamp("2026-11-26T15:00:00Z")`,
			`signals.time >= timestamp("2026-11-26T13:00:00Z") && signals.time < timestamp("2026-11-26T15:00:00Z")`},
		"end": {`signals.time >= timestamp("2026-11-26T09:00:00Z") && signals.time < timestamp("2026-11-26T15:00:00Z")`,
			`signals.time >= timestamp("2026-11-26T09:00:00Z") && signals.time < timestamp("2026-11-26T11:00:00Z")`},
		"window and moment": {`signals.time >= timestamp("2026-11-26T09:00:00Z")`,
			`signals.time >= timestamp("2026-11-26T09:00:00Z") && signals.time < timestamp("2026-11-26T11:00:00Z")`},
		"claim":              {`principal.claims.rank >= 3`, `principal.claims.level >= 3`},
		"number":             {`principal.claims.rank >= 3`, `principal.claims.rank >= 4`},
		"order of numbers":   {`principal.claims.rank >= 3`, `principal.claims.rank > 3`},
		"text of a claim":    {`principal.claims.tier == "gold"`, `principal.claims.tier == "iron"`},
		"member of a claim":  {`"gold" in principal.claims.roles`, `"iron" in principal.claims.roles`},
		"kind, of one claim": {`"gold" in principal.claims.roles`, `principal.claims.roles == "gold"`},
	} {
		for _, name := range []string{"a", "z"} { // before the other, and behind it
			set := onOrders(deny(t, "m", when(c.misses)), allow(t, name, authenticated(), when(c.holds)))
			if d := set.Decide(in); !d.Allow || d.Policy != "shop/"+name {
				t.Errorf("%s: decided %+v", difference, d)
			}
			set = onOrders(allow(t, "m", authenticated(), when(c.misses)), deny(t, name, when(c.holds)), allow(t, "x", authenticated()))
			if d := set.Decide(in); d.Allow || d.Policy != "shop/"+name {
				t.Errorf("%s: decided %+v", difference, d)
			}
			set = onOrders(allow(t, "m", authenticated(), when(c.misses)), allow(t, name, authenticated(), when(c.holds)))
			if d := set.Decide(in); !d.Allow || d.Policy != "shop/"+name {
				t.Errorf("%s: decided %+v", difference, d)
			}
		}
	}
}

// resolve makes a decision of what enforced policies have to say.
func resolve(steps []policy.Step) policy.Decision {
	for _, effect := range []policy.Effect{policy.Deny, policy.Allow} {
		var failed string
		for _, s := range steps {
			switch {
			case s.Effect != effect || s.Shadow:
			case s.Matched && effect == policy.Deny:
				return policy.Decision{Reason: policy.ReasonDenied, Policy: s.Policy}
			case s.Matched:
				return policy.Decision{Allow: true, Reason: policy.ReasonAllowed, Policy: s.Policy}
			case s.Miss == policy.MissError && failed == "":
				failed = s.Policy
			}
		}
		if failed != "" {
			return policy.Decision{Reason: policy.ReasonEvaluationError, Policy: failed}
		}
	}
	return policy.Decision{Reason: policy.ReasonNoMatch}
}

// More questions than answers are kept of, and more claims.
func TestDecideAsksWithoutEnd(t *testing.T) {
	var pp []*policy.Policy
	for n := range 100 {
		text := fmt.Sprintf(`principal.claims.c%d > 0 && principal.claims.c%d > %d && principal.claims.c%d == "x"`, n%40, n%40, n, (n+1)%40)
		pp = append(pp, allow(t, fmt.Sprintf("p-%03d", n), authenticated(), when(text)))
	}
	pp = append(pp, allow(t, "q", authenticated(), when(`principal.claims.c39 == "x" && principal.claims.c7 > 3`)))
	p := user("ann")
	p.Claims = map[string]any{"c7": 4.0, "c39": "x"}
	in := request(p, "GET", "/v1/orders/7")
	if d := onOrders(pp...).Decide(in); !d.Allow || d.Policy != "shop/q" {
		t.Errorf("decided %+v", d)
	}
	if d := onOrders(pp[:100]...).Decide(in); d.Allow || d.Policy != "shop/p-000" || d.Reason != policy.ReasonEvaluationError {
		t.Errorf("decided %+v", d)
	}
}

// Nearly all of these hold but for a question whose answer is not kept.
func TestDecideAsksWhatIsNotKept(t *testing.T) {
	var pp []*policy.Policy
	for n := range 400 {
		pp = append(pp, allow(t, fmt.Sprintf("p-%03d", n), authenticated(), when(fmt.Sprintf(`principal.claims.level > 0 && principal.claims.tenant == "t-%d"`, n))))
	}
	p := user("ann")
	p.Claims = map[string]any{"level": 4.0, "tenant": "none"}
	in := request(p, "GET", "/v1/orders/7")
	if d := onOrders(pp...).Decide(in); d.Reason != policy.ReasonNoMatch {
		t.Errorf("decided %+v", d)
	}
	p.Claims["tenant"] = "t-399"
	if d := onOrders(pp...).Decide(in); !d.Allow || d.Policy != "shop/p-399" {
		t.Errorf("decided %+v", d)
	}
}

// A condition that runs into the cost limit before it comes to what is known not
// to hold has no value, whatever was asked before.
func TestDecideKeepsTheOrderOfQuestions(t *testing.T) {
	p := user("ann")
	p.ACR = "gold"
	p.Claims = map[string]any{"roles": slices.Repeat([]any{"reader"}, 30_000)}
	in := request(p, "GET", "/v1/orders/7")
	const clerk = `principal.claims.roles.exists(r, r == "clerk")`
	last, first := when(clerk+` && principal.acr == "iron"`), when(`principal.acr == "iron" && `+clerk)
	known := allow(t, "a", authenticated(), first)
	failed := policy.Decision{Reason: policy.ReasonEvaluationError, Policy: "shop/b"}

	d := onOrders(known, allow(t, "b", authenticated(), last)).Decide(in)
	if d.Detail = ""; d != failed {
		t.Errorf("what is known comes last: %+v", d)
	}
	if d := onOrders(known).Decide(in); d.Reason != policy.ReasonNoMatch {
		t.Errorf("what is known comes first: %+v", d)
	}
	gold := allow(t, "c", authenticated(), when(`principal.acr == "gold"`))
	d = onOrders(known, allow(t, "b", authenticated(), last), gold, deny(t, "d", last, shadow())).Decide(in)
	want := policy.Decision{Allow: true, Reason: policy.ReasonAllowed, Policy: "shop/c", Shadow: policy.Shadow{Policy: "shop/d", Reason: policy.ReasonEvaluationError}}
	if d != want {
		t.Errorf("in shadow: %+v", d)
	}
}

// A list is looked through for many members at once, and for few one by one.
func TestDecideLooksThroughLists(t *testing.T) {
	type odd struct{}
	lists := map[string]any{
		"empty": []any{}, "one": []any{"r-3"}, "two": []any{"r-2", "r-7", "x"}, "others beside": []any{nil, true, 1.5, int64(1), []any{}, map[string]any{}, "r-1"},
		"odd before": []any{odd{}, "r-4"}, "odd behind": []any{"r-5", odd{}}, "odd between": []any{"r-6", odd{}, "r-1"}, "odd alone": []any{odd{}},
		"too long": append(make([]any, 600), "r-9"), "text": "r-3", "object": map[string]any{"r-3": 1.0}, "null": nil,
	}
	for name, list := range lists {
		for _, many := range []int{1, 2, 7, 8, 12} {
			var pp []*policy.Policy
			for n := range many {
				pp = append(pp, allow(t, fmt.Sprintf("p-%02d", n), authenticated(), when(fmt.Sprintf(`"r-%d" in principal.claims.roles`, n))))
			}
			p := user("ann")
			p.Claims = map[string]any{"roles": list}
			in := request(p, "GET", "/v1/orders/7")
			e := onOrders(pp...).Explain(in)
			e.Decision.Detail = ""
			if want := resolve(e.Steps); e.Decision != want {
				t.Errorf("%s, %d policies: got %+v, want %+v", name, many, e.Decision, want)
			}
		}
	}
}
