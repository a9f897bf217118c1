package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/internal/token"
)

// telling is the usual route with more in it.
func (w *world) telling(upstream, more string) string {
	const usual = "upstream: orders, "
	return strings.Replace(w.usual(upstream), usual, usual+more+", ", 1)
}

// An upstream that is to be told who asks is told by the proxy's own signature,
// once, whatever the client says; one that is not is told nothing.
func TestAssertion(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	var got http.Header
	up.answerWith(func(rw http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		rw.WriteHeader(http.StatusOK)
	})
	ask := func(http2 bool) (string, *http.Response) {
		got = nil
		return w.get(w.client(http2, w.tls(host)), "Authorization: Bearer "+w.tokens.sign(jwt.MapClaims{"email": "alice@shop.example"}),
			"Sallyport-Assertion: forged", "sallyport-assertion: forged", "Sallyport_Assertion: forged", "Sallyport-Groups: admin", "Sallyport-Email: root")
	}
	w.apply(w.usual(plaintext(up.address())))
	if answer, _ := ask(false); !strings.HasPrefix(answer, "200") || got["Sallyport-Assertion"] != nil || got["Sallyport-Groups"] != nil {
		t.Errorf("where nothing is to be told: %s, told was %v", answer, got)
	}

	// No key was published yet.
	w.apply(w.telling(plaintext(up.address()), "assertion: {}"))
	answer, res := ask(true)
	if d := w.records.of(t, "decision", res.Header.Get("Sallyport-Decision-Id")); answer != "503 assertion_unavailable" || got != nil || d.Allow {
		t.Errorf("without a published key: %s, asked was %v, recorded %+v", answer, got, d)
	}

	w.keys.Reported(w.keys.Points())
	document, err := token.EncodeKeySet(w.keys.Public())
	w.must(err)
	set, err := token.ParseKeySet(document)
	w.must(err)
	var first string
	for _, http2 := range []bool{false, true} {
		answer, res := ask(http2)
		values := got["Sallyport-Assertion"]
		if !strings.HasPrefix(answer, "200") || len(values) != 1 || got["Sallyport-Groups"] != nil || got["Sallyport_assertion"] != nil {
			t.Fatalf("HTTP/2 %t: %s, told was %v", http2, answer, got)
		}
		claims, err := token.Verify(values[0], token.Rules{Issuer: "urn:sallyport:environment:aws", Audiences: []string{"shop/orders"}}, set, time.Now())
		w.must(err)
		if claims.Subject != "alice" || claims.All["principal_iss"] != "https://login.example" || claims.All["route"] != "shop/orders" {
			t.Errorf("told was %v", claims.All)
		}
		if id := got.Get("Sallyport-Decision-Id"); id == "" || id != res.Header.Get("Sallyport-Decision-Id") || strings.Contains(values[0], id) {
			t.Errorf("the decision is %q upstream", id)
		}
		if first == "" {
			first = values[0]
		} else if values[0] != first {
			t.Error("an assertion of this moment is not used again")
		}
	}

	w.apply(w.telling(plaintext(up.address()), "assertion: {audience: \"https://orders.internal\"}, identityHeaders: [SUBJECT, ISSUER, KIND, GROUPS, SPIFFE_ID, EMAIL]"))
	if answer, _ := ask(true); !strings.HasPrefix(answer, "200") {
		t.Fatal(answer)
	}
	_, err = token.Verify(got.Get("Sallyport-Assertion"), token.Rules{Issuer: "urn:sallyport:environment:aws", Audiences: []string{"https://orders.internal"}}, set, time.Now())
	w.must(err)
	for name, want := range map[string]string{
		"Sallyport-Subject": "alice", "Sallyport-Issuer": "https://login.example", "Sallyport-Kind": "user",
		"Sallyport-Groups": "shop", "Sallyport-Email": "alice@shop.example", "Sallyport-Spiffe-Id": "",
	} {
		if all := got[name]; strings.Join(all, "|") != want || want == "" && all != nil {
			t.Errorf("%s: %q, want %q", name, all, want)
		}
	}
}

// BenchmarkAssertionCPU compares the CPU time of a proxied request whose upstream
// is told who asks with that of one whose is not.
func BenchmarkAssertionCPU(b *testing.B) {
	w := newWorld(b, options{writer: file(b)})
	w.keys.Reported(w.keys.Points())
	without, with := w.inTurns(b, w.usual, func(upstream string) string { return w.telling(upstream, "assertion: {}") })
	fmt.Printf("figure cpu_per_request_without_assertion %.1f us\n", without)
	fmt.Printf("figure cpu_per_request_with_assertion %.1f us\n", with)
	fmt.Printf("figure assertion_cpu_ratio %.3f ratio\n", with/without)
}

// BenchmarkTokenCPU compares the CPU time of a proxied request with an ES256 token
// that was seen before with that of the same request on a route that takes anybody.
func BenchmarkTokenCPU(b *testing.B) {
	w := newWorld(b, options{writer: file(b)})
	open := strings.NewReplacer(
		"identityProviders: [login], clientCertificates: true", "anonymous: true", "principals: [{group: shop}", "principals: [{anonymous: true}")
	without, with := w.inTurns(b, func(upstream string) string { return open.Replace(w.usual(upstream)) }, w.usual)
	fmt.Printf("figure cpu_per_request_without_token %.1f us\n", without)
	fmt.Printf("figure cpu_per_request_with_token %.1f us\n", with)
	fmt.Printf("figure token_cpu_ratio %.3f ratio\n", with/without)
}

// inTurns measures the CPU time of a proxied request (TLS 1.3, keep-alive, 1 KiB)
// by two configurations, each first as often as the other, in microseconds.
func (w *world) inTurns(b *testing.B, one, other func(upstream string) string) (oneTook, otherTook float64) {
	b.Helper()
	_, out := child(b, "upstream")
	address, err := out.ReadString('\n')
	w.must(err)
	upstream := plaintext(strings.TrimSpace(address))
	in, done := child(b, "client")
	ca, raw := w.issuer.ServerCAPEM(), w.tokens.sign(nil)
	run := func(n int) float64 {
		before := cpu(b)
		w.must(json.NewEncoder(in).Encode(load{w.address("edge/public"), raw, ca, false, n, 16}))
		if _, err := done.ReadString('\n'); err != nil {
			b.Fatal(err)
		}
		return float64((cpu(b) - before).Microseconds()) / float64(n)
	}
	var took [2][]float64
	for i := range 16 {
		which := (i + i/2) % 2
		w.apply([]func(string) string{one, other}[which](upstream))
		run(1_000)
		took[which] = append(took[which], run(6_000))
	}
	slices.Sort(took[0])
	slices.Sort(took[1])
	return took[0][4], took[1][4]
}
