package issuer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net/url"
	"time"

	"github.com/sallyport/sallyport/internal/identity"
)

// authorityTTL is longer than any demo runs.
const authorityTTL = 365 * 24 * time.Hour

// backdate forgives clocks that are a little behind ours.
const backdate = 10 * time.Second

// organization marks every certificate as one of ours. There is no common name:
// some servers read rights out of it.
const organization = "Sallyport development"

// authority signs certificates with a key that never leaves this process.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// svidAuthority is the signing certificate of a trust domain (X509-SVID section 3.2).
func svidAuthority(td identity.TrustDomain) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{Organization: []string{organization}, OrganizationalUnit: []string{"SPIFFE"}},
		URIs:    []*url.URL{{Scheme: "spiffe", Host: string(td)}},
	}
}

// serverAuthority may end up in somebody's trust store: it is good for nothing but
// server certificates.
func serverAuthority() *x509.Certificate {
	return &x509.Certificate{
		Subject:     pkix.Name{Organization: []string{organization}, OrganizationalUnit: []string{"HTTPS"}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
}

func newAuthority(template *x509.Certificate, now time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make authority's key: %w", err)
	}
	template.NotBefore = now.Add(-backdate)
	template.NotAfter = now.Add(authorityTTL)
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.MaxPathLenZero = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	return &authority{cert: cert, key: key}, nil
}

// sign completes template to a leaf certificate with a key of its own.
func (a *authority) sign(template *x509.Certificate, now time.Time, ttl time.Duration) (tls.Certificate, error) {
	template.NotBefore = now.Add(-backdate)
	template.NotAfter = now.Add(ttl)
	if ttl <= 0 || template.NotAfter.After(a.cert.NotAfter) {
		return tls.Certificate{}, fmt.Errorf("sign certificate: lifetime %s is not within the authority's", ttl)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("sign certificate: make key: %w", err)
	}
	template.Subject = pkix.Name{Organization: []string{organization}}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("sign certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("sign certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}
