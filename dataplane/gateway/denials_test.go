package gateway_test

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"
)

// counting is a fleet whose policy asks how often requests were denied. The client says
// in X-Forwarded-For where it is.
type counting struct{ *world }

// calm has those ask who were denied less often than that.
const calm = `signals.denials.principal < %d && signals.denials.address < %d`

func newCounting(t *testing.T, effect, when string) counting {
	w := newWorld(t, options{})
	up := newEcho(t)
	up.answerWith(echoesOrTells)
	spec := w.locating(`forwarded: {header: X_FORWARDED_FOR, trustedHops: 1}`, plaintext(up.address()))
	spec = strings.Replace(spec, "upstream: orders,", "webSocket: true, upstream: orders,", 1)
	const by = "  when: cidr(\"10.0.0.0/8\").containsIP(signals.ip)\n"
	if !strings.Contains(spec, by) {
		t.Fatal("the policy has another condition")
	}
	if effect == "ALLOW" {
		spec = strings.Replace(spec, by, fmt.Sprintf("  when: %q\n", when), 1)
	} else {
		spec = strings.Replace(spec, by, "", 1) + "---\napiVersion: sallyport/v1\nkind: Policy\nmetadata: {namespace: shop, name: often}\n" +
			fmt.Sprintf("spec: {routes: {names: [orders]}, effect: DENY, when: %q}\n", when)
	}
	strict := strings.NewReplacer(`paths: ["/v1/**"]`, `paths: ["/v2/**"]`, "clientCertificates: true}", "stepUp: {maxAge: 60s}}").Replace(
		w.route("strict", host, plaintext(up.address())))
	w.apply(spec + strict + "\n---\n{apiVersion: sallyport/v1, kind: Environment, metadata: {name: aws}, spec: {configurationAge: {limit: 60s, action: DENY}}}\n")
	return counting{w}
}

func echoesOrTells(rw http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "" {
		echoes(rw, r)
	}
}

// attempt is a request that is denied.
type attempt struct {
	line   string // GET /v1/orders/7 when empty
	claims jwt.MapClaims
	token  string // instead of claims; none when "-"
	from   string // 203.0.113.9 when empty
	more   string // fields
}

const alicesPlace = "203.0.113.9"

func (w counting) sends(a attempt) (int, line) {
	w.t.Helper()
	claims := jwt.MapClaims{"exp": w.now().Add(time.Minute).Unix()}
	maps.Copy(claims, a.claims)
	token := w.tokens.sign(claims)
	if a.token != "" {
		token = a.token
	}
	head := a.line
	if head == "" {
		head = "GET /v1/orders/7"
	}
	head += " HTTP/1.1\r\nHost: " + host + "\r\n"
	if token != "-" {
		head += "Authorization: Bearer " + token + "\r\n"
	}
	from := a.from
	if from == "" {
		from = alicesPlace
	}
	res, _ := w.raw(head + "X-Forwarded-For: " + from + "\r\n" + a.more + "\r\n")
	return res.StatusCode, w.records.of(w.t, "decision", res.Header.Get("Sallyport-Decision-Id"))
}

// counted is what a good request of alice is decided by.
func (w counting) counted() string {
	w.t.Helper()
	status, d := w.sends(attempt{})
	if status != http.StatusOK || d.DenialsOfPrincipal == nil || d.DenialsOfAddress == nil {
		w.t.Fatalf("%d %+v", status, d)
	}
	return fmt.Sprintf("%d of alice, %d from there", *d.DenialsOfPrincipal, *d.DenialsOfAddress)
}

