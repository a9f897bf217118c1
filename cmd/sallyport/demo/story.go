package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
)

// request is one request of the story, with the answer that is told.
type request struct {
	about  string
	method string
	path   string
	token  *fleet.TokenRequest
	// certificate sends the billing workload's X.509-SVID.
	certificate bool

	status int
	reason string // of the problem document, when denied
}

func get(about, path string, status int, reason string) request {
	return request{about: about, method: http.MethodGet, path: path, status: status, reason: reason}
}

func (r request) with(t fleet.TokenRequest) request { r.token = &t; return r }
func (r request) as(method string) request          { r.method = method; return r }
func (r request) withCertificate() request          { r.certificate = true; return r }
func alice(audience string) fleet.TokenRequest      { return aliceFor(audience, time.Minute) }
func aliceFor(a string, d time.Duration) fleet.TokenRequest {
	return fleet.TokenRequest{Subject: "alice", Groups: []string{"shop"}, Audience: a, ExpiresIn: d}
}

var carol = fleet.TokenRequest{Subject: "carol", Groups: []string{"shop"}, Audience: "orders", ExpiresIn: time.Minute}

var mallory = fleet.TokenRequest{Subject: "mallory", Groups: []string{"visitors"}, Audience: "orders", ExpiresIn: time.Minute}

// first is how the demo begins.
var first = []request{
	get("alice, of group shop, reads an order", "/v1/orders/7", 200, "").with(alice("orders")),
	get("and reads the inventory", "/v1/inventory/cups", 200, "").with(alice("orders")),
	get("the billing workload reads by its SPIFFE certificate", "/v1/orders/7", 200, "").withCertificate(),
	get("without a token", "/v1/orders/7", 401, "credentials_missing"),
	get("with a token for another audience", "/v1/orders/7", 401, "token_wrong_audience").with(alice("payments")),
	get("with a token that has expired", "/v1/orders/7", 401, "token_expired").with(aliceFor("orders", -10*time.Minute)),
	get("mallory, of another group", "/v1/orders/7", 403, "no_matching_policy").with(mallory),
	get("alice may not write yet", "/v1/orders/7", 403, "no_matching_policy").with(alice("orders")).as(http.MethodPost),
	get("the path trick /v1/orders/..%2fadmin", "/v1/orders/..%2fadmin", 400, "path_ambiguous_escape").with(alice("orders")),
	get("a path without a route", "/v2/orders/7", 404, "no_route").with(alice("orders")),
}

// story is a fleet that is told about.
type story struct{ *fleet.Fleet }

