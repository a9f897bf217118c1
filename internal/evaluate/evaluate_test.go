package evaluate_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/evaluate"
	"github.com/sallyport/sallyport/internal/resource"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
)

const fleet = `
{apiVersion: sallyport/v1, kind: Environment, metadata: {name: aws}}
---
{apiVersion: sallyport/v1, kind: IdentityProvider, metadata: {namespace: shop, name: login}, spec: {issuer: "https://login.example", jwksUrl: "https://login.example/keys", audiences: [orders]}}
---
{apiVersion: sallyport/v1, kind: Upstream, metadata: {namespace: shop, name: orders}, spec: {endpoints: ["127.0.0.1:80"], plaintext: {}}}
---
{apiVersion: sallyport/v1, kind: Route, metadata: {namespace: shop, name: orders}, spec: {hosts: [api.example], paths: ["/orders/{id}"], methods: [GET, PUT], upstream: orders, authentication: {identityProviders: [login]}}}
---
{apiVersion: sallyport/v1, kind: Route, metadata: {namespace: shop, name: files}, spec: {hosts: [api.example], paths: ["/files/{name}"], upstream: orders, authentication: {identityProviders: [login]}, encodedSlashes: KEEP}}
---
{apiVersion: sallyport/v1, kind: Policy, metadata: {namespace: shop, name: reads}, spec: {routes: {all: true}, effect: ALLOW, principals: [{group: shop}, {subject: bob, identityProvider: login}], methods: [GET]}}
---
{apiVersion: sallyport/v1, kind: Policy, metadata: {namespace: shop, name: tenants}, spec: {routes: {all: true}, effect: DENY, methods: [PUT], when: 'request.headers["x-tenant"] != "shop"'}}
---
{apiVersion: sallyport/v1, kind: Policy, metadata: {namespace: shop, name: writes}, spec: {routes: {all: true}, effect: ALLOW, principals: [{group: shop}], methods: [PUT], when: '"dry" in request.params && request.params["dry"] == "1" || principal.claims.level == "high"'}}
---
{apiVersion: sallyport/v1, kind: Policy, metadata: {namespace: shop, name: gone}, spec: {routes: {all: true}, effect: DENY, principals: [{subject: mallory}], mode: SHADOW}}
---
{apiVersion: sallyport/v1, kind: Policy, metadata: {namespace: shop, name: here}, spec: {routes: {all: true}, effect: ALLOW, principals: [{group: travellers}], methods: [GET], when: signals.geo.country == "DE"}}
---
{apiVersion: sallyport/v1, kind: Policy, metadata: {namespace: shop, name: laptops}, spec: {routes: {all: true}, effect: ALLOW, principals: [{group: ours}], methods: [GET], when: signals.device.compliant}}
---
{apiVersion: sallyport/v1, kind: Policy, metadata: {namespace: shop, name: own}, spec: {routes: {all: true}, effect: ALLOW, principals: [{group: owners}], methods: [GET], when: signals.device.owner == principal.id}}
---
{apiVersion: sallyport/v1, kind: Policy, metadata: {namespace: shop, name: up-to-date}, spec: {routes: {all: true}, effect: ALLOW, principals: [{group: careful}], methods: [GET], when: signals.security_age < duration("1m")}}
---
{apiVersion: sallyport/v1, kind: Policy, metadata: {namespace: shop, name: calm}, spec: {routes: {all: true}, effect: ALLOW, principals: [{group: guests}], methods: [GET], when: signals.denials.principal < 10 && signals.denials.address < 100}}
`

var now = time.Date(2026, time.November, 26, 9, 0, 0, 0, time.UTC)

func table(t *testing.T) *compile.Table {
	t.Helper()
	located, problems := resource.ParseYAML([]byte(fleet))
	var parsed []resource.Parsed
	for _, l := range located {
		p, found := resource.Decode(l.Resource)
		problems.Merge(found)
		parsed = append(parsed, p)
	}
	if problems.Total > 0 {
		t.Fatal(problems.Kept[0].String())
	}
	made, err := evaluate.Offline("aws", parsed)
	if err != nil || len(made.Rejects()) > 0 {
		t.Fatal(err, made.Rejects())
	}
	return made
}

