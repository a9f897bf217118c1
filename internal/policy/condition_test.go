package policy_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/policy"
)

func TestConditions(t *testing.T) {
	ann := user("ann", "shop", "staff")
	ann.Claims = map[string]any{
		"verified": true, "level": 3.0, "amr": []any{"pwd", "otp"}, "act": map[string]any{"sub": "bob"}, "none": nil,
	}
	ann.Scopes = []string{"orders:read"}
	ann.ACR, ann.AMR = "gold", []string{"pwd", "hwk"}
	full := request(ann, "GET", "/v1/orders/7")
	ann.AuthenticatedAt = full.Now.Add(-time.Minute).In(time.FixedZone("west", -8*3600))
	mapped := *full
	mapped.ClientIP = netip.MustParseAddr("::ffff:10.1.2.3")
	zoned := *full
	zoned.ClientIP = netip.MustParseAddr("fe80::1%eth0")
	east := *full
	east.Now = full.Now.In(time.FixedZone("east", 9*3600))
	empty := &policy.Input{Principal: &policy.Principal{Kind: policy.User}, Route: orders}
	nobody := &policy.Input{Route: orders}
	web := request(workload("spiffe://prod.example/ns/shop/web"), "GET", "/")

	const yes, no, failed = policy.ReasonAllowed, policy.ReasonNoMatch, policy.ReasonEvaluationError
	for _, c := range []struct {
		in     *policy.Input
		when   string
		reason policy.Reason
	}{
		{full, `signals.tls.version == "1.3" && principal.groups.exists(g, g == "shop") && request.method == "GET"`, yes},
		{full, `true`, yes},
		{full, `false`, no},

		{full, `principal.kind == "user" && principal.id == "ann" && principal.issuer == "https://login.example"`, yes},
		{full, `principal.spiffe_id == "" && !has(principal.spiffe_id)`, yes},
		{web, `principal.kind == "workload" && principal.spiffe_id.startsWith("spiffe://prod.example/ns/shop/")`, yes},
		{nobody, `principal.kind == "anonymous" && principal.id == "" && principal.groups == [] && size(principal.claims) == 0`, yes},
		{full, `"shop" in principal.groups`, yes},
		{full, `"sho" in principal.groups`, no},
		{full, `"orders:read" in principal.scopes && !("orders" in principal.scopes)`, yes},
		{nobody, `principal.scopes == []`, yes},
		{full, `principal.groups[7] == "shop"`, failed},

		{full, `principal.acr == "gold" && "hwk" in principal.amr && !("mfa" in principal.amr)`, yes},
		{full, `signals.time - principal.authenticated_at <= duration("60s")`, yes},
		{full, `signals.time - principal.authenticated_at < duration("60s")`, no},
		{empty, `has(principal.acr) || has(principal.authenticated_at) || size(principal.amr) > 0`, no},
		{empty, `signals.time - principal.authenticated_at < duration("60s")`, failed},
		{nobody, `principal.authenticated_at < timestamp("2100-01-01T00:00:00Z")`, failed},

		{full, `principal.claims.verified == true`, yes},
		{full, `principal.claims.level >= 3 && principal.claims.level < 4`, yes},
		{full, `"otp" in principal.claims.amr && principal.claims.act.sub == "bob"`, yes},
		{full, `principal.claims.none == null`, yes},
		{full, `has(principal.claims.absent)`, no},
		{full, `principal.claims.absent == 1`, failed},
		{full, `has(principal.claims.absent) && principal.claims.absent == 1`, no},
		{full, `principal.claims.verified == "true"`, no}, // no coercion
		{full, `principal.claims.level.startsWith("3")`, failed},
		{empty, `"x" in principal.claims`, no},

		{full, `request.method + " " + request.host + request.path + "?" + request.query == "GET api.example/v1/orders/7?page=2"`, yes},
		{full, `request.path.matches("^/v1/orders/[0-9]+$")`, yes},
		{full, `matches(request.path, "^/v2/")`, no},

		{full, `request.headers["x-tenant"] == "blue"`, yes}, // the first value
		{full, `request.headers["X-TENANT"] == "blue" && "X-Tenant" in request.headers`, yes},
		{full, `has(request.headers.authorization) && !has(request.headers.cookie)`, yes},
		{full, `"x-other" in request.headers`, no},
		{full, `request.headers["x-other"] == ""`, failed},
		{full, `request.headers.exists(k, k == "x-tenant") && size(request.headers) == 2`, yes},
		{full, `request.headers.exists(k, request.headers[k] == "blue")`, yes},
		{full, `request.headers == {"x-tenant": "blue", "authorization": "Bearer s3cret"}`, yes},
		{empty, `size(request.headers) == 0 && !("x" in request.headers)`, yes},
		{full, `request.headers[principal.id] == ""`, failed}, // a name not known before

		{full, `route.namespace == "shop" && route.name == "orders" && route.labels.app == "orders"`, yes},
		{full, `route.labels["tier"] == "gold"`, failed},
		{empty, `"tier" in route.labels`, no},

		{full, `cidr("10.0.0.0/8").containsIP(signals.ip)`, yes},
		{full, `cidr("192.168.0.0/16").containsIP(signals.ip)`, no},
		{&mapped, `cidr("10.0.0.0/8").containsIP(signals.ip) && signals.ip == ip("10.1.2.3")`, yes},
		{&zoned, `cidr("fe80::/10").containsIP(signals.ip)`, yes},
		{empty, `signals.ip == ip("10.1.2.3")`, failed},
		{empty, `has(signals.ip)`, no},
		{full, `ip(request.host) == signals.ip`, failed},

		{full, `signals.time.getHours() == 5 && signals.time.getDayOfWeek() == 3`, yes},
		{&east, `signals.time.getHours() == 5 && string(signals.time) == "2026-03-04T05:06:07Z"`, yes}, // UTC wherever the proxy stands
		{full, `timestamp("2026-03-04T09:00:00+09:00").getHours() == 0`, yes},
		{full, `signals.time.getHours("Asia/Tokyo") == 14 && signals.time.getHours("Europe/Berlin") == 6 && signals.time.getMinutes("-03:30") == 36`, yes},
		{full, `timestamp("2026-03-29T00:59:59Z").getHours("Europe/Berlin") == 1 && timestamp("2026-03-29T01:00:00Z").getHours("Europe/Berlin") == 3`, yes}, // summer
		{full, `signals.time >= timestamp("2026-03-04T05:06:07Z") && signals.time < timestamp("2026-03-04T05:06:08Z")`, yes},
		{full, `signals.time >= timestamp("2026-03-04T05:06:08Z") && signals.time < timestamp("2026-03-05T00:00:00Z")`, no},
		{full, `signals.time >= timestamp("2026-01-01T00:00:00Z") && signals.time < timestamp("2026-03-04T05:06:07Z")`, no},
		{empty, `signals.time >= timestamp("2026-01-01T00:00:00Z") && signals.time < timestamp("2027-01-01T00:00:00Z")`, failed},
		{full, `signals.time < timestamp("2026-03-04T05:06:08Z") && signals.time > timestamp("2026-01-01T00:00:00Z") + duration("24h")`, yes},
		{empty, `signals.time > timestamp("2020-01-01T00:00:00Z")`, failed},
		{empty, `has(signals.time)`, no},
		{full, `signals.tls.sni == "api.example" && signals.tls.alpn == "h2" && has(signals.tls)`, yes},
		{empty, `has(signals.tls.version)`, no},

		{full, `1 / 0 == 1`, failed},
		{full, `int(request.query) == 2`, failed},
		{full, `int(request.query) == 2 || request.method == "GET"`, yes}, // CEL: true absorbs an error
		{full, `int(request.query) == 2 && request.method == "PUT"`, no},  // and so does false
		{full, `[0,1,2,3,4,5,6,7,8,9].all(a, [0,1,2,3,4,5,6,7,8,9].all(b, a + b < 19))`, yes},
	} {
		permits := allow(t, "permits", authenticated(), anonymous(), when(c.when))
		if got := onOrders(permits).Decide(c.in); got.Reason != c.reason || got.Allow != (c.reason == yes) {
			t.Errorf("ALLOW when %s: got %+v, want %s", c.when, got, c.reason)
		}

		// The same condition in a DENY lets pass only what it says no to.
		set := onOrders(deny(t, "forbids", when(c.when)), allow(t, "all", authenticated(), anonymous()))
		want := map[policy.Reason]policy.Reason{yes: policy.ReasonDenied, no: policy.ReasonAllowed, failed: failed}[c.reason]
		if got := set.Decide(c.in); got.Reason != want || got.Allow != (c.reason == no) {
			t.Errorf("DENY when %s: got %+v, want %s", c.when, got, want)
		}
	}
}

