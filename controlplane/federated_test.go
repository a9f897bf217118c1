package controlplane_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/sallyport/sallyport/controlplane"
	"github.com/sallyport/sallyport/controlplane/controlplanetest"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/identity/issuer"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1/proxyv1connect"
)

const partner identity.TrustDomain = "partner.example"

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

// registers returns what a proxy with a certificate is answered; an error when it is
// not let in.
func registers(t *testing.T, p *controlplanetest.Plane, is *issuer.Issuer, id identity.ID) (*proxyv1.RegisterResponse, error) {
	t.Helper()
	svid, err := is.Issue(id, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{
		Certificates: []tls.Certificate{svid}, InsecureSkipVerify: true,
	}}
	defer transport.CloseIdleConnections()
	proxies := proxyv1connect.NewProxyServiceClient(&http.Client{Transport: transport}, "https://"+p.Server.Addr(controlplane.ListenerProxies).String())
	res, err := proxies.Register(t.Context(), connect.NewRequest(&proxyv1.RegisterRequest{Instance: "one", ProtocolVersion: 1}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// enroll has an Enrollment admit a pattern to aws.
func enroll(t *testing.T, p *controlplanetest.Plane, name, pattern string) {
	t.Helper()
	spec, err := structpb.NewStruct(map[string]any{"spiffeId": pattern, "environment": "aws"})
	if err != nil {
		t.Fatal(err)
	}
	config := adminv1connect.NewConfigServiceClient(client(t, p, controlplanetest.Admin), p.URL())
	if _, err := config.Apply(t.Context(), connect.NewRequest(&adminv1.ApplyRequest{Resources: []*adminv1.Resource{{
		ApiVersion: "sallyport/v1", Kind: "Enrollment", Metadata: &adminv1.Metadata{Name: name}, Spec: spec,
	}}})); err != nil {
		t.Fatal(err)
	}
}

// A proxy of another trust domain is admitted by an Enrollment of that trust domain
// alone, while the Workload API says who vouches for it.
func TestProxiesOfAnotherTrustDomain(t *testing.T) {
	p := controlplanetest.New(t)
	p.Start((&logs{}).logger())
	theirs, err := issuer.New(issuer.Config{DevelopmentOnly: true, TrustDomain: partner, Log: (&logs{}).logger()})
	if err != nil {
		t.Fatal(err)
	}
	const proxy, other identity.ID = "spiffe://partner.example/proxy/aws/1", "spiffe://partner.example/web"
	admitted := func(id identity.ID) bool {
		res, err := registers(t, p, theirs, id)
		return err == nil && res.GetAdmission() == proxyv1.Admission_ADMISSION_ADMITTED && res.GetEnvironment() == "aws"
	}
	kept := func(when string) {
		t.Helper()
		for range 3 {
			if _, err := registers(t, p, theirs, proxy); err == nil {
				t.Errorf("%s, it was let in", when)
			}
		}
	}
	apply(t, p, "aws")
	enroll(t, p, "ours", "spiffe://prod.example/proxy/**")
	kept("without a bundle and an enrollment")
	if err := p.Issuer.Federate(partner, authority(t, theirs)); err != nil {
		t.Fatal(err)
	}
	kept("with an enrollment of our trust domain alone")
	enroll(t, p, "theirs", "spiffe://partner.example/proxy/*/1")
	eventually(t, "it is admitted", func() bool { return admitted(proxy) })
	stays := func() error { return p.Server.TestOnlyRecheck(peerOf(t, theirs, proxy)) }
	if err := stays(); err != nil {
		t.Errorf("a stream of it is cut when it is looked at again: %v", err)
	}
	if res, err := registers(t, p, theirs, other); err != nil || res.GetAdmission() != proxyv1.Admission_ADMISSION_PENDING {
		t.Errorf("another of that trust domain: %v, %v", res, err)
	}

	// An authority speaks for its own trust domain alone, whatever it writes.
	liar, err := issuer.New(issuer.Config{DevelopmentOnly: true, TrustDomain: controlplanetest.ID.TrustDomain(), Log: (&logs{}).logger()})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Issuer.Federate(partner, authority(t, theirs), authority(t, liar)); err != nil {
		t.Fatal(err)
	}
	if _, err := registers(t, p, liar, controlplanetest.Proxy); err == nil {
		t.Error("a partner's authority made a proxy of ours")
	}
	if !admitted(proxy) {
		t.Error("it is not admitted any more")
	}

	if err := p.Issuer.Federate(partner); err != nil { // nobody vouches for it any more
		t.Fatal(err)
	}
	eventually(t, "it is kept out", func() bool { _, err := registers(t, p, theirs, proxy); return err != nil })
	if stays() == nil {
		t.Error("a stream of it goes on")
	}
}
