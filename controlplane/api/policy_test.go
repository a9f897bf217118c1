package api_test

import (
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/internal/identity"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
)

func (w *world) policies(t testing.TB, id identity.ID) adminv1connect.PolicyServiceClient {
	t.Helper()
	return adminv1connect.NewPolicyServiceClient(w.client(t, id), w.url)
}

const (
	deletes = `{apiVersion: sallyport/v1, kind: Policy, metadata: {namespace: shop, name: deletes}, spec: {routes: {all: true},
		effect: ALLOW, principals: [{spiffe: "spiffe://prod.example/ns/shop/**"}], methods: [DELETE]}}`
	elsewhere = `{apiVersion: sallyport/v1, kind: Policy, metadata: {namespace: shop, name: reads-orders}, spec: {environments: [gcp],
		routes: {all: true}, effect: ALLOW, principals: [{spiffe: "spiffe://prod.example/ns/shop/**"}], methods: [GET]}}`
)

func question(method string) *adminv1.Question {
	return &adminv1.Question{
		Environment: "aws", Method: method, Host: "shop.example", Path: "/v1/orders/7",
		Principal: &decisionv1.Principal{Kind: "workload", Id: "spiffe://prod.example/ns/shop/web"},
	}
}

// Questions are answered of the newest revision, of an older one, or of what an
// Apply would make of it, and change nothing.
func TestEvaluate(t *testing.T) {
	w := newWorld(t)
	w.apply(t, shop)
	w.apply(t, deletes)
	ask := w.policies(t, viewer)
	for _, c := range []struct {
		name   string
		req    *adminv1.EvaluateRequest
		reason string
	}{
		{"now", &adminv1.EvaluateRequest{Question: question("DELETE")}, "allowed_by_policy"},
		{"before", &adminv1.EvaluateRequest{Question: question("DELETE"), Revision: 1}, "no_matching_policy"},
		{"another method", &adminv1.EvaluateRequest{Question: question("PUT")}, "no_matching_policy"},
		{"if it were applied", &adminv1.EvaluateRequest{Question: question("PUT"), Candidates: resources(t, strings.Replace(deletes, "DELETE", "PUT", 1))}, "allowed_by_policy"},
		{"if it were taken away", &adminv1.EvaluateRequest{Question: question("GET"), Candidates: resources(t, elsewhere)}, "no_matching_policy"},
		{"and nothing was", &adminv1.EvaluateRequest{Question: question("GET")}, "allowed_by_policy"},
	} {
		res, err := ask.Evaluate(t.Context(), connect.NewRequest(c.req))
		if err != nil {
			t.Fatalf("%s: %s", c.name, explain(err))
		}
		if a := res.Msg.GetAnswer(); a.GetReason() != c.reason || a.GetAllow() != (c.reason == "allowed_by_policy") {
			t.Errorf("%s: %v", c.name, a)
		}
	}
	if p, err := w.store.Position(t.Context()); err != nil || p.Revision != 2 {
		t.Errorf("the fleet is at %v, %v", p, err)
	}
	if _, err := w.policies(t, proxy).Evaluate(t.Context(), connect.NewRequest(&adminv1.EvaluateRequest{Question: question("GET")})); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("a stranger is answered: %v", err)
	}
	robot := question("GET")
	robot.Principal.Kind = "robot"
	for _, c := range []struct {
		name string
		req  *adminv1.EvaluateRequest
		code connect.Code
	}{
		{"of no environment", &adminv1.EvaluateRequest{Question: &adminv1.Question{Environment: "x", Host: "shop.example"}}, connect.CodeNotFound},
		{"of a revision to come", &adminv1.EvaluateRequest{Question: question("GET"), Revision: 9}, connect.CodeNotFound},
		{"of what would be refused", &adminv1.EvaluateRequest{Question: question("GET"), Candidates: resources(t, strings.Replace(deletes, "DELETE", "delete", 1))}, connect.CodeInvalidArgument},
		{"of both", &adminv1.EvaluateRequest{Question: question("GET"), Revision: 1, Candidates: resources(t, deletes)}, connect.CodeInvalidArgument},
		{"of a robot", &adminv1.EvaluateRequest{Question: robot}, connect.CodeInvalidArgument},
		{"of nothing", &adminv1.EvaluateRequest{}, connect.CodeInvalidArgument},
	} {
		if _, err := ask.Evaluate(t.Context(), connect.NewRequest(c.req)); connect.CodeOf(err) != c.code {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestWhoCan(t *testing.T) {
	w := newWorld(t)
	w.apply(t, shop)
	ask := w.policies(t, viewer)
	res, err := ask.WhoCan(t.Context(), connect.NewRequest(&adminv1.WhoCanRequest{Environment: "aws", Route: "shop/orders", Method: "GET"}))
	if err != nil || len(res.Msg.GetAllows()) != 1 || res.Msg.GetAllows()[0].GetPrincipals()[0] != "spiffe: spiffe://prod.example/ns/shop/**" {
		t.Error(res, err)
	}
	for _, c := range []struct {
		req  *adminv1.WhoCanRequest
		code connect.Code
	}{
		{&adminv1.WhoCanRequest{Environment: "aws", Route: "shop/x"}, connect.CodeNotFound},
		{&adminv1.WhoCanRequest{Environment: "aws"}, connect.CodeInvalidArgument},
		{&adminv1.WhoCanRequest{Environment: "aws", Route: "shop/orders", Host: "shop.example"}, connect.CodeInvalidArgument},
	} {
		if _, err := ask.WhoCan(t.Context(), connect.NewRequest(c.req)); connect.CodeOf(err) != c.code {
			t.Errorf("%v: %v", c.req, err)
		}
	}
}

func TestRunTests(t *testing.T) {
	w := newWorld(t)
	w.apply(t, shop)
	const file = `
tests:
  - name: reads
    given: {principal: {kind: workload, id: "spiffe://prod.example/ns/shop/web"}, request: {host: shop.example, path: /v1/orders/7}}
    expect: {decision: allow, policy: shop/reads-orders}
  - name: deletes
    given: {principal: {kind: workload, id: "spiffe://prod.example/ns/shop/web"}, request: {method: DELETE, host: shop.example, path: /v1/orders/7}}
    expect: {decision: allow}
`
	run := func(environment, text string, candidates ...*adminv1.Resource) ([]*adminv1.TestResult, error) {
		res, err := w.policies(t, viewer).RunTests(t.Context(), connect.NewRequest(&adminv1.RunTestsRequest{
			Files: []*adminv1.TestFile{{Name: "a_test.yaml", Text: []byte(text)}}, Environment: environment, Candidates: candidates,
		}))
		if err != nil {
			return nil, err
		}
		return res.Msg.GetResults(), nil
	}
	got, err := run("aws", file)
	if err != nil || len(got) != 2 || !got[0].GetOk() || got[1].GetOk() || got[1].GetFailures()[0] != "decision is deny, expected allow" || got[1].GetLine() != 6 {
		t.Error(got, err)
	}
	if got, err = run("aws", file, resources(t, deletes)...); err != nil || !got[0].GetOk() || !got[1].GetOk() {
		t.Error(got, err)
	}
	if _, err := run("", file); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("without an environment: %v", err)
	}
	if _, err := run("aws", "tests: 1"); connect.CodeOf(err) != connect.CodeInvalidArgument || problems(err).GetProblems()[0].GetLine() != 1 {
		t.Errorf("a file that is none: %v", err)
	}
}
