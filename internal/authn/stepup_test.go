package authn_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/internal/authn"
)

// What a route demands of a sign-in is asked of every request, also when the
// token is known; who does not tell does not meet it.
func TestStepUp(t *testing.T) {
	var c clock
	i := overTLS(t, "https://idp.example")
	g := newGate(t, i, authn.Config{Now: c.now, Wait: time.Minute})
	signedIn := func(ago time.Duration, acr any, amr ...any) authn.Credentials {
		return bearerOf(i.token("one", c.now(), jwt.MapClaims{"auth_time": c.now().Add(-ago).Unix(), "acr": acr, "amr": amr}))
	}
	says := func(name string, value any) authn.Credentials {
		return bearerOf(i.token("one", c.now(), jwt.MapClaims{name: value}))
	}
	svid := authn.Credentials{Peer: authn.Peer{ID: web, Expires: c.now().Add(time.Hour)}}
	acr := &authn.StepUp{ACRValues: []string{"gold", "https://acr.example/silver"}}
	amr := &authn.StepUp{AMR: []string{"mfa", "hwk"}}
	age := &authn.StepUp{MaxAge: 5 * time.Minute}
	all := &authn.StepUp{ACRValues: []string{"gold"}, AMR: []string{"mfa"}, MaxAge: 5 * time.Minute}
	for _, tc := range []struct {
		name   string
		cred   authn.Credentials
		demand *authn.StepUp
		want   string
	}{
		{"nothing is demanded", bearerOf(i.token("one", c.now(), nil)), nil, "alice"},
		{"the class", signedIn(0, "gold"), acr, "alice"},
		{"another of the classes", signedIn(0, "https://acr.example/silver"), acr, "alice"},
		{"another class", signedIn(0, "bronze"), acr, "step_up_required"},
		{"the class in other letters", signedIn(0, "Gold"), acr, "step_up_required"},
		{"classes in a list", signedIn(0, []string{"gold"}), acr, "step_up_required"},
		{"no class", bearerOf(i.token("one", c.now(), nil)), acr, "step_up_required"},
		{"all methods", signedIn(0, nil, "pwd", "hwk", "mfa"), amr, "alice"},
		{"one of the methods", signedIn(0, nil, "pwd", "mfa"), amr, "step_up_required"},
		{"methods that are none", signedIn(0, nil, "mfa", "hwk", 7), amr, "step_up_required"},
		{"no methods", bearerOf(i.token("one", c.now(), nil)), amr, "step_up_required"},
		{"just now", signedIn(0, nil), age, "alice"},
		{"as long ago as may be", signedIn(5*time.Minute, nil), age, "alice"},
		{"a second longer ago", signedIn(301*time.Second, nil), age, "step_up_required"},
		{"a clock that is ahead", signedIn(-30*time.Second, nil), age, "alice"},
		{"in the future", signedIn(-31*time.Second, nil), age, "step_up_required"},
		{"nobody knows when", bearerOf(i.token("one", c.now(), nil)), age, "step_up_required"},
		{"at a time that is none", says("auth_time", "now"), age, "step_up_required"},
		{"all of it", signedIn(time.Minute, "gold", "mfa"), all, "alice"},
		{"all but the class", signedIn(time.Minute, "tin", "mfa"), all, "step_up_required"},
		{"all but the methods", signedIn(time.Minute, "gold"), all, "step_up_required"},
		{"all but the time", signedIn(time.Hour, "gold", "mfa"), all, "step_up_required"},
		{"a certificate, which does not tell", svid, age, "step_up_required"},
		{"a certificate where nothing is demanded", svid, nil, web},
		{"a bad token goes first", bearerOf("rubbish"), all, "token_malformed"},
	} {
		accept := shop
		accept.ClientCertificates, accept.StepUp = true, tc.demand
		for range 2 { // verified, then remembered
			if got := outcome(t, g.Authenticator, tc.cred, accept, c.now()); got != tc.want {
				t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
			}
		}
	}

	accept := shop
	accept.StepUp = age
	recent := signedIn(4*time.Minute, nil)
	expect(t, "recent", outcome(t, g.Authenticator, recent, accept, c.now()), "alice")
	c.advance(61 * time.Second)
	expect(t, "recent no more", outcome(t, g.Authenticator, recent, accept, c.now()), "step_up_required")

	const said = `, error="insufficient_user_authentication", error_description="Another or a more recent sign-in is required"`
	for _, tc := range []struct {
		demand *authn.StepUp
		want   string
	}{
		{acr, plain + said + `, acr_values="gold https://acr.example/silver"`},
		{age, plain + said + `, max_age="300"`},
		{all, plain + said + `, acr_values="gold", max_age="300"`},
		{amr, plain + said},
	} {
		accept.StepUp = tc.demand
		_, d := g.Authenticate(t.Context(), says("x", 1), accept, c.now())
		if d == nil || d.Status != http.StatusUnauthorized || d.Challenge != tc.want {
			t.Errorf("%+v: %+v, want %s", tc.demand, d, tc.want)
		}
	}
}
