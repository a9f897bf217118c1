package resource

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/sallyport/sallyport/internal/apikey"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

func (d *decoder) apiKey(s *resourcev1.ApiKey) {
	d.checked(atSpec().to("owner"), s.GetOwner(), checkOwner)
	d.each("scopes", s.GetScopes(), checkScope)
	d.each("groups", s.GetGroups(), checkText)
	seen := make(map[string]bool, len(s.GetSecrets()))
	for i, secret := range s.GetSecrets() {
		at := atSpec().to("secrets").element(i)
		d.checked(at.to("id"), secret.GetId(), checkKeyID)
		d.checked(at.to("sha256"), secret.GetSha256(), checkSHA256)
		if seen[secret.GetId()] {
			d.follow(at.to("id").String(), ReasonInvalidValue, "another secret has this ID")
		}
		seen[secret.GetId()] = true
	}
}

// checkOwner leaves SPIFFE IDs to those who can prove them.
func checkOwner(text string) error {
	if strings.HasPrefix(strings.ToLower(text), "spiffe:") {
		return errors.New("an API key does not prove a SPIFFE ID")
	}
	return checkText(text)
}

// checkScope accepts what a token could say as well (RFC 6749, section 3.3).
func checkScope(text string) error {
	if strings.ContainsRune(text, ' ') {
		return fmt.Errorf("%s: a scope has no spaces", quote(text))
	}
	return checkText(text)
}

func checkKeyID(text string) error {
	if !apikey.IsID(text) {
		return fmt.Errorf("%s is no ID of a key: 12 letters and digits", quote(text))
	}
	return nil
}

func checkSHA256(text string) error {
	sum, err := hex.DecodeString(text)
	if err != nil || len(sum) != 32 || text != strings.ToLower(text) {
		return fmt.Errorf("%s is no SHA-256: 64 digits and letters a to f", quote(text))
	}
	return nil
}