func user(id string, groups ...string) *decisionv1.Principal {
	return &decisionv1.Principal{Kind: "user", Id: id, Groups: groups, Provider: "shop/login"}
}

func laptop(compliant bool) *decisionv1.Device {
	return &decisionv1.Device{Id: "laptop-7", Owner: "eve", Compliant: &compliant}
}

func denied(principal, address int64) *decisionv1.Signals {
	return &decisionv1.Signals{Denials: &decisionv1.Denials{Principal: &principal, Address: &address}}
}

// A request that is described is answered as a proxy would answer it.
func TestAsk(t *testing.T) {
	made := table(t)
	header := func(name, value string) []*decisionv1.Header {
		return []*decisionv1.Header{{Name: name, Value: value}}
	}
	for _, c := range []struct {
		name           string
		question       *adminv1.Question
		reason, policy string
	}{
		{"by group", &adminv1.Question{Principal: user("alice", "shop"), Path: "/orders/7"}, "allowed_by_policy", "shop/reads"},
		{"by subject", &adminv1.Question{Principal: user("bob"), Path: "/orders/7"}, "allowed_by_policy", "shop/reads"},
		{"of nobody's group", &adminv1.Question{Principal: user("carl", "x"), Path: "/orders/7"}, "no_matching_policy", ""},
		{"header", &adminv1.Question{Method: "PUT", Principal: user("alice", "shop"), Path: "/orders/7?dry=1", Headers: header("X-Tenant", "shop")}, "allowed_by_policy", "shop/writes"},
		{"another header", &adminv1.Question{Method: "PUT", Principal: user("alice", "shop"), Path: "/orders/7?dry=1", Headers: header("X-Tenant", "x")}, "denied_by_policy", "shop/tenants"},
		{"no header", &adminv1.Question{Method: "PUT", Principal: user("alice", "shop"), Path: "/orders/7?dry=1"}, "evaluation_error", "shop/tenants"},
		{"from here", &adminv1.Question{Principal: user("eve", "travellers"), Path: "/orders/7", Signals: &decisionv1.Signals{Geo: &decisionv1.Geo{Country: "DE"}}}, "allowed_by_policy", "shop/here"},
		{"from nobody knows where", &adminv1.Question{Principal: user("eve", "travellers"), Path: "/orders/7"}, "evaluation_error", "shop/here"},
		{"on a device", &adminv1.Question{Principal: user("eve", "ours"), Path: "/orders/7", Signals: &decisionv1.Signals{Device: laptop(true)}}, "allowed_by_policy", "shop/laptops"},
		{"on a device that is not as it should be", &adminv1.Question{Principal: user("eve", "ours"), Path: "/orders/7", Signals: &decisionv1.Signals{Device: laptop(false)}}, "no_matching_policy", ""},
		{"on a device of which nothing is known any more", &adminv1.Question{Principal: user("eve", "ours"), Path: "/orders/7", Signals: &decisionv1.Signals{
			Device: &decisionv1.Device{Id: "laptop-7", Compliant: new(true), ExpiresAt: timestamppb.New(now)},
		}}, "evaluation_error", "shop/laptops"},
		{"on no device", &adminv1.Question{Principal: user("eve", "ours"), Path: "/orders/7"}, "evaluation_error", "shop/laptops"},
		{"on their own device", &adminv1.Question{Principal: user("eve", "owners"), Path: "/orders/7", Signals: &decisionv1.Signals{Device: laptop(true)}}, "allowed_by_policy", "shop/own"},
		{"denied less often", &adminv1.Question{Principal: user("eve", "guests"), Path: "/orders/7", Signals: denied(9, 0)}, "allowed_by_policy", "shop/calm"},
		{"denied too often", &adminv1.Question{Principal: user("eve", "guests"), Path: "/orders/7", Signals: denied(10, 0)}, "no_matching_policy", ""},
		{"denied nobody knows how often", &adminv1.Question{Principal: user("eve", "guests"), Path: "/orders/7"}, "evaluation_error", "shop/calm"},
		{"denied nobody knows how often there", &adminv1.Question{Principal: user("eve", "guests"), Path: "/orders/7", Signals: &decisionv1.Signals{Denials: &decisionv1.Denials{Principal: new(int64)}}}, "evaluation_error", "shop/calm"},
		{"nobody", &adminv1.Question{Path: "/orders/7"}, "credentials_missing", ""},
		{"elsewhere", &adminv1.Question{Principal: user("alice", "shop"), Path: "/carts"}, "no_route", ""},
		{"method", &adminv1.Question{Method: "POST", Principal: user("alice", "shop"), Path: "/orders/7"}, "method_not_allowed", ""},
		{"dots", &adminv1.Question{Principal: user("alice", "shop"), Path: "/orders/../7"}, "path_dot_segment", ""},
		{"an escaped slash", &adminv1.Question{Principal: user("alice", "shop"), Path: "/orders/a%2Fb"}, "path_ambiguous_escape", ""},
		{"an escaped slash that is kept", &adminv1.Question{Principal: user("alice", "shop"), Path: "/files/a%2fb"}, "allowed_by_policy", "shop/reads"},
		{"an escaped slash and dots", &adminv1.Question{Principal: user("alice", "shop"), Path: "/files/..%2fb"}, "path_ambiguous_escape", ""},
		{"an escaped slash that nobody takes", &adminv1.Question{Principal: user("alice", "shop"), Path: "/files%2fb"}, "path_ambiguous_escape", ""},
		{"another server", &adminv1.Question{Principal: user("alice", "shop"), Path: "/orders/7", Signals: &decisionv1.Signals{Tls: &decisionv1.TLS{Version: "1.3", Sni: "x.example"}}}, "misdirected_request", ""},
	} {
		c.question.Host = "api.example"
		q, err := evaluate.Describe(c.question, now)
		if err != nil {
			t.Fatal(err)
		}
		a := evaluate.Ask(made, &q)
		if a.GetReason() != c.reason || a.GetPolicy() != c.policy || a.GetAllow() != (c.reason == "allowed_by_policy") || a.GetAllow() == (a.GetStatus() != 0) {
			t.Errorf("%s: %v", c.name, a)
		}
	}
}

