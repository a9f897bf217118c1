package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
)

// What policies and a revocation add to those that a fleet begins with, so that
// every stage of a decision has something to deny.
const stages = `apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: order-13-is-closed}
spec: {routes: {names: [orders]}, effect: DENY, paths: [/v1/orders/13]}
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: only-our-tenant}
spec: {routes: {names: [orders]}, effect: DENY, methods: [PUT], when: 'request.headers["x-tenant"] != "shop"'}
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: shop-patches}
spec: {routes: {names: [orders]}, effect: ALLOW, principals: [{group: shop}], methods: [PATCH], when: 'signals.tls.version == "1.2" && "ops" in principal.groups'}
---
apiVersion: sallyport/v1
kind: Upstream
metadata: {namespace: shop, name: nobody}
spec: {endpoints: ["127.0.0.1:9"], plaintext: {}}
---
apiVersion: sallyport/v1
kind: IdentityProvider
metadata: {namespace: shop, name: silent}
spec: {issuer: "https://127.0.0.1:9", jwksUrl: "https://127.0.0.1:9/keys", allowPrivateAddresses: true, audiences: [orders]}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: reports}
spec: {hosts: [localhost, 127.0.0.1], paths: [/v1/reports], methods: [GET], upstream: nobody, authentication: {identityProviders: [demo-tokens, silent]}}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: exports}
spec: {hosts: [localhost, 127.0.0.1], paths: [/v1/exports], upstream: inventory, authentication: {identityProviders: [demo-tokens]}}
---
apiVersion: sallyport/v1
kind: RateLimit
metadata: {namespace: shop, name: few-exports}
spec: {routes: {names: [exports]}, key: [{principal: true}], requests: 1, period: 1h, cost: '2'}
---
apiVersion: sallyport/v1
kind: Schema
metadata: {namespace: shop, name: catalogue}
spec:
  openapi: |
    openapi: 3.1.0
    info: {title: Catalogue, version: "1"}
    paths:
      /v1/catalogue:
        get:
          parameters: [{name: page, in: query, required: true, schema: {type: integer}}]
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: catalogue}
spec: {hosts: [localhost, 127.0.0.1], paths: [/v1/catalogue], upstream: inventory, authentication: {identityProviders: [demo-tokens]}, validation: {schema: catalogue}}
`

const carolLeft = `apiVersion: sallyport/v1
kind: Revocation
metadata: {name: carol-left}
spec: {subject: {issuer: %q, id: carol}, reason: has left the company}
`

// stage is a request that is denied, or not, and what is to be read of it.
type stage struct {
	name         string
	method, path string
	token        *fleet.TokenRequest
	certificate  bool
	status       int
	reads        []string
}

func tokenOf(subject, group, audience string, ends time.Duration) *fleet.TokenRequest {
	return &fleet.TokenRequest{Subject: subject, Groups: []string{group}, Audience: audience, ExpiresIn: ends}
}

