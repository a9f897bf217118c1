package compile

import (
	"fmt"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/token"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// IdentityProvider says what is wrong with an identity provider that package
// resource has accepted: keys of its own that verify nothing, or that no issuer
// may publish.
func IdentityProvider(key resource.Key, spec *resourcev1.IdentityProvider) []resource.Problem {
	err := checkKeys(spec)
	if err == nil {
		return nil
	}
	return []resource.Problem{{
		Resource: key.String(), Field: "spec.jwks", Reason: resource.ReasonInvalidValue, Message: err.Error(),
	}}
}

func checkKeys(spec *resourcev1.IdentityProvider) error {
	if spec.GetJwks() == "" {
		return nil
	}
	if _, err := token.ParseKeySet([]byte(spec.GetJwks())); err != nil {
		return fmt.Errorf("jwks cannot be used: %w", err)
	}
	return nil
}
