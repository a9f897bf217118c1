package resource

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/sallyport/sallyport/internal/request"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

func (d *decoder) x509(at *place, s *resourcev1.X509) {
	switch of := s.GetAuthorities().(type) {
	case *resourcev1.X509_CaFile:
		d.checked(at.to("caFile"), of.CaFile, checkFile)
	case *resourcev1.X509_Ca:
		d.checked(at.to("ca"), of.Ca, checkAuthorities)
	}
	if s.GetCrlFile() != "" {
		d.checked(at.to("crlFile"), s.GetCrlFile(), checkFile)
	}
	for i, name := range s.GetNames() {
		d.checked(at.to("names").element(i), name, func(name string) error { return checkName(s.GetSubject(), name) })
	}
}

// checkAuthorities accepts certificates of authorities in PEM, and nothing else.
func checkAuthorities(text string) error {
	rest, n := []byte(text), 0
	for ; len(strings.TrimSpace(string(rest))) > 0; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return errors.New("is not certificates in PEM alone")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		switch {
		case err != nil:
			return fmt.Errorf("certificate %d cannot be read: %w", n+1, err)
		case !c.IsCA || !c.BasicConstraintsValid:
			return fmt.Errorf("certificate %d is not an authority's", n+1)
		}
	}
	return nil
}

// checkName accepts what a certificate may have as a name, or a wildcard at the
// begin of it where there is one.
func checkName(subject resourcev1.X509Subject, name string) error {
	rest := name
	switch subject {
	case resourcev1.X509Subject_X509_SUBJECT_SAN_DNS:
		rest = strings.TrimPrefix(name, "*.")
		if !request.IsHost(rest) {
			return fmt.Errorf("%s is neither a DNS name in lower case nor *. before one", quote(name))
		}
	case resourcev1.X509Subject_X509_SUBJECT_SAN_EMAIL:
		local, domain, ok := strings.Cut(name, "@")
		if !ok || local == "" || !request.IsHost(domain) {
			return fmt.Errorf("%s is no e-mail address with its domain in lower case, nor *@domain", quote(name))
		}
		rest = strings.TrimPrefix(local, "*")
		if rest != "" && rest != local {
			rest = "*"
		}
	}
	switch {
	case strings.Contains(rest, "*"):
		return fmt.Errorf("%s: a wildcard stands for the first label of a DNS name, or for all before the @", quote(name))
	case strings.HasPrefix(strings.ToLower(name), "spiffe:"):
		return errors.New("a SPIFFE ID is proven by an X.509-SVID: use clientCertificates")
	}
	return checkText(name)
}