var (
	alice      = tokenOf("alice", "shop", "orders", time.Minute)
	everyStage = []stage{
		{"malformed", "GET", "/v1/orders/..%2fadmin", alice, false, 400,
			[]string{"DENIED with 400 Bad Request: path_ambiguous_escape", "well-formed", "not asked again"}},
		{"no route", "GET", "/v2/orders", alice, false, 404,
			[]string{"DENIED with 404 Not Found: no_route", "No Route has this host and path", "the same answer"}},
		{"method", "POST", "/v1/reports", alice, false, 405,
			[]string{"DENIED with 405 Method Not Allowed: method_not_allowed", "with other methods", "the same answer"}},
		{"no credential", "GET", "/v1/orders/7", nil, false, 401,
			[]string{"401 Unauthorized: credentials_missing", "no credential of a kind", "shop/orders", "not asked again"}},
		{"audience", "GET", "/v1/orders/7", tokenOf("alice", "shop", "payments", time.Minute), false, 401,
			[]string{"401 Unauthorized: token_wrong_audience", "It was not established who asks"}},
		{"expired", "GET", "/v1/orders/7", tokenOf("alice", "shop", "orders", -10*time.Minute), false, 401,
			[]string{"401 Unauthorized: token_expired", "It was not established who asks"}},
		{"revoked", "GET", "/v1/orders/7", tokenOf("carol", "shop", "orders", time.Minute), false, 401,
			[]string{"401 Unauthorized: revoked", "user carol", "cut off by the Revocation"}},
		{"limit", "GET", "/v1/exports", alice, false, 429,
			[]string{"429 Too Many Requests: rate_limited", "user alice", "RateLimit/shop/few-exports", "was used up", "no policy was asked"}},
		{"schema", "GET", "/v1/catalogue?page=first", alice, false, 400,
			[]string{"400 Bad Request: parameters_invalid", "user alice", "rule       shop/shop-reads", "/query/page is string, not integer", "let the request through", "as the Schema"}},
		{"no policy", "GET", "/v1/orders/7", tokenOf("mallory", "visitors", "orders", time.Minute), false, 403,
			[]string{"403 Forbidden: no_matching_policy", "user mallory", "groups visitors", "group: shop was false",
				"- shop/shop-reads: group: shop comes to true", "the same answer"}},
		{"method of a policy", "DELETE", "/v1/orders/7", alice, false, 403,
			[]string{"403 Forbidden: no_matching_policy", "ALLOW shop/shop-reads is for another method", "methods: GET comes to true", "the same answer"}},
		{"condition", "PATCH", "/v1/orders/7", alice, false, 403,
			[]string{"no_matching_policy", "has a condition that did not hold", `signals.tls.version == "1.2" (line 1, column 1) was false`,
				`"ops" in principal.groups (line 1, column 33) was false`, "the same answer"}},
		{"by a DENY", "GET", "/v1/orders/13", alice, false, 403,
			[]string{"denied_by_policy", "rule       shop/order-13-is-closed", "DENY  shop/order-13-is-closed matched",
				"shop/order-13-is-closed: paths: /v1/orders/13 comes to false", "the same answer"}},
		{"without a value", "PUT", "/v1/orders/7", alice, false, 403,
			[]string{"evaluation_error", "rule       shop/only-our-tenant", "has a condition without a value", "had no value", "the same answer"}},
		{"allowed", "GET", "/v1/orders/7", alice, false, 200,
			[]string{"ALLOWED: allowed_by_policy", "user alice", "known from direct", "TLS 1.3", "rule       shop/shop-reads", "the same answer"}},
		{"allowed workload", "GET", "/v1/orders/8", nil, true, 200,
			[]string{"ALLOWED", "workload spiffe://demo.example/ns/shop/billing", "rule       shop/billing-reads-orders", "the same answer"}},
	}
)

// explain runs the command.
func explain(t *testing.T, f *fleet.Fleet, id string, more ...string) string {
	t.Helper()
	cmd := exec.CommandContext(within(t, 30*time.Second), filepath.Join(bin, "sallyport"), append([]string{"explain", id}, more...)...)
	cmd.Env = operator(f)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("explain %s: %v\n%s", id, err, out)
	}
	return string(out)
}

// operator is what the command needs to call the control plane.
func operator(f *fleet.Fleet) []string {
	return append(os.Environ(), "SALLYPORT_SERVER="+f.Described.ControlPlane, "SALLYPORT_CA_FILE="+f.Described.CAFile,
		"SALLYPORT_WORKLOAD_SOCKET="+f.Described.WorkloadSocket)
}

func (s *stage) send(ctx context.Context, f *fleet.Fleet, m *fleet.Member) (id string, err error) {
	req := fleet.Request{Method: s.method, Path: s.path, Certificate: s.certificate}
	if s.token != nil {
		if req.Token, err = f.Sign(*s.token); err != nil {
			return "", err
		}
	}
	answer, err := f.Send(ctx, m, req)
	if err != nil {
		return "", err
	}
	if answer.Status != s.status {
		return "", fmt.Errorf("answered %d, not %d: %s", answer.Status, s.status, answer.Body)
	}
	id = answer.Header.Get("Sallyport-Decision-Id")
	var body struct {
		DecisionID string `json:"decision_id"`
	}
	if s.status != http.StatusOK {
		if err := json.Unmarshal(answer.Body, &body); err != nil || body.DecisionID != id {
			return "", fmt.Errorf("the body names the decision %q, the header %q", body.DecisionID, id)
		}
	}
	return id, nil
}

