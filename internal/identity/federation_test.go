package identity_test

import (
	"encoding/pem"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sallyport/sallyport/internal/identity"
)

// Both forms of a bundle are understood; what the Workload API says of a domain
// goes before what anybody else says.
func TestFederate(t *testing.T) {
	const web identity.ID = "spiffe://other.example/web"
	is := newIssuer(t, domain, nil)
	src := identified(t, is, control)
	listed, preferred := newRogue(t), newRogue(t)
	plain := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: listed.cert.Raw}))
	bundle := spiffebundle.New(spiffeid.RequireTrustDomainFromString("other.example"))
	bundle.AddX509Authority(listed.cert)
	jwks, err := bundle.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	reaches := func(what string, r *rogue, want bool) {
		t.Helper()
		out := connect(t, identity.ListenerConfig(src, nil), as(r.leaf(t, nil, string(web))))
		// A client that is told of no authority of its own presents nothing.
		if id, err := identity.PeerID(&out.server); (id == web && out.serverErr == nil) != want {
			t.Errorf("%s: %q, %v, %v", what, id, err, out.serverErr)
		}
	}
	federate := func(of identity.TrustDomain, text string) {
		src.Federate([]identity.Federated{{TrustDomain: of, Bundle: text}})
	}
	reaches("before", listed, false)
	for form, text := range map[string]string{"PEM": plain, "JWKS": string(jwks)} {
		federate("other.example", text)
		reaches(form, listed, true)
		reaches(form+", another authority", preferred, false)
		src.Federate(nil)
		reaches("after "+form, listed, false)
	}
	for _, rubbish := range []string{"", "{}", `{"keys":[]}`, "rubbish", plain[:100]} {
		federate("other.example", rubbish)
		if src.Trusts(web) {
			t.Errorf("%q is a bundle", rubbish)
		}
	}
	federate("third.example", plain)
	reaches("a bundle of another domain", listed, false)

	federate("other.example", plain)
	if !src.Trusts(web) || src.Trusts("spiffe://third.example/web") || src.Trusts("") {
		t.Error("trusted are other domains than were said")
	}
	if err := is.Federate("other.example", preferred.cert); err != nil {
		t.Fatal(err)
	}
	until(t, src, func() bool { return src.Bundles()["other.example"][0].Equal(preferred.cert) })
	reaches("listed, but the Workload API says otherwise", listed, false)
	reaches("as the Workload API says", preferred, true)
	if err := is.Federate("other.example"); err != nil {
		t.Fatal(err)
	}
	until(t, src, func() bool { return src.Bundles()["other.example"][0].Equal(listed.cert) })
	reaches("the Workload API says nothing any more", listed, true)
}
