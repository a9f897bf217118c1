package gateway_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc/codes"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/internal/apikey"
)

// again waits until all that is open has been decided on again.
func (w *world) again() {
	w.t.Helper()
	number := func(series string) int {
		n, err := strconv.Atoi(w.metric(series))
		w.must(err)
		return n
	}
	const decisions = "sallyport_stream_decisions_total"
	const open = "sallyport_requests_in_flight"
	enough := number(decisions) + number(open) + 1 // that has begun before
	until(w.t, "all is decided on again", func() bool { return number(decisions) >= enough || number(open) == 0 })
}

// closing is what a client is told by whom it is closed, and why.
var closing = regexp.MustCompile(`^([a-z_]+)(?:: The call was cut off)? \(decision ([0-9a-f-]{36})\)$`)

// closedBy checks what is recorded of a stream that was closed, and returns the
// decision that did it.
func (w *world) closedBy(first, told, reason string) line {
	w.t.Helper()
	m := closing.FindStringSubmatch(told)
	if m == nil || m[1] != reason {
		w.t.Errorf("told was %q, want %s", told, reason)
		return line{}
	}
	d, o := w.records.of(w.t, "decision", m[2]), w.records.of(w.t, "outcome", first)
	if d.Allow || d.Closes != first || d.Reason != reason || d.Path == "" || d.Principal == nil || o.Reason != reason {
		w.t.Errorf("recorded was %+v, and of the end %+v", d, o)
	}
	return d
}

// hears is how a WebSocket ends.
func (w *world) hears(conn *websocket.Conn) (websocket.StatusCode, string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	_, _, err := conn.Read(ctx)
	var ce websocket.CloseError
	if !errors.As(err, &ce) {
		w.t.Errorf("it ended with %v", err)
	}
	return ce.Code, ce.Reason
}

const banned = `
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: banned}
spec: {routes: {names: [orders]}, effect: DENY, principals: [{subject: mallory}]}
`

// Of a thousand WebSockets a change of policy closes those that it denies, soon,
// and no other; a change that denies nobody closes none.
func TestPolicyClosesItsLosers(t *testing.T) {
	const all, tenth = 1000, 100
	w := newWorld(t, options{})
	up := newEcho(t)
	up.answerWith(echoes)
	spec := w.sockets(plaintext(up.address()))
	w.apply(spec)
	c := w.client(false, w.tls(host))
	conns, ids := make([]*websocket.Conn, all), make([]string, all)
	var opening sync.WaitGroup
	for worker := range 20 {
		opening.Go(func() {
			for i := worker; i < all; i += 20 {
				var res *http.Response
				conns[i], res = w.open(c, map[bool]string{true: "mallory", false: "alice"}[i%10 == 0])
				ids[i] = res.Header.Get("Sallyport-Decision-Id")
			}
		})
	}
	opening.Wait()
	w.apply(spec + strings.Replace(banned, "mallory", "nobody", 1))
	w.again()
	if n := w.metric(`sallyport_streams_closed_total{reason="denied_by_policy"}`); n != "" {
		t.Fatalf("%s were closed by what is no change to them", n)
	}
	began := time.Now()
	w.apply(spec + banned)
	for i := 0; i < all; i += 10 {
		code, reason := w.hears(conns[i])
		if d := w.closedBy(ids[i], reason, "denied_by_policy"); code != websocket.StatusPolicyViolation || d.Policy != "shop/banned" || d.Revision != 3 || d.Route != "shop/orders" {
			t.Errorf("%d: closed with %d, recorded was %+v", i, code, d)
		}
	}
	took := time.Since(began)
	if took > 20*time.Second { // 2 s would do where nothing else runs
		t.Errorf("it took %s", took)
	}
	w.again()
	for i, conn := range conns {
		if i%10 != 0 {
			if err := say(t.Context(), conn, "after"); err != nil {
				t.Errorf("%d, which goes on: %v", i, err)
			}
		}
	}
	if n := w.metric(`sallyport_streams_closed_total{reason="denied_by_policy"}`); n != strconv.Itoa(tenth) {
		t.Errorf("%q were closed", n)
	}
	fmt.Printf("figure policy_closes_100_of_1000_websockets %.0f ms\n", float64(took.Milliseconds()))
}