// Whatever denies a request, whoever has the ID of the decision can read why, two
// seconds after it at the latest.
func TestExplain(t *testing.T) {
	f := start(t)
	revision, err := f.Admin.Apply(within(t, time.Minute), stages, "something for every stage")
	if err == nil {
		err = f.Admin.Enforced(within(t, time.Minute), revision, f.Environments()...)
	}
	if err != nil {
		t.Fatal(err)
	}
	sequence, err := f.Admin.Revoke(within(t, time.Minute), fmt.Sprintf(carolLeft, f.Described.TokenIssuer), "")
	if err == nil {
		err = f.Admin.Revoked(within(t, time.Minute), sequence, f.Environments()...)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range everyStage {
		t.Run(s.name, func(t *testing.T) {
			id, err := s.send(within(t, 10*time.Second), f, f.Members[0])
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			s.check(t, explain(t, f, id))
			if took := time.Since(began); took > 2*busy*time.Second && !raceEnabled {
				t.Errorf("explained after %s", took)
			}
		})
	}
}

func (s *stage) check(t *testing.T, text string) {
	t.Helper()
	for _, want := range s.reads {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	if t.Failed() || testing.Verbose() {
		t.Log("\n" + text)
	}
}

const strict = `apiVersion: sallyport/v1
kind: Environment
metadata: {name: %s}
spec: {configurationAge: {limit: 30s, action: DENY}}
`

// What a proxy denies that has lost the control plane is explained once that is
// back.
func TestExplainOfStaleness(t *testing.T) {
	f := start(t)
	m := f.Members[1]
	revision, err := f.Admin.Apply(within(t, time.Minute), fmt.Sprintf(strict, m.Environment), "")
	if err == nil {
		err = f.Admin.Enforced(within(t, time.Minute), revision, m.Environment)
	}
	if err == nil {
		err = f.ControlPlane.Kill()
	}
	if err != nil {
		t.Fatal(err)
	}
	stale := stage{method: "GET", path: "/v1/orders/7", token: tokenOf("alice", "shop", "orders", 5*time.Minute), status: 503,
		reads: []string{"DENIED with 503 Service Unavailable: configuration_stale", "could not tell whether what it knows is still so", "not asked again"}}
	var id string
	eventually(t, time.Minute, func(ctx context.Context) (bool, string) {
		var err error
		id, err = stale.send(ctx, f, m)
		return err == nil, fmt.Sprint(err)
	})
	if err := f.ControlPlane.Start(); err != nil {
		t.Fatal(err)
	}
	if err := f.ControlPlaneReady(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	stale.check(t, explain(t, f, id, "--wait", "20s"))
}

// The commands of docs/debugging.md lead from a denial to what would mend it.
func TestDebugging(t *testing.T) {
	f := start(t)
	denied := stage{method: "GET", path: "/v1/orders/7", token: tokenOf("mallory", "visitors", "orders", time.Minute), status: 403}
	id, err := denied.send(within(t, 10*time.Second), f, f.Members[0])
	if err != nil {
		t.Fatal(err)
	}
	explain(t, f, id) // waits for the record
	text, err := os.ReadFile("../../docs/debugging.md")
	if err != nil {
		t.Fatal(err)
	}
	guide, _, _ := strings.Cut(string(text), "\n## ")
	_, fix, _ := strings.Cut(guide, "```yaml\n")
	fix, _, _ = strings.Cut(fix, "```")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "fix.yaml"), []byte(fix), 0o600); err != nil {
		t.Fatal(err)
	}
	commands := strings.Split(guide, "```sh\n")[1:]
	wants := [][]string{
		{id, "mallory", "no_matching_policy"},
		{"DENIED with 403", "group: shop was false", "what would have changed it", "the same answer"},
		{"shop/orders, at revision 1", "group: shop, by shop/shop-reads", "methods: GET"},
		{"name: shop-reads", "group: shop"},
		{"ALLOWED: allowed_by_policy", "rule       shop/visitors-read"},
	}
	if len(commands) != len(wants) {
		t.Fatalf("there are %d commands, not %d", len(commands), len(wants))
	}
	for i, block := range commands {
		command, _, _ := strings.Cut(block, "```")
		cmd := exec.CommandContext(within(t, 30*time.Second), "bash", "-c", command)
		cmd.Dir = dir
		cmd.Env = append(operator(f), "DECISION="+id, "PATH="+bin+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", command, err, out)
		}
		for _, want := range wants[i] {
			if !strings.Contains(string(out), want) {
				t.Errorf("%s does not say %q:\n%s", command, want, out)
			}
		}
	}
}
