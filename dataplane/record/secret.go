package record

import (
	"slices"
	"strings"

	"github.com/sallyport/sallyport/internal/authn"
)

// secret are fields and parameters that bear credentials, in lower case. What has one
// of the words in its name is taken for one.
var secret = struct{ names, words []string }{
	names: []string{
		"authorization", "cookie", "set-cookie", "proxy-authorization", strings.ToLower(authn.HeaderAPIKey), strings.ToLower(authn.HeaderDevice),
		"dpop", "code", "state",
	},
	words: []string{"token", "secret", "passw", "api-key", "apikey", "api_key", "credential", "signature", "assertion"},
}

// IsSecret reports whether a field of a header, or a parameter, of that name may bear a
// credential: its value is never recorded.
func IsSecret(name string) bool {
	name = strings.ToLower(name)
	return slices.Contains(secret.names, name) || slices.ContainsFunc(secret.words, func(w string) bool { return strings.Contains(name, w) })
}