func TestDescribeRefuses(t *testing.T) {
	for _, q := range []*adminv1.Question{
		{Principal: &decisionv1.Principal{Kind: "robot"}},
		{Principal: &decisionv1.Principal{Kind: "user", Claims: "[1]"}},
		{Principal: &decisionv1.Principal{Kind: "user", Claims: strings.Repeat(" ", 1<<17)}},
		{Signals: &decisionv1.Signals{Ip: &decisionv1.Address{Address: "010.0.0.1"}}},
		{Signals: &decisionv1.Signals{Device: &decisionv1.Device{Compliant: new(true)}}},
		{Signals: denied(-1, 1)},
		{Signals: denied(1, -1)},
	} {
		if _, err := evaluate.Describe(q, now); err == nil {
			t.Errorf("%.200v is taken", q)
		}
	}
}

// What a record does not hold is named where a policy reads it, and nowhere else.
func TestExplainOfRecords(t *testing.T) {
	made := table(t)
	record := func(reason, policy, method string, edit func(*decisionv1.Decision)) *decisionv1.Decision {
		d := &decisionv1.Decision{
			Time: timestamppb.New(now), Route: "shop/orders", Reason: reason, Policy: policy, Allow: reason == "allowed_by_policy",
			Principal: user("alice", "shop"), Request: &decisionv1.Request{Method: method, Host: "api.example", Path: "/orders/7"},
		}
		if edit != nil {
			edit(d)
		}
		return d
	}
	tenant := func(d *decisionv1.Decision) {
		d.Request.Headers = []*decisionv1.Header{{Name: "X-Tenant"}}
	}
	const same, different, unknown, notAsked = adminv1.Agreement_AGREEMENT_SAME, adminv1.Agreement_AGREEMENT_DIFFERENT,
		adminv1.Agreement_AGREEMENT_UNKNOWN, adminv1.Agreement_AGREEMENT_NOT_ASKED
	for _, c := range []struct {
		name    string
		record  *decisionv1.Decision
		want    adminv1.Agreement
		inexact string // in the first one
	}{
		{"allowed", record("allowed_by_policy", "shop/reads", "GET", nil), same, ""},
		{"what nobody reads is not inexact", record("allowed_by_policy", "shop/reads", "GET", tenant), same, ""},
		{"wrong", record("no_matching_policy", "", "GET", nil), different, ""},
		{"no such header", record("evaluation_error", "shop/tenants", "PUT", nil), same, ""},
		{"a header of which the value is not recorded", record("no_matching_policy", "", "PUT", tenant), unknown, `shop/tenants: the condition reads request.headers["x-tenant"], and its value is not recorded`},
		{"a header of which the value is recorded", record("evaluation_error", "shop/writes", "PUT", func(d *decisionv1.Decision) {
			tenant(d)
			d.Request.Values = []*decisionv1.Value{{Field: `request.headers["x-tenant"]`, Value: "shop"}}
		}), same, ""},
		{"a header that was too long", record("no_matching_policy", "", "PUT", func(d *decisionv1.Decision) {
			tenant(d)
			d.Request.Values = []*decisionv1.Value{{Field: `request.headers["x-tenant"]`, Value: strings.Repeat("x", 256)}}
		}), unknown, `shop/tenants: the condition reads request.headers["x-tenant"], and its value is not recorded`},
		{"a query of which the value is recorded", record("allowed_by_policy", "shop/writes", "PUT", func(d *decisionv1.Decision) {
			tenant(d)
			d.Request.QueryNames = []string{"dry", "other"}
			d.Request.Values = []*decisionv1.Value{{Field: `request.headers["x-tenant"]`, Value: "shop"}, {Field: `request.params["dry"]`, Value: "1"}}
		}), same, ""},
		{"a query with another parameter alone", record("evaluation_error", "shop/writes", "PUT", func(d *decisionv1.Decision) {
			tenant(d)
			d.Request.QueryNames = []string{"other"}
			d.Request.Values = []*decisionv1.Value{{Field: `request.headers["x-tenant"]`, Value: "shop"}}
		}), same, ""},
		{"a query", record("allowed_by_policy", "shop/writes", "PUT", func(d *decisionv1.Decision) {
			d.Request.QueryNames = []string{"dry"}
		}), unknown, `shop/writes: the condition reads request.params["dry"], and its value is not recorded`},
		{"claims", record("no_matching_policy", "", "PUT", func(d *decisionv1.Decision) {
			d.Principal.ClaimsOmitted = true
		}), unknown, `shop/writes: the condition reads principal.claims["level"], and they are not recorded`},
		{"a pseudonym", record("allowed_by_policy", "shop/reads", "GET", func(d *decisionv1.Decision) {
			d.Principal = &decisionv1.Principal{Kind: "user", Id: "~abc", Pseudonymised: true}
		}), unknown, "policies may name the principal"},
		{"beside", record("allowed_by_policy", "shop/reads", "GET", func(d *decisionv1.Decision) {
			d.Principal = &decisionv1.Principal{Kind: "workload", Id: "spiffe://prod/a", SpiffeId: "spiffe://prod/a"}
			d.Beside = []*decisionv1.Principal{user("bob")}
		}), same, ""},
		{"from somewhere", record("allowed_by_policy", "shop/here", "GET", func(d *decisionv1.Decision) {
			d.Principal, d.Signals = user("eve", "travellers"), &decisionv1.Signals{Geo: &decisionv1.Geo{Country: "DE"}}
		}), same, ""},
		{"from nobody asked where", record("allowed_by_policy", "shop/here", "GET", func(d *decisionv1.Decision) {
			d.Principal = user("eve", "travellers")
		}), unknown, `shop/here: the condition reads signals.geo["country"], and no policy that was asked wanted to know`},
		{"denied before", record("allowed_by_policy", "shop/calm", "GET", func(d *decisionv1.Decision) {
			d.Principal, d.Signals = user("eve", "guests"), denied(9, 99)
		}), same, ""},
		{"denied nobody asked how often", record("allowed_by_policy", "shop/calm", "GET", func(d *decisionv1.Decision) {
			d.Principal = user("eve", "guests")
		}), unknown, `shop/calm: the condition reads signals.denials["address"], and no policy that was asked wanted to know`},
		{"up to date", record("allowed_by_policy", "shop/up-to-date", "GET", func(d *decisionv1.Decision) {
			d.Principal, d.Signals = user("eve", "careful"), &decisionv1.Signals{SecurityAge: durationpb.New(59 * time.Second)}
		}), same, ""},
		{"not known to be up to date", record("allowed_by_policy", "shop/up-to-date", "GET", func(d *decisionv1.Decision) {
			d.Principal = user("eve", "careful")
		}), unknown, `shop/up-to-date: the condition reads signals.security_age, and it is not recorded`},
		{"on a device", record("allowed_by_policy", "shop/laptops", "GET", func(d *decisionv1.Decision) {
			d.Principal, d.Signals = user("eve", "ours"), &decisionv1.Signals{Device: laptop(true)}
		}), same, ""},
		{"on no device", record("evaluation_error", "shop/laptops", "GET", func(d *decisionv1.Decision) {
			d.Principal = user("eve", "ours")
		}), same, ""},
		{"on their own device", record("allowed_by_policy", "shop/own", "GET", func(d *decisionv1.Decision) {
			d.Principal, d.Signals = user("eve", "owners"), &decisionv1.Signals{Device: laptop(true)}
		}), same, ""},
		{"on a device with a pseudonym", record("allowed_by_policy", "shop/own", "GET", func(d *decisionv1.Decision) {
			d.Principal, d.Signals = user("eve", "owners"), &decisionv1.Signals{Device: &decisionv1.Device{Id: "~a", Owner: "~b", Pseudonymised: true}}
		}), unknown, `shop/own: the condition reads signals.device["owner"], and a pseudonym is recorded`},
		{"an escaped slash that is kept", record("allowed_by_policy", "shop/reads", "GET", func(d *decisionv1.Decision) {
			d.Route, d.Request.Path = "shop/files", "/files/a%2Fb"
		}), same, ""},
		{"an escaped slash", record("path_ambiguous_escape", "", "GET", func(d *decisionv1.Decision) {
			d.Route, d.Request.Path = "", "/orders/a%2Fb"
		}), same, ""},
		{"an escape that nobody keeps", record("path_ambiguous_escape", "", "", func(d *decisionv1.Decision) {
			d.Route, d.Request.Path, d.Status = "", "/orders/a%5Cb", 400
		}), notAsked, ""},
		{"nobody got to ask", record("token_expired", "", "GET", func(d *decisionv1.Decision) { d.Status = 401 }), notAsked, ""},
	} {
		note, ok := evaluate.Repeatable(c.record)
		asked := made
		if !ok {
			asked = nil
		}
		res := evaluate.Explain(asked, c.record, note)
		inexact := strings.Join(res.GetAnswer().GetInexact(), "\n")
		if res.GetAgreement() != c.want || !strings.HasPrefix(inexact, c.inexact) || c.inexact == "" && inexact != "" {
			t.Errorf("%s: %s, %q", c.name, res.GetAgreement(), inexact)
		}
		if (c.want == notAsked) != (res.GetNote() != "" && res.GetMeaning() != "") {
			t.Errorf("%s: note %q, meaning %q", c.name, res.GetNote(), res.GetMeaning())
		}
	}
}

