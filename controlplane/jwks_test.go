package controlplane_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"io"
	"log/slog"
	"net/http"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/sallyport/sallyport/controlplane/controlplanetest"
	"github.com/sallyport/sallyport/internal/token"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
)

// Anybody may read the keys of assertions, over TLS, at one place for each
// environment; nothing else is said to who is nobody.
func TestKeysOfAssertionsArePublished(t *testing.T) {
	p := controlplanetest.New(t)
	p.Start(slog.New(slog.DiscardHandler))
	apply(t, p, "aws")
	spec, err := structpb.NewStruct(map[string]any{"spiffeId": "spiffe://prod.example/proxy/aws/*", "environment": "aws"})
	if err != nil {
		t.Fatal(err)
	}
	config := adminv1connect.NewConfigServiceClient(client(t, p, controlplanetest.Admin), p.URL())
	if _, err := config.Apply(t.Context(), connect.NewRequest(&adminv1.ApplyRequest{Resources: []*adminv1.Resource{{
		ApiVersion: "sallyport/v1", Kind: "Enrollment", Metadata: &adminv1.Metadata{Name: "aws"}, Spec: spec,
	}}})); err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	public, err := token.ParsePublicKey(point)
	if err != nil {
		t.Fatal(err)
	}
	rubbish := make([]byte, 65)
	rubbish[0] = 4
	if err := saveKeys(t, p, rubbish, point); err != nil {
		t.Fatal(err)
	}

	nobody := client(t, p, "")
	ask := func(method, path string) (int, string, http.Header) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, p.URL()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := nobody.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(b), res.Header
	}
	eventually(t, "the key is published", func() bool {
		status, text, _ := ask("GET", "/.well-known/sallyport/aws/jwks.json")
		set, err := token.ParseKeySet([]byte(text))
		return status == http.StatusOK && err == nil && set.Len() == 1 && set.Ignored() == 0 && set.Has(public.ID())
	})
	if _, _, h := ask("GET", "/.well-known/sallyport/aws/jwks.json"); h.Get("Content-Type") != "application/jwk-set+json" || h.Get("Cache-Control") != "public, max-age=300" {
		t.Errorf("said was %v", h)
	}
	for _, path := range []string{
		"/.well-known/sallyport/gcp/jwks.json", "/.well-known/sallyport//jwks.json", "/.well-known/sallyport/aws%2F..%2Faws/jwks.json",
	} {
		if status, text, _ := ask("GET", path); status == http.StatusOK {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	if status, text, _ := ask("POST", "/.well-known/sallyport/aws/jwks.json"); status == http.StatusOK {
		t.Errorf("POST: %d %s", status, text)
	}
	if status, _, _ := ask("POST", "/sallyport.admin.v1.FleetService/ListProxies"); status == http.StatusOK {
		t.Error("nobody may list proxies")
	}
}
