package link_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

const loginIssuer = "https://login.example"

// people is an IdentityProvider of aws alone, whose keys need not be fetched.
func people(key ed25519.PrivateKey) string {
	x := base64.RawURLEncoding.EncodeToString(key.Public().(ed25519.PublicKey))
	return fmt.Sprintf(`
apiVersion: sallyport/v1
kind: IdentityProvider
metadata: {namespace: shop, name: people}
spec:
  environments: [aws]
  issuer: %q
  jwks: '{"keys":[{"kty":"OKP","crv":"Ed25519","use":"sig","kid":"one","x":%q}]}'
  audiences: [orders]
  signIn: {clientId: app}
`, loginIssuer, x)
}

func logoutToken(t *testing.T, key ed25519.PrivateKey, typ, sid, sub string) *proxyv1.LogoutRequest {
	t.Helper()
	raw := signLogout(t, key, typ, sid, sub)
	return &proxyv1.LogoutRequest{Proof: &proxyv1.LogoutRequest_LogoutToken{LogoutToken: raw}}
}

func signLogout(t *testing.T, key ed25519.PrivateKey, typ, sid, sub string) string {
	t.Helper()
	claims := jwt.MapClaims{
		"iss": loginIssuer, "aud": "app", "jti": rand.Text(), "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(),
		"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}},
	}
	if claims["sub"] = sub; sid != "" {
		claims["sid"] = sid
	}
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims)
	token.Header["kid"], token.Header["typ"] = "one", typ
	raw, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// logout has a proxy tell what it has proof of.
func (f *fleet) logout(p *proxy, proof *proxyv1.LogoutRequest) error {
	ctx, cancel := context.WithTimeout(f.Context(), patience)
	defer cancel()
	return p.link.LoggedOut(ctx, proof)
}

// sequence is what is committed of the security lane.
func (f *fleet) sequence() snapshot.Revision {
	f.Helper()
	position, err := f.database.Security().Position(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	return position.Revision
}

// A session that has ended at one proxy is cut off at all, of every environment; a
// proxy that proves nothing cuts off nobody.
func TestLogoutCutsOffInTheWholeFleet(t *testing.T) {
	f := newFleet(t)
	signs := key(7)
	f.commit(clouds)
	at := f.commit(people(signs))
	r := f.replica("one")
	aws, gcp := f.proxy("aws/1", newTable(), r.url), f.proxy("gcp/1", newTable(), r.url)
	r.enforced(aws, at, enforced)
	keys, others := aws.keys(t), gcp.keys(t)
	began := time.Now().Add(-time.Minute).UTC().Truncate(time.Second)
	of := func(sub, sid string) *session.Session {
		return &session.Session{
			Provider: "shop/people", Issuer: loginIssuer, Subject: sub, ID: sid, SignedIn: began, Expires: began.Add(time.Hour),
		}
	}
	cookie := func(environment string, keys []session.Key, s *session.Session) *proxyv1.LogoutRequest {
		ring, err := session.NewRing(environment, keys...)
		if err != nil {
			t.Fatal(err)
		}
		value, err := s.Seal(ring, "app.example", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return &proxyv1.LogoutRequest{Proof: &proxyv1.LogoutRequest_Session{Session: &proxyv1.SessionCookie{Host: "app.example", Value: value}}}
	}
	revoked := func(p *proxy, s *session.Session) bool {
		set := p.cuts.live.Load()
		if set == nil {
			return false
		}
		_, is := set.Revoked(authn.SignedIn(s), time.Now())
		return is
	}
	for what, c := range map[string]struct {
		at    *proxy
		proof *proxyv1.LogoutRequest
	}{
		"a token with another key":          {aws, logoutToken(t, key(8), "logout+jwt", "kept", "carol")},
		"a token of another type":           {aws, logoutToken(t, signs, "JWT", "kept", "carol")},
		"a cookie of another environment":   {aws, cookie("gcp", others, of("carol", "kept"))},
		"a token of another's provider":     {gcp, logoutToken(t, signs, "logout+jwt", "kept", "carol")},
		"no proof":                          {aws, &proxyv1.LogoutRequest{}},
		"a cookie of more than cookies are": {aws, &proxyv1.LogoutRequest{Proof: &proxyv1.LogoutRequest_Session{Session: &proxyv1.SessionCookie{Host: "app.example", Value: strings.Repeat("a", 5000)}}}},
	} {
		if err := f.logout(c.at, c.proof); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, proof := range []*proxyv1.LogoutRequest{
		cookie("aws", keys, of("alice", "one")), logoutToken(t, signs, "logout+jwt", "two", "alice"), logoutToken(t, signs, "logout+jwt", "", "bob"),
	} {
		before := f.sequence()
		for range 2 { // the second changes nothing
			if err := f.logout(aws, proof); err != nil {
				t.Fatal(err)
			}
			if now := f.sequence(); now != before+1 {
				t.Errorf("the security lane went from %d to %d", before, now)
			}
		}
	}
	for _, s := range []*session.Session{of("alice", "one"), of("alice", "two"), of("bob", "three")} {
		for _, p := range []*proxy{aws, gcp} {
			eventually(t, strings.Join([]string{s.Subject, s.ID, "is cut off at", string(p.id)}, " "), func() bool { return revoked(p, s) })
		}
	}
	later := of("bob", "five")
	later.SignedIn = time.Now().Add(5 * time.Second)
	for _, s := range []*session.Session{of("carol", "kept"), of("alice", "four"), later} {
		if revoked(aws, s) || revoked(gcp, s) {
			t.Errorf("%s, session %s, is cut off as well", s.Subject, s.ID)
		}
	}
}
