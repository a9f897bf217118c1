package resource

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

func (d *decoder) trustDomain(s *resourcev1.TrustDomain) {
	d.checked(atSpec().to("trustDomain"), s.GetTrustDomain(), checkTrustDomain)
	switch of := s.GetSource().(type) {
	case *resourcev1.TrustDomain_Bundle:
		d.checked(atSpec().to("bundle"), of.Bundle, checkBundle)
	case *resourcev1.TrustDomain_BundleFile:
		d.checked(atSpec().to("bundleFile"), of.BundleFile, checkFile)
	case *resourcev1.TrustDomain_BundleEndpoint:
		d.bundleEndpoint(atSpec().to("bundleEndpoint"), of.BundleEndpoint)
	}
}

func (d *decoder) bundleEndpoint(at *place, e *resourcev1.BundleEndpoint) {
	d.given(at.to("url"), e.GetUrl(), checkBundleURL)
	if of := e.GetSpiffe(); of != nil {
		d.given(at.to("spiffe").to("endpointSpiffeId"), of.GetEndpointSpiffeId(), checkOneSPIFFE)
		d.given(at.to("spiffe").to("bootstrap"), of.GetBootstrap(), checkBundle)
	}
}

// checkBundleURL accepts https alone, to the machine itself as well: SPIFFE
// Federation (section 5.2) knows nothing else.
func checkBundleURL(text string) error {
	if strings.HasPrefix(text, "http:") {
		return errors.New("a bundle endpoint is asked over https")
	}
	return checkURL(text)
}

func checkTrustDomain(name string) error {
	if strings.ContainsAny(name, "*/:") || checkSPIFFE("spiffe://"+name+"/workload") != nil {
		return fmt.Errorf("%s is no trust domain: a bare name in lower case, such as partner.example", quote(name))
	}
	return nil
}

// checkBundle looks whether it is a bundle by its form; what is in a JWKS is for
// those to understand who know SPIFFE.
func checkBundle(text string) error {
	if !strings.HasPrefix(strings.TrimSpace(text), "{") {
		return checkAuthorities(text)
	}
	var bundle struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal([]byte(text), &bundle); err != nil {
		return fmt.Errorf("is neither PEM nor JSON: %w", err)
	}
	if len(bundle.Keys) == 0 {
		return errors.New("has no keys")
	}
	return nil
}