// What an open stream was let through by may end without any change. Whoever came
// then would be denied for the same reason.
func TestWhatEndsWhileOpen(t *testing.T) {
	const window = "when: 'signals.time < timestamp(\"%s\")'"
	at := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339) }
	environment := "\n---\n{apiVersion: sallyport/v1, kind: Environment, metadata: {name: aws}, spec: {%s: {limit: 60s, action: DENY}}}\n"
	for _, c := range []struct {
		name           string
		change         func(string) string // of the resources
		before, passes func(*world)
		reason         string
		code           websocket.StatusCode
	}{
		{
			name: "the token", reason: "token_expired", code: websocket.StatusPolicyViolation,
			before: func(w *world) { w.ahead = 5*time.Minute + 25*time.Second }, // within the leeway
			passes: func(w *world) { w.ahead = 5*time.Minute + 31*time.Second },
		},
		{
			name: "the time of a policy", reason: "no_matching_policy", code: websocket.StatusPolicyViolation,
			change: func(spec string) string {
				return strings.Replace(spec, "methods: [GET, POST]", fmt.Sprintf(window, at(2*time.Minute)), 1)
			},
			before: func(w *world) { w.ahead = 110 * time.Second },
			passes: func(w *world) { w.ahead = 121 * time.Second },
		},
		{
			name: "the age of the sign-in", reason: "step_up_required", code: websocket.StatusPolicyViolation,
			change: func(spec string) string {
				return strings.Replace(spec, "clientCertificates: true}", "stepUp: {maxAge: 120s}}", 1)
			},
			before: func(w *world) { w.ahead = 110 * time.Second },
			passes: func(w *world) { w.ahead = 121 * time.Second },
		},
		{
			name: "the age of the configuration", reason: "configuration_stale", code: websocket.StatusGoingAway,
			change: func(spec string) string { return spec + fmt.Sprintf(environment, "configurationAge") },
			before: func(w *world) { w.age = time.Minute },
			passes: func(w *world) { w.age = time.Minute + 1 },
		},
		{
			name: "the age of revocations", reason: "security_stale", code: websocket.StatusGoingAway,
			change: func(spec string) string { return spec + fmt.Sprintf(environment, "securityAge") },
			before: func(w *world) { w.since = time.Minute },
			passes: func(w *world) { w.known = false },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // most of it is waiting
			w := newWorld(t, options{})
			up := newEcho(t)
			up.answerWith(echoes)
			spec := w.sockets(plaintext(up.address()))
			if c.change != nil {
				spec = c.change(spec)
			}
			w.apply(spec)
			conn, res := w.openWith(w.client(false, w.tls(host)), map[string]any{"auth_time": time.Now().Unix()})
			w.set(func() { c.before(w) })
			w.again()
			w.must(say(t.Context(), conn, "still here"))
			w.set(func() { c.passes(w) })
			code, reason := w.hears(conn)
			w.closedBy(res.Header.Get("Sallyport-Decision-Id"), reason, c.reason)
			if code != c.code {
				t.Errorf("closed with %d, want %d", code, c.code)
			}
			answer, body := w.ask(w.client(false, w.tls(host)), "GET", "/v1/orders", nil)
			if got := w.problem(body).Reason; got != c.reason && c.reason != "token_expired" && c.reason != "step_up_required" {
				t.Errorf("who comes now gets %d %s", answer.StatusCode, body)
			}
			w.settle()
		})
	}
}

// openWith opens a WebSocket as alice, with claims.
func (w *world) openWith(c *http.Client, claims map[string]any) (*websocket.Conn, *http.Response) {
	w.t.Helper()
	return w.openBy(c, http.Header{"Authorization": {"Bearer " + w.tokens.sign(claims)}})
}

func (w *world) openBy(c *http.Client, fields http.Header) (*websocket.Conn, *http.Response) {
	w.t.Helper()
	conn, res, err := websocket.Dial(w.t.Context(), "wss://"+host+"/v1/orders", &websocket.DialOptions{HTTPClient: c, HTTPHeader: fields})
	w.must(err)
	w.t.Cleanup(func() { _ = conn.CloseNow() })
	return conn, res
}