func TestWhoCan(t *testing.T) {
	made := table(t)
	for _, m := range []*adminv1.WhoCanRequest{{Route: "shop/orders", Method: "GET"}, {Host: "api.example", Path: "/orders/7", Method: "GET"}} {
		res := evaluate.WhoCan(made, m)
		if len(res.GetAllows()) != 6 || strings.Join(res.GetAllows()[4].GetPrincipals(), "; ") != "group: shop; subject: bob, identityProvider: login" {
			t.Errorf("allowed are %v", res.GetAllows())
		}
		if len(res.GetDenies()) != 1 || !res.GetDenies()[0].GetShadow() {
			t.Errorf("denied are %v", res.GetDenies())
		}
	}
	puts := evaluate.WhoCan(made, &adminv1.WhoCanRequest{Host: "api.example", Path: "/orders/7", Method: "PUT"})
	if len(puts.GetDenies()) != 2 || puts.GetDenies()[0].GetWhen() != `request.headers["x-tenant"] != "shop"` {
		t.Errorf("denied are %v", puts.GetDenies())
	}
	for _, m := range []*adminv1.WhoCanRequest{{Route: "shop/x"}, {Route: "x"}, {Host: "x.example", Path: "/"}, {Host: "api.example", Path: "/orders/a%2Fb"}} {
		if res := evaluate.WhoCan(made, m); res != nil {
			t.Errorf("%v finds %v", m, res)
		}
	}
}

