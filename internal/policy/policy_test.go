package policy_test

import (
	"crypto/sha256"
	"net/netip"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/policy"
)

// orders is the route of every test that needs but one.
var orders = policy.RouteID{Namespace: "shop", Name: "orders"}

// A part is one line of a policy in a test.
type part func(*policy.Spec)

func group(name string) part { return matcher(policy.PrincipalMatcher{Group: name}) }

func spiffe(text string) part { return matcher(policy.PrincipalMatcher{SPIFFE: text}) }

func authenticated() part { return matcher(policy.PrincipalMatcher{Authenticated: true}) }

func anonymous() part { return matcher(policy.PrincipalMatcher{Anonymous: true}) }

func matcher(m policy.PrincipalMatcher) part {
	return func(s *policy.Spec) { s.Principals = append(s.Principals, m) }
}

func methods(mm ...string) part { return func(s *policy.Spec) { s.Methods = mm } }

func paths(pp ...string) part { return func(s *policy.Spec) { s.Paths = pp } }

func when(text string) part { return func(s *policy.Spec) { s.When = text } }

func shadow() part { return func(s *policy.Spec) { s.Shadow = true } }

func spec(effect policy.Effect, name string, parts ...part) policy.Spec {
	s := policy.Spec{Namespace: "shop", Name: name, Effect: effect, Digest: sha256.Sum256([]byte(name)), Source: "document " + name}
	for _, p := range parts {
		p(&s)
	}
	return s
}

func compile(t testing.TB, s policy.Spec) *policy.Policy {
	t.Helper()
	p, err := policy.Compile(s)
	if err != nil {
		t.Fatalf("compile %s/%s: %v", s.Namespace, s.Name, err)
	}
	return p
}

func allow(t testing.TB, name string, parts ...part) *policy.Policy {
	t.Helper()
	return compile(t, spec(policy.Allow, name, parts...))
}

func deny(t testing.TB, name string, parts ...part) *policy.Policy {
	t.Helper()
	return compile(t, spec(policy.Deny, name, parts...))
}

// onOrders is a Set with these policies on the one route.
func onOrders(pp ...*policy.Policy) *policy.Set {
	return policy.NewSet([]policy.Binding{{Route: orders, Policies: pp}})
}

func user(id string, groups ...string) *policy.Principal {
	return &policy.Principal{
		Kind: policy.User, ID: id, Issuer: "https://login.example", Groups: groups,
		Provider: "shop/login", AuthenticatedBy: "jwt",
	}
}

func workload(id string) *policy.Principal {
	return &policy.Principal{Kind: policy.Workload, ID: id, SPIFFEID: id, AuthenticatedBy: "x509-svid"}
}

// request is a plain request for the one route.
func request(who *policy.Principal, method, path string) *policy.Input {
	return &policy.Input{
		Principal:   who,
		Method:      method,
		Host:        "api.example",
		Path:        path,
		Query:       "page=2",
		Header:      map[string][]string{"X-Tenant": {"blue", "green"}, "Authorization": {"Bearer s3cret"}},
		Route:       orders,
		RouteLabels: map[string]string{"app": "orders"},
		ClientIP:    netip.MustParseAddr("10.1.2.3"),
		Now:         time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC),
		TLSVersion:  "1.3",
		ServerName:  "api.example",
		ALPN:        "h2",
	}
}