// What a new revision demands is demanded of what is open, by what was proven for
// it: of each kind of credential.
func TestRevisionsAndWhatIsOpen(t *testing.T) {
	key, other := apikey.New(), apikey.New()
	good := time.Now().Add(time.Hour)
	bearer, keyed, certified := "a token", "a key", "a certificate"
	secret := func(k apikey.Key) string { // without an end
		return fmt.Sprintf(`{id: %q, sha256: "%x", createdAt: "2026-01-01T00:00:00Z"}`, k.ID, apikey.Digest(k.Text))
	}
	auth := "identityProviders: [login], apiKeys: true, clientCertificates: true"
	replace := func(old, with string) func(string) string {
		return func(spec string) string {
			if !strings.Contains(spec, old) {
				t.Fatalf("%q is not there", old)
			}
			return strings.ReplaceAll(spec, old, with)
		}
	}
	everybody := func(reason string) map[string]string {
		return map[string]string{bearer: reason, keyed: reason, certified: reason}
	}
	for _, c := range []struct {
		name   string
		change func(string) string
		ends   map[string]string // by whose stream; the others go on
	}{
		{"another upstream", replace("upstream: orders,", "upstream: more,"), nil},
		{"another label", replace("labels: {app: orders}", "labels: {app: other}"), nil},
		{"no route", replace(`paths: ["/v1/**"]`, `paths: ["/v2/**"]`), everybody("no_route")},
		{"another route", func(spec string) string {
			other := strings.Replace(new(world).route("renamed", host, plaintext("127.0.0.1:1")), "upstream: renamed,", "webSocket: true, upstream: renamed,", 1)
			return replace("hosts: ["+host+"]", "hosts: [gone.example]")(spec) + other
		}, everybody("no_route")},
		{"no WebSockets", replace("webSocket: true, ", ""), everybody("upgrade_unsupported")},
		{"no providers", replace("identityProviders: [login], ", ""), map[string]string{bearer: "credentials_missing"}},
		{"another provider", replace("identityProviders: [login]", "identityProviders: [elsewhere]"), map[string]string{bearer: "token_wrong_issuer"}},
		{"another audience", replace("audiences: [orders]", "audiences: [carts]"), map[string]string{bearer: "token_wrong_audience"}},
		{"a claim is required", replace("audiences: [orders]", `audiences: [orders], requiredClaims: [{claim: tier, values: [gold]}]`), map[string]string{bearer: "token_wrong_claim"}},
		{"groups from elsewhere", replace("audiences: [orders]", "audiences: [orders], groupsClaim: roles"), map[string]string{bearer: "no_matching_policy"}},
		{"bound tokens alone", replace("clientCertificates: true}", "clientCertificates: true, proof: ANY}"), map[string]string{bearer: "proof_missing"}},
		{"no keys", replace("apiKeys: true, ", ""), map[string]string{keyed: "credentials_missing"}},
		{"another key", replace(key.ID, other.ID), map[string]string{keyed: "api_key_invalid"}},
		{"another key by the name of the first", replace(fmt.Sprintf("%x", apikey.Digest(key.Text)), fmt.Sprintf("%x", apikey.Digest(other.Text))), map[string]string{keyed: "api_key_invalid"}},
		{"the key is removed", func(spec string) string {
			spec = strings.Replace(spec, ", {key: export}", "", 1)
			return regexp.MustCompile(`(?s)---\napiVersion: sallyport/v1\nkind: ApiKey\n.*?\n---`).ReplaceAllString(spec, "---")
		}, map[string]string{keyed: "api_key_invalid"}},
		{"the issuer's key is another by the same name", func(spec string) string {
			return regexp.MustCompile(`(name: login}\nspec: .*?)jwksUrl: "[^"]*"`).ReplaceAllString(spec, "${1}jwks: '"+newTokens(t).set+"'")
		}, map[string]string{bearer: "token_bad_signature"}},
		{"another key beside the first", replace("secrets: [", "secrets: ["+secret(other)+", "), nil},
		{"no certificates", replace("clientCertificates: true}", "clientCertificates: false}"), map[string]string{certified: "credentials_missing"}},
		{"all of them", replace("clientCertificates: true}", "clientCertificates: true, require: ALL}"), everybody("credentials_missing")},
		{"nobody", replace("effect: ALLOW", "effect: DENY"), everybody("denied_by_policy")},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // most of it is waiting
			w := newWorld(t, options{})
			up := newEcho(t)
			up.answerWith(echoes)
			spec := taking(w.sockets(plaintext(up.address())), auth) + keyResource("shop", "export", map[apikey.Key]time.Time{key: good}) +
				w.route("more", "more.example", plaintext(up.address())) + strings.NewReplacer("name: login", "name: elsewhere", "login.example", "elsewhere.example").Replace(w.login())
			spec = strings.Replace(spec, "{group: shop}", "{group: shop}, {key: export}", 1)
			w.apply(spec)
			conns, ids := map[string]*websocket.Conn{}, map[string]string{}
			open := func(who string, cfg *tls.Config, fields http.Header) {
				var res *http.Response
				conns[who], res = w.openBy(w.client(false, cfg), fields)
				ids[who] = res.Header.Get("Sallyport-Decision-Id")
			}
			open(bearer, w.tls(host), http.Header{"Authorization": {"Bearer " + w.tokens.sign(nil)}})
			open(keyed, w.tls(host), http.Header{"X-Api-Key": {key.Text}})
			open(certified, w.as(w.tls(host), "spiffe://prod.example/ns/shop/web"), nil)
			w.apply(c.change(spec))
			for who, reason := range c.ends {
				if _, told := w.hears(conns[who]); told != "" {
					w.closedBy(ids[who], told, reason)
				}
			}
			w.again()
			for who, conn := range conns {
				if c.ends[who] == "" {
					if err := say(t.Context(), conn, "on"); err != nil {
						t.Errorf("%s, which goes on: %v", who, err)
					}
				}
			}
		})
	}
}