func TestConditionsRefused(t *testing.T) {
	for text, want := range map[string]string{
		`signals.gia == "DE"`:                                       `1:8: undefined field 'gia'`,
		`principal.gruops.exists(g, g == "shop")`:                   `1:10: undefined field 'gruops'`,
		"request.method == \"GET\" &&\n  signals.tls.vers == \"1\"": `2:14: undefined field 'vers'`,
		`nope`:                               `1:1: undeclared reference to 'nope'`,
		`request.method == 1`:                `1:16: found no matching overload for '_==_' applied to '(string, int)'`,
		`"grün" == request.method && nope`:   `1:29: undeclared reference to 'nope'`, // characters, not bytes
		`1 +`:                                `1:4: Syntax error: mismatched input`,
		` `:                                  `1:2: Syntax error: mismatched input`,
		`request.path`:                       `1:1: is of type string, not bool`,
		`principal.claims.verified`:          `1:1: may be of any type; say which`,
		`null`:                               `1:1: is of type null, not bool`,
		`principal == principal`:             `1:1: has no value of its own: name one of its fields`,
		`dyn(signals.tls) == 1`:              `1:12: has no value of its own`,
		`[request].exists(r, r.path == "/")`: `1:2: has no value of its own`,
		`sallyport.Principal{id: "ann"}.id == "ann"`:                 `1:20: objects cannot be made in a condition`,
		`google.protobuf.Int64Value{value: 1} == 1`:                  `1:27: objects cannot be made in a condition`,
		`request.path.matches("(")`:                                  `1:22: error parsing regexp: missing closing )`,
		`matches(request.path, "(")`:                                 `1:23: error parsing regexp: missing closing )`,
		`request.path.matches("(x{40}y){20}")`:                       `1:22: regex program size`,
		`request.path.matches(request.query)`:                        `1:29: the pattern of matches must be a literal`,
		`signals.time.getHours("Europe/Atlantis") == 9`:              `1:23: is no time zone: write it as "Europe/Berlin" or "+01:00"`,
		`signals.time.getHours("Local") == 9`:                        `1:23: every machine has its own Local: name a time zone`,
		`signals.time.getHours("25:00") == 9`:                        `1:23: is no time zone`,
		`signals.time.getDate("../passwd") == 9`:                     `1:22: is no time zone`,
		`signals.time.getHours(route.labels.zone) == 9`:              `1:35: the time zone must be a literal`,
		`signals.time > timestamp("yesterday")`:                      `1:26: invalid timestamp argument`,
		`duration("1 day") > duration("1h")`:                         `1:10: invalid duration argument`,
		`cidr("10.0.0.0").containsIP(signals.ip)`:                    `1:6: invalid cidr argument`,
		`[1].all(a, [1].all(b, [1].all(c, true)))`:                   `1:30: comprehension exceeds nesting limit`,
		strings.Repeat("(", 100) + "true" + strings.Repeat(")", 100): `1:1: expression recursion limit exceeded`,
		`[` + strings.Repeat("0,", 1100) + `0] == []`:                `1:1: expression node count exceeds limit`,
		"true" + strings.Repeat(" ", policy.MaxWhenLength-3):         `1:1: 4097 bytes: more than 4096`,
		"\"\xff\" == \"\"":                                           `1:1: is not UTF-8`,
		`[` + strings.Repeat("0,", 150) + `0].map(a, [` + strings.Repeat("0,", 150) + `0].map(b, a + b)) == []`: `1:1: costs at least`,
	} {
		_, err := policy.Compile(spec(policy.Deny, "p", when(text)))
		problems := policy.Problems(err)
		if len(problems) == 0 {
			t.Errorf("%.60q: compiles, want %q", text, want)
			continue
		}
		if got, ok := strings.CutPrefix(problems[0].Error(), "when:"); !ok || !strings.HasPrefix(got, want) || want == "" {
			t.Errorf("%.60q: got %q, want %q", text, problems[0], want)
		}
	}
}