// Files of tests are refused at the line that is wrong.
func TestParseTests(t *testing.T) {
	const good = "tests:\n  - name: a\n    given: {request: {host: api.example}}\n    expect: {decision: deny}\n"
	tests, problems := evaluate.ParseTests("a_test.yaml", []byte("# why\n"+good))
	if problems.Total > 0 || len(tests) != 1 || tests[0].Line != 3 {
		t.Fatal(tests, problems.Kept)
	}
	for text, want := range map[string]string{
		"":                                       "1: tests: there are 0",
		"tests: [":                               "1: did not find",
		strings.Replace(good, "host", "hots", 1): `3: there is no field "hots"`,
		strings.Replace(good, "deny", "maybe", 1):                                              "2: expect.decision is allow or deny",
		strings.Replace(good, "api.example", "[a]", 1):                                         "3: a seq cannot stand here",
		strings.Replace(good, "request:", "signals: {ip: x}, request:", 1):                     "2: given.signals.ip.address",
		strings.Replace(good, "request:", "signals: {device: {compliant: true}}, request:", 1): "2: given.signals.device.id",
		strings.Replace(good, "request:", "signals: {denials: {address: -1}}, request:", 1):    "2: given.signals.denials",
		strings.Replace(good, "request:", "signals: {securityAge: -1s}, request:", 1):          "2: given.signals.security_age",
		strings.Replace(good, "{decision: deny}", "&a {decision: deny}", 1):                    "4: anchors",
		good + "---\n" + good:            "1: holds a second document",
		strings.Repeat("#", 1<<20) + "#": "1: is larger",
	} {
		_, problems := evaluate.ParseTests("a_test.yaml", []byte(text))
		if problems.Total == 0 {
			t.Errorf("%.100q is taken", text)
			continue
		}
		p := problems.Kept[0]
		if got := string(rune('0'+p.Line)) + ": " + p.Message; !strings.HasPrefix(got, want) {
			t.Errorf("%.100q: %s, not %s", text, got, want)
		}
	}
}

func FuzzParseTests(f *testing.F) {
	f.Add([]byte("environment: a\ntests:\n  - name: a\n    given: {principal: {kind: user, claims: {a: [1]}}, request: {host: api.example}}\n    expect: {decision: deny}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		tests, problems := evaluate.ParseTests("a_test.yaml", text)
		if problems.Total > 0 {
			return
		}
		for _, one := range tests {
			if res := one.Run(nil, now); res.GetAnswer() == nil || res.GetAnswer().GetAllow() {
				t.Errorf("%s: without resources the answer is %v", one.Name, res)
			}
		}
	})
}
