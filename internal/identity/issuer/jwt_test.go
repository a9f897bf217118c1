package issuer_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/identity/issuer"
)

// The JWT profile is served as go-spiffe, which is not ours, understands it.
func TestJWTProfile(t *testing.T) {
	is := newIssuer(t, config())
	path := filepath.Join(t.TempDir(), "s")
	serve(t, is, web, path)
	addr, err := identity.SocketAddr(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	client, err := workloadapi.New(ctx, workloadapi.WithAddr(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	svid, err := client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "orders", ExtraAudiences: []string{"shop"}})
	if err != nil || svid.ID.String() != string(web) || len(svid.Audience) != 2 {
		t.Fatalf("got %+v, %v", svid, err)
	}
	bundles, err := client.FetchJWTBundles(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := jwtsvid.ParseAndValidate(svid.Marshal(), bundles, []string{"shop"}); err != nil {
		t.Errorf("our own token: %v", err)
	}
	if _, err := jwtsvid.ParseAndValidate(svid.Marshal(), bundles, []string{"billing"}); err == nil {
		t.Error("a token for others is taken")
	}
	for audience, ok := range map[string]bool{"orders": true, "billing": false} {
		got, err := client.ValidateJWTSVID(ctx, svid.Marshal(), audience)
		if (err == nil) != ok || ok && got.ID.String() != string(web) {
			t.Errorf("validated for %s: %+v, %v", audience, got, err)
		}
	}
	other := spiffeid.RequireFromString("spiffe://prod.example/other")
	if _, err := client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "orders", Subject: other}); err == nil {
		t.Error("another workload's token is given out")
	}
	if _, err := client.ValidateJWTSVID(ctx, "rubbish", "orders"); err == nil {
		t.Error("rubbish is valid")
	}
}

func TestIssueJWTRefuses(t *testing.T) {
	is := newIssuer(t, config())
	for name, issue := range map[string]func(*issuer.Issuer) (string, error){
		"another trust domain": func(i *issuer.Issuer) (string, error) { return i.IssueJWT("spiffe://other.example/web", 0, "orders") },
		"no ID":                func(i *issuer.Issuer) (string, error) { return i.IssueJWT("", 0, "orders") },
		"no audience":          func(i *issuer.Issuer) (string, error) { return i.IssueJWT(web, 0) },
	} {
		if raw, err := issue(is); err == nil || raw != "" {
			t.Errorf("%s: %q", name, raw)
		}
	}
}
