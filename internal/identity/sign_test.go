package identity_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/identity"
)

// signs signs with a certificate as the workload does that has it.
func signs(t *testing.T, cert tls.Certificate, message string) []byte {
	t.Helper()
	signature, err := identity.SVID{Certificate: &cert}.Sign([]byte(message))
	if err != nil {
		t.Fatal(err)
	}
	return signature
}

// withKey is a faultless SVID of a rogue for another kind of key.
func (r *rogue) withKey(t *testing.T, key crypto.Signer, spoil func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	template := r.leaf(t, spoil, string(proxy)).Leaf
	der, err := x509.CreateCertificate(rand.Reader, template, r.cert, key.Public(), r.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// trusting is a Source that takes a rogue for the authority of its trust domain, too.
func trusting(t *testing.T, r *rogue, now func() time.Time) *identity.Source {
	t.Helper()
	const ours identity.TrustDomain = "ours.example"
	is := newIssuer(t, ours, nil)
	if err := is.Federate(domain, r.cert); err != nil {
		t.Fatal(err)
	}
	path := socket(t)
	serve(t, is, "spiffe://ours.example/control", path)
	src := source(t, path, identity.Config{Now: now})
	ready(t, src)
	return src
}

// What a workload signs with its SVID names it to whoever trusts its trust domain, be
// that a federated one, whatever kind of key it has.
func TestSigned(t *testing.T) {
	t.Parallel()
	r := newRogue(t)
	src := trusting(t, r, nil)
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	large, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, cert := range map[string]tls.Certificate{
		"ECDSA on P-256": r.leaf(t, nil, string(proxy)),
		"ECDSA on P-384": r.withKey(t, other, nil),
		"RSA":            r.withKey(t, large, nil),
		"Ed25519":        r.withKey(t, edwards, nil),
	} {
		signature := signs(t, cert, "a message")
		if id, err := src.Signed(cert.Certificate[0], []byte("a message"), signature); err != nil || id != proxy {
			t.Errorf("%s: %q, %v", name, id, err)
		}
		if id, err := src.Signed(cert.Certificate[0], []byte("a massage"), signature); !errors.Is(err, identity.ErrPeer) {
			t.Errorf("%s, another message: %q, %v", name, id, err)
		}
	}
}

// Our own SVID signs, and its chain is what others need to verify that.
func TestSourcesSign(t *testing.T) {
	t.Parallel()
	is := newIssuer(t, domain, nil)
	one, two := identified(t, is, proxy), identified(t, is, control)
	svid, err := one.SVID()
	if err != nil {
		t.Fatal(err)
	}
	signature, err := svid.Sign([]byte("a message"))
	if err != nil {
		t.Fatal(err)
	}
	if id, err := two.Signed(svid.Chain(), []byte("a message"), signature); err != nil || id != proxy {
		t.Errorf("%q, %v", id, err)
	}
}

// Whatever a handshake would refuse has signed nothing.
func TestSignedByNobody(t *testing.T) {
	t.Parallel()
	r, stranger := newRogue(t), newRogue(t)
	src := trusting(t, r, nil)
	honest := r.leaf(t, nil, string(proxy))
	for name, c := range map[string]struct {
		cert  tls.Certificate
		chain []byte // that of cert when nil
		want  string
	}{
		"of an authority that is not trusted": {cert: stranger.leaf(t, nil, string(proxy)), want: "unknown authority"},
		"of a trust domain that is not":       {cert: r.leaf(t, nil, "spiffe://else.example/proxy"), want: "bundle"},
		"that names nobody":                   {cert: r.leaf(t, nil), want: "no URI SAN"},
		"that names two":                      {cert: r.leaf(t, nil, string(proxy), string(control)), want: "more than one URI SAN"},
		"that has expired": {cert: r.leaf(t, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(-2*time.Minute)
		}, string(proxy)), want: "expired"},
		"that is not valid yet": {cert: r.leaf(t, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(2*time.Minute), time.Now().Add(time.Hour)
		}, string(proxy)), want: "not yet valid"},
		"whose key is not for signatures": {cert: r.leaf(t, func(c *x509.Certificate) {
			c.KeyUsage = x509.KeyUsageKeyEncipherment
		}, string(proxy)), want: "not for signatures"},
		"that is an authority": {cert: r.leaf(t, func(c *x509.Certificate) {
			c.IsCA, c.KeyUsage = true, x509.KeyUsageDigitalSignature
		}, string(proxy)), want: "CA flag"},
		"of another process": {cert: honest, chain: r.leaf(t, nil, string(proxy)).Certificate[0], want: "signature"},
		"that is none":       {cert: honest, chain: []byte("certificate"), want: "parse"},
		"that is missing":    {cert: honest, chain: []byte{}, want: "0 certificates"},
		"of nine":            {cert: honest, chain: bytes.Repeat(honest.Certificate[0], 9), want: "9 certificates"},
		"that is too large":  {cert: honest, chain: make([]byte, identity.MaxChain+1), want: "at most"},
	} {
		if c.chain == nil {
			c.chain = slices.Concat(c.cert.Certificate...)
		}
		id, err := src.Signed(c.chain, []byte("a message"), signs(t, c.cert, "a message"))
		if !errors.Is(err, identity.ErrPeer) || !strings.Contains(err.Error(), c.want) || id != "" {
			t.Errorf("an svid %s: %q, %v", name, id, err)
		}
	}
}

// An SVID counts for a minute longer than in a handshake, and from a minute before, by
// the clock of who verifies.
func TestSignedWhen(t *testing.T) {
	t.Parallel()
	r, c := newRogue(t), &clock{}
	src := trusting(t, r, c.now)
	cert := r.leaf(t, nil, string(proxy)) // since a minute, for a minute
	signature := signs(t, cert, "a message")
	for _, step := range []struct {
		ahead time.Duration
		good  bool
	}{{-150 * time.Second, false}, {-90 * time.Second, true}, {0, true}, {90 * time.Second, true}, {150 * time.Second, false}} {
		c.ahead.Store(int64(step.ahead))
		if _, err := src.Signed(cert.Certificate[0], []byte("a message"), signature); (err == nil) != step.good {
			t.Errorf("after %s: %v", step.ahead, err)
		}
	}
}
