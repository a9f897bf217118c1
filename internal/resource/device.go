package resource

import (
	"encoding/base64"
	"fmt"

	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

func (d *decoder) device(s *resourcev1.Device) {
	match, at := s.GetMatch(), atSpec().to("match")
	for i, text := range match.GetCertificates() {
		d.checked(at.to("certificates").element(i), text, checkSHA256)
	}
	for i, text := range match.GetKeys() {
		d.checked(at.to("keys").element(i), text, checkThumbprint)
	}
	if match.GetSpiffeId() != "" {
		d.checked(at.to("spiffeId"), match.GetSpiffeId(), checkOneSPIFFE)
	}
	if by := match.GetCertified(); by != nil {
		d.checked(at.to("certified").to("issuer"), by.GetIssuer(), checkText)
		d.checked(at.to("certified").to("id"), by.GetId(), checkText)
	}
	d.checked(atSpec().to("os"), s.GetOs(), checkText)
	d.checked(atSpec().to("osVersion"), s.GetOsVersion(), checkText)
	d.checked(atSpec().to("owner"), s.GetOwner(), checkText)
}

// checkThumbprint accepts the one form of 32 bytes in base64url.
func checkThumbprint(text string) error {
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != 32 || len(text) != 43 {
		return fmt.Errorf("%s is no thumbprint: 43 characters of base64url", quote(text))
	}
	return nil
}
