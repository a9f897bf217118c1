package link_test

import (
	"crypto/x509"
	"encoding/pem"
	"path/filepath"
	"testing"

	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/identity/issuer"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// authority is the one of a trust domain, as those get it who trust it.
func authority(t *testing.T, is *issuer.Issuer) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(is.BundlePEM())
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// A whole proxy whose SVID is of another trust domain, with which ours is federated,
// is admitted by an Enrollment of that one, and enforces what it is sent, also after
// the federation was away for a moment.
func TestProxyOfAnotherTrustDomain(t *testing.T) {
	const partner identity.TrustDomain = "partner.example"
	f := newFleet(t)
	theirs, err := issuer.New(issuer.Config{DevelopmentOnly: true, TrustDomain: partner, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	if err := theirs.Federate(domain, authority(t, f.issuer)); err != nil {
		t.Fatal(err)
	}
	if err := f.issuer.Federate(partner, authority(t, theirs)); err != nil {
		t.Fatal(err)
	}
	p := &proxy{id: "spiffe://partner.example/proxy/1", instance: "one"}
	socket := filepath.Join(t.TempDir(), "s")
	endpoint, err := theirs.Listen(p.id, socket, 0)
	if err != nil {
		t.Fatal(err)
	}
	run(t, endpoint.Run)
	r := f.replica("one")
	settings := f.settings("aws/1", free(t), r.url)
	settings.Workload.Socket, settings.Workload.TrustDomain = socket, string(partner)
	f.whole(settings)

	f.commit(clouds)
	f.commit(`
apiVersion: sallyport/v1
kind: Enrollment
metadata: {name: partner}
spec: {spiffeId: "spiffe://partner.example/proxy/*", environment: aws}
`)
	r.enforced(p, f.commit(policy("reads", "/v1/**")), enforced)
	if err := f.issuer.Federate(partner); err != nil {
		t.Fatal(err)
	}
	last := f.commit(policy("reads", "/v2/**"))
	if err := f.issuer.Federate(partner, authority(t, theirs)); err != nil {
		t.Fatal(err)
	}
	r.enforced(p, last, enforced)
	r.await(p, "is of another trust domain", func(k *adminv1.Proxy) bool { return k.GetSpiffeId() == string(p.id) })
}