func TestConditionProblemsAreBounded(t *testing.T) {
	_, err := policy.Compile(spec(policy.Deny, "p", when(strings.Repeat("nope || ", 50)+"nope")))
	if n := len(policy.Problems(err)); n != 20 {
		t.Errorf("50 mistakes: %d problems, want 20", n)
	}
	_, err = policy.Compile(spec(policy.Deny, "p", when(strings.Repeat("nope", 1000))))
	if n := len(err.Error()); n > 400 {
		t.Errorf("a long mistake makes %d bytes of problem", n)
	}
}

func TestConditionCostIsBounded(t *testing.T) {
	set := onOrders(allow(t, "pairs", authenticated(), when(`principal.groups.all(a, principal.groups.all(b, a.size() == b.size()))`)))
	few, many := user("ann", "a", "b", "c"), user("bob")
	for range 500 {
		many.Groups = append(many.Groups, "g")
	}
	if got := set.Decide(request(few, "GET", "/")); !got.Allow {
		t.Errorf("few groups: %+v", got)
	}
	got := set.Decide(request(many, "GET", "/"))
	want := policy.Decision{Reason: policy.ReasonEvaluationError, Policy: "shop/pairs", Detail: "condition costs more than 20000 to evaluate"}
	if got != want {
		t.Errorf("many groups: got %+v, want %+v", got, want)
	}
}

// CEL's own messages quote what they choke on; a decision must not.
func TestFailureRepeatsNothingOfTheRequest(t *testing.T) {
	for text, want := range map[string]string{
		"true &&\n int(request.headers[\"authorization\"]) > 0":   "condition has no value at line 2, column 5",
		`ip(request.headers["authorization"]) == signals.ip`:      "condition has no value at line 1, column 3",
		`principal.claims[request.headers["authorization"]] > 0`:  "condition has no value at line 1, column 17",
		`request.headers[request.headers["authorization"]] == ""`: "condition has no value at line 1, column 16",
	} {
		set := onOrders(allow(t, "odd", authenticated(), when(text)))
		got := set.Decide(request(user("ann"), "GET", "/"))
		if want := (policy.Decision{Reason: policy.ReasonEvaluationError, Policy: "shop/odd", Detail: want}); got != want {
			t.Errorf("%s: got %+v, want %+v", text, got, want)
		}
	}
}