// Whatever carries it, what would be denied is closed: its client can tell that it
// is not whole, and what is not answered yet is refused by the revision that denies.
func TestLosersOfEachKind(t *testing.T) {
	up := newEndless()
	eachWay(t, up.serve, func(t *testing.T, w *world, c *http.Client) {
		before := w.resources
		defer w.apply(before)
		alice, mallory := w.beginAs(c, "alice"), w.beginAs(c, "mallory")
		goesOn := bufio.NewReader(alice.Body)
		w.apply(before + banned)
		<-up.gone
		if got, err := io.ReadAll(mallory.Body); err == nil {
			t.Errorf("%q arrived whole", got)
		}
		if o := w.records.of(t, "outcome", mallory.Header.Get("Sallyport-Decision-Id")); o.Reason != "denied_by_policy" || o.Status != 200 {
			t.Errorf("recorded was %+v", o)
		}
		up.say("data: 1\n")
		if got, err := goesOn.ReadString('\n'); got != "data: 1\n" {
			t.Errorf("the neighbour got %q, %v", got, err)
		}
		_ = alice.Body.Close()
		<-up.gone
	})
}

// A download whose client reads slowly, or not at all, and an upload that does not
// end, are streams as well.
func TestLosersThatAreBodies(t *testing.T) {
	eachWay(t, func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			_, _ = io.Copy(io.Discard, r.Body)
			return
		}
		rw.Header().Set("Content-Length", strconv.Itoa(1<<40))
		for r.Context().Err() == nil {
			_, _ = rw.Write(make([]byte, 64<<10))
		}
	}, func(t *testing.T, w *world, c *http.Client) {
		before := w.resources
		defer w.apply(before)
		down := w.beginAs(c, "mallory")
		endless, end := io.Pipe()
		defer end.Close()
		answered := make(chan *http.Response, 1)
		go func() {
			r := w.request(t.Context(), "POST", endless)
			r.Header.Set("Authorization", "Bearer "+w.tokens.sign(map[string]any{"sub": "mallory"}))
			res, err := c.Do(r)
			if err != nil {
				res = &http.Response{Status: err.Error(), Body: http.NoBody}
			}
			answered <- res
		}()
		until(t, "both are carried", func() bool { return w.metric("sallyport_requests_in_flight") == "2" })
		w.apply(before + banned)
		o := w.records.of(t, "outcome", down.Header.Get("Sallyport-Decision-Id"))
		if o.Reason != "denied_by_policy" || o.Status != 200 {
			t.Errorf("recorded was %+v", o)
		}
		if _, err := io.Copy(io.Discard, down.Body); err == nil {
			t.Error("the download looks whole")
		}
		res := <-answered
		if res.StatusCode == 0 {
			t.Fatal(res.Status)
		}
		p := w.problem(w.read(res))
		d := w.records.of(t, "decision", p.DecisionID)
		if res.StatusCode != 403 || p.Reason != "denied_by_policy" || d.Closes == "" || d.Allow || d.Revision != p.Revision ||
			res.Header.Get("Sallyport-Revision") != itoa(d.Revision) {
			t.Errorf("%d %+v, recorded %+v", res.StatusCode, p, d)
		}
	})
}

// Calls of gRPC are told by their status.
func TestLosersOfGRPC(t *testing.T) {
	w := grpcWorld(t)
	c := w.dialGRPC("spiffe://prod.example/ns/shop/web")
	before := w.resources
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, end := range []struct {
		change func()
		code   codes.Code
		reason string
	}{
		{func() { w.apply(strings.Replace(before, "effect: ALLOW", "effect: DENY", 1)) }, codes.PermissionDenied, "denied_by_policy"},
		{func() { w.apply(strings.Replace(before, "clientCertificates: true", "clientCertificates: false", 1)) }, codes.Unauthenticated, "credentials_missing"},
		{func() { w.revoke(`spiffeId: "spiffe://prod.example/ns/shop/web"`) }, codes.Unauthenticated, "revoked"},
	} {
		w.revoke()
		w.apply(before)
		s, err := c.FullDuplexCall(ctx)
		w.must(err)
		w.must(s.Send(&pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: make([]byte, 100)}}))
		_, err = s.Recv()
		w.must(err)
		head, err := s.Header()
		w.must(err)
		end.change()
		_, err = s.Recv()
		was, _ := status.FromError(err)
		if was.Code() != end.code {
			t.Errorf("ended with %v, want %s", err, end.code)
		}
		w.closedBy(head.Get("sallyport-decision-id")[0], was.Message(), end.reason)
	}
	w.settle()
}