// A denial counts for whom it was proven to be of, and for the address; nobody can run
// up the number of somebody else.
func TestWhatCountsAsADenial(t *testing.T) {
	w := newCounting(t, "ALLOW", fmt.Sprintf(calm, 1000, 1000))
	forged := func(raw string) string { return raw[:len(raw)-4] + "AAAA" }
	for _, c := range []struct {
		name   string
		sends  attempt
		status int
		want   string
		around func() (after func())
	}{
		{name: "what is allowed", status: 200, want: "0 of alice, 0 from there"},
		{name: "by no policy", sends: attempt{line: "DELETE /v1/orders/7"}, status: 403, want: "1 of alice, 1 from there"},
		{name: "from elsewhere", sends: attempt{line: "DELETE /v1/orders/7", from: "203.0.113.8"}, status: 403, want: "1 of alice, 0 from there"},
		{name: "from nobody knows where", sends: attempt{line: "DELETE /v1/orders/7", from: "unknown"}, status: 403, want: "1 of alice, 0 from there"},
		{name: "of mallory", sends: attempt{line: "DELETE /v1/orders/7", claims: jwt.MapClaims{"sub": "mallory"}}, status: 403, want: "0 of alice, 1 from there"},
		{name: "a forged token", sends: attempt{token: forged(w.tokens.sign(nil))}, status: 401, want: "0 of alice, 1 from there"},
		{name: "an old token", sends: attempt{claims: jwt.MapClaims{"exp": time.Now().Add(-time.Hour).Unix()}}, status: 401, want: "0 of alice, 1 from there"},
		{name: "a token for others", sends: attempt{claims: jwt.MapClaims{"aud": "carts"}}, status: 401, want: "0 of alice, 1 from there"},
		{name: "no token", sends: attempt{token: "-"}, status: 401, want: "0 of alice, 1 from there"},
		{name: "no token, in the name of alice", sends: attempt{token: "-", more: "X-Forwarded-User: alice\r\nX-Forwarded-Email: alice\r\n"}, status: 401, want: "0 of alice, 1 from there"},
		{name: "no route", sends: attempt{line: "GET /wp-login.php"}, status: 404, want: "0 of alice, 1 from there"},
		{name: "no such method", sends: attempt{line: "GET /.sallyport/backchannel-logout"}, status: 405, want: "0 of alice, 1 from there"},
		{name: "dots", sends: attempt{line: "GET /v1/../v1/orders/7"}, status: 400, want: "0 of alice, 1 from there"},
		{name: "a device token that is none", sends: attempt{more: "Sallyport-Device: x\r\n"}, status: 403, want: "1 of alice, 1 from there"},
		{name: "too long since the sign-in", sends: attempt{line: "GET /v2/orders/7", claims: jwt.MapClaims{"auth_time": 1}}, status: 401, want: "0 of alice, 0 from there"},
		{name: "a proxy that does not know", status: 503, want: "0 of alice, 0 from there", around: func() func() {
			w.set(func() { w.age = time.Hour })
			return func() { w.set(func() { w.age = 0 }) }
		}},
		{name: "a token that was revoked", sends: attempt{claims: jwt.MapClaims{"jti": "stolen"}}, status: 401, want: "0 of alice, 1 from there", around: func() func() {
			w.revoke(`token: {issuer: "https://login.example", id: stolen}`)
			return func() { w.revoke() }
		}},
	} {
		w.set(func() { w.ahead += 6 * time.Minute }) // all is forgotten
		after := func() {}
		if c.around != nil {
			after = c.around()
		}
		status, d := w.sends(c.sends)
		after()
		if got := w.counted(); status != c.status || got != c.want {
			t.Errorf("%s: %d %s, then %s", c.name, status, d.Reason, got)
		}
		if got := w.counted(); got != c.want { // asking changes nothing
			t.Errorf("%s: asked again, %s", c.name, got)
		}
	}
}

// Who was denied too often is denied everything, until they have been quiet for the
// time of the window; others are not, and nobody is by a flood of forged tokens.
func TestDeniedTooOften(t *testing.T) {
	w := newCounting(t, "DENY", `signals.denials.principal > 3`)
	expect := func(what string, a attempt, status int, reason string) {
		t.Helper()
		if got, d := w.sends(a); got != status || d.Reason != reason {
			t.Errorf("%s: %d %s", what, got, d.Reason)
		}
	}
	for range 20 {
		expect("a forged token", attempt{token: w.tokens.sign(nil) + "x"}, 401, "token_malformed")
	}
	expect("after a flood in her name", attempt{}, 200, "allowed_by_policy")
	for range 4 {
		expect("denied", attempt{line: "DELETE /v1/orders/7", from: "198.51.100.7"}, 403, "no_matching_policy")
	}
	expect("too often", attempt{}, 403, "denied_by_policy")
	expect("somebody else", attempt{claims: jwt.MapClaims{"sub": "bob"}}, 200, "allowed_by_policy")
	w.set(func() { w.ahead = 4 * time.Minute })
	expect("four minutes later", attempt{}, 403, "denied_by_policy")
	w.set(func() { w.ahead = 6 * time.Minute })
	expect("who was not quiet, six minutes later", attempt{}, 200, "allowed_by_policy") // twice is not too often
	w.set(func() { w.ahead = 12 * time.Minute })
	expect("who was", attempt{}, 200, "allowed_by_policy")
	_, d := w.sends(attempt{})
	if d.DenialsOfPrincipal == nil || *d.DenialsOfPrincipal != 0 || d.DenialsOfAddress == nil {
		t.Errorf("recorded was %+v", d)
	}
}

// Open streams are decided on by denials as by anything else: who was denied too often
// loses theirs, which counts as no denial, and nobody else does.
func TestDenialsCloseStreams(t *testing.T) {
	w := newCounting(t, "ALLOW", fmt.Sprintf(calm, 3, 1000))
	open := func(subject string) (*websocket.Conn, *http.Response) {
		return w.openBy(w.client(false, w.tls(host)), http.Header{
			"Authorization": {"Bearer " + w.tokens.sign(jwt.MapClaims{"sub": subject})}, "X-Forwarded-For": {alicesPlace},
		})
	}
	bob, _ := open("bob")
	var hers []*websocket.Conn
	var ids []string
	for range 5 {
		conn, res := open("alice")
		hers, ids = append(hers, conn), append(ids, res.Header.Get("Sallyport-Decision-Id"))
	}
	for range 2 {
		w.sends(attempt{line: "DELETE /v1/orders/7"})
	}
	w.again()
	for _, conn := range hers {
		w.must(say(t.Context(), conn, "twice is not too often"))
	}
	w.sends(attempt{line: "DELETE /v1/orders/7"})
	for i, conn := range hers {
		code, reason := w.hears(conn)
		if d := w.closedBy(ids[i], reason, "no_matching_policy"); code != websocket.StatusPolicyViolation || d.DenialsOfPrincipal == nil || *d.DenialsOfPrincipal != 3 {
			t.Errorf("closed with %d, recorded was %+v", code, d)
		}
	}
	w.again()
	w.must(say(t.Context(), bob, "still here"))
	_, d := w.sends(attempt{claims: jwt.MapClaims{"sub": "bob"}})
	if *d.DenialsOfAddress != 3 {
		t.Errorf("of the address are counted %d", *d.DenialsOfAddress)
	}
}