// tell tells how one policy is in force in two clouds, changes, cuts somebody
// off, and stays in force when the control plane is gone.
func (s *story) tell(ctx context.Context, t *teller) error {
	for _, chapter := range []func(context.Context, *teller) error{
		s.tellFirst, s.tellChange, s.tellRevocation, s.tellAlone, s.tellReturn,
	} {
		if err := chapter(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) tellFirst(ctx context.Context, t *teller) error {
	t.title("One policy, in two clouds: the same requests, the same answers")
	return s.everywhere(ctx, t, first...)
}

func (s *story) tellChange(ctx context.Context, t *teller) error {
	t.title("A change: group shop may now write orders, over TLS 1.3")
	if err := s.proven(ctx, t, "policy shop-writes-orders", writePolicy, "shop may write orders"); err != nil {
		return err
	}
	return s.everywhere(ctx, t, get("alice writes an order", "/v1/orders/7", 200, "").with(alice("orders")).as(http.MethodPost))
}

func (s *story) tellRevocation(ctx context.Context, t *teller) error {
	t.title("Carol leaves: her tokens are good for another minute, and of no use at once")
	if err := s.everywhere(ctx, t, get("carol, of group shop, reads an order", "/v1/orders/7", 200, "").with(carol)); err != nil {
		return err
	}
	began := time.Now()
	sequence, err := s.Admin.Revoke(ctx, fmt.Sprintf(revocation, s.Described.TokenIssuer), "carol has left")
	if err != nil {
		return fmt.Errorf("revoke carol: %w", err)
	}
	if err := s.Admin.Revoked(ctx, sequence, s.Environments()...); err != nil {
		return err
	}
	t.ok("revocation carol-left: proven to be enforced by both proxies, and to survive them, after %s", round(time.Since(began)))
	return s.everywhere(ctx, t,
		get("carol is cut off", "/v1/orders/7", 401, "revoked").with(carol),
		get("alice is not", "/v1/orders/7", 200, "").with(alice("orders")),
	)
}

func (s *story) tellAlone(ctx context.Context, t *teller) error {
	t.title("The control plane is killed; the proxy of GCP is restarted meanwhile")
	if err := s.ControlPlane.Kill(); err != nil {
		return err
	}
	t.ok("control plane killed (SIGKILL)")
	gcp := s.Members[1]
	if err := gcp.Kill(); err != nil {
		return err
	}
	if err := gcp.Start(); err != nil {
		return err
	}
	if err := s.MemberReady(ctx, gcp); err != nil {
		return err
	}
	t.ok("%s killed and started: it serves from its last good snapshot", gcp.Name)
	return s.everywhere(ctx, t,
		get("alice still reads", "/v1/orders/7", 200, "").with(alice("orders")),
		get("and is still told no", "/v1/orders/7", 403, "no_matching_policy").with(alice("orders")).as(http.MethodDelete),
		get("and carol is still cut off", "/v1/orders/7", 401, "revoked").with(carol),
	)
}

func (s *story) tellReturn(ctx context.Context, t *teller) error {
	t.title("The control plane is back")
	if err := s.ControlPlane.Start(); err != nil {
		return err
	}
	if err := s.ControlPlaneReady(ctx); err != nil {
		return err
	}
	if err := s.Connected(ctx); err != nil {
		return err
	}
	t.ok("both proxies are connected again")
	if err := s.proven(ctx, t, "policy order-13-is-closed", lateDenial, "order 13 is closed"); err != nil {
		return err
	}
	return s.everywhere(ctx, t,
		get("alice reads another order", "/v1/orders/12", 200, "").with(alice("orders")),
		get("and is denied order 13, though she may read orders", "/v1/orders/13", 403, "denied_by_policy").with(alice("orders")),
	)
}

// proven applies a change and waits for the proof.
func (s *story) proven(ctx context.Context, t *teller, what, text, message string) error {
	began := time.Now()
	revision, err := s.Admin.Apply(ctx, text, message)
	if err != nil {
		return fmt.Errorf("apply %s: %w", what, err)
	}
	committed := time.Since(began)
	if err := s.Admin.Enforced(ctx, revision, s.Environments()...); err != nil {
		return err
	}
	t.ok("%s is revision %d: committed in %s, proven to be enforced by both proxies after %s",
		what, revision, round(committed), round(time.Since(began)))
	return nil
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }

// everywhere sends each request to each proxy. Any answer but the one that was
// told is an error.
func (s *story) everywhere(ctx context.Context, t *teller, requests ...request) error {
	for _, r := range requests {
		var took []string
		for _, p := range s.Members {
			d, err := s.send(ctx, p, r)
			if err != nil {
				return fmt.Errorf("%s, at %s: %w", r.about, p.Name, err)
			}
			took = append(took, fmt.Sprintf("%s %s", p.Environment, round(d)))
		}
		answer := fmt.Sprintf("%d", r.status)
		if r.reason != "" {
			answer += " " + r.reason
		}
		t.ok("%-55s %-26s %s", r.about, answer, strings.Join(took, ", "))
	}
	return nil
}

// problem is what is read of a denial (RFC 9457).
type problem struct {
	Status     int    `json:"status"`
	Reason     string `json:"reason"`
	DecisionID string `json:"decision_id"`
}

// send sends a request on a connection of its own and checks the answer.
func (s *story) send(ctx context.Context, m *fleet.Member, r request) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req := fleet.Request{Method: r.method, Path: r.path, Certificate: r.certificate}
	if r.token != nil {
		var err error
		if req.Token, err = s.Sign(*r.token); err != nil {
			return 0, err
		}
	}
	began := time.Now()
	answer, err := s.Send(ctx, m, req)
	if err != nil {
		return 0, err
	}
	return time.Since(began), r.check(answer)
}

func (r request) check(a fleet.Answer) error {
	if a.Status != r.status {
		return fmt.Errorf("answered %d, not %d: %s", a.Status, r.status, bytes.TrimSpace(a.Body))
	}
	if r.reason == "" {
		return nil
	}
	var p problem
	if err := json.Unmarshal(a.Body, &p); err != nil {
		return fmt.Errorf("a denial that is no problem document: %s", a.Body)
	}
	if p.Reason != r.reason || p.Status != r.status || p.DecisionID == "" {
		return fmt.Errorf("denied with %s, not for the reason %s", bytes.TrimSpace(a.Body), r.reason)
	}
	return nil
}

// introduce says what was started.
func (s *story) introduce(t *teller, took time.Duration) {
	t.line("  Postgres, etcd, SPIFFE issuer, control plane, 2 proxies and 2 APIs run; ready after %s.", took.Round(10*time.Millisecond))
	for _, p := range s.Members {
		t.line("  %-6s %-10s %s", p.Name, p.Environment, p.URL)
	}
}

// invite says how to go on.
func (s *story) invite(t *teller) {
	t.title("It stays up. Try it, in another terminal:")
	t.line("  export SALLYPORT_SERVER=%s SALLYPORT_CA_FILE=%s SALLYPORT_WORKLOAD_SOCKET=%s",
		s.Described.ControlPlane, s.Described.CAFile, s.Described.WorkloadSocket)
	t.line("  sallyport fleet")
	t.line("  sallyport get policies -o yaml")
	t.line("  TOKEN=$(sallyport demo token --dir %s --subject alice --group shop --audience orders)", s.Path(""))
	t.line("  curl --cacert %s -H \"Authorization: Bearer $TOKEN\" %s/v1/orders/7", s.Described.CAFile, s.Members[0].URL)
	t.line("\n  What was applied is in %s, what was decided in %s.", s.Path("resources"), s.Path("aws-1-records.jsonl"))
	t.line("  Ctrl-C ends everything.")
}
