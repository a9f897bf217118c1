package authn

import (
	"crypto/sha256"
	"crypto/subtle"
	"slices"
	"time"

	"github.com/sallyport/sallyport/internal/apikey"
	"github.com/sallyport/sallyport/internal/policy"
)

// HeaderAPIKey is the field that API keys are sent in.
const HeaderAPIKey = "X-Api-Key" //nolint:gosec // a name, no credential

// APIKey is an ApiKey as a snapshot has it.
type APIKey struct {
	Namespace, Name string

	Owner          string // namespace/name when empty
	Scopes, Groups []string
	Secrets        []APIKeySecret
}

// APIKeySecret is one of the keys that an APIKey stands for.
type APIKeySecret struct {
	ID        string            // no other of the namespace has it
	Digest    [sha256.Size]byte // of the key's text
	CreatedAt time.Time
	NotAfter  time.Time // never when zero
}

// apiKeys finds whom a key proves. It is never changed.
type apiKeys map[apiKeyID]*knownKey

type apiKeyID struct{ namespace, id string }

type knownKey struct {
	digest    [sha256.Size]byte
	principal *policy.Principal
}

// WithAPIKeys returns an Authenticator that knows these API keys, and no others,
// beside the providers of a.
func (a *Authenticator) WithAPIKeys(keys []APIKey) *Authenticator {
	known := make(apiKeys)
	for _, k := range keys {
		name := k.Namespace + "/" + k.Name
		for _, s := range k.Secrets {
			known[apiKeyID{k.Namespace, s.ID}] = &knownKey{s.Digest, &policy.Principal{
				Kind: policy.Key, ID: or(k.Owner, name), KeyName: name, KeyID: s.ID,
				Scopes: slices.Clone(k.Scopes), Groups: slices.Clone(k.Groups),
				AuthenticatedBy: byAPIKey, IssuedAt: s.CreatedAt, Expires: s.NotAfter,
			}}
		}
	}
	next := *a
	next.apiKeys = known
	return &next
}

// prove returns whom the only value of the field proves in a namespace. What
// is unknown takes the way of what is wrong, so that neither the answer nor its
// time tells which IDs there are; the rest is told to those who have the key.
func (k apiKeys) prove(values []string, namespace string, now time.Time) (*policy.Principal, Reason) {
	if len(values) == 0 {
		return nil, CredentialsMissing
	}
	id, ok := apikey.Parse(values[0])
	if !ok || len(values) > 1 {
		return nil, APIKeyMalformed
	}
	known, found := k[apiKeyID{namespace, id}]
	if !found {
		known = &nobodysKey
	}
	digest := apikey.Digest(values[0])
	same := subtle.ConstantTimeCompare(digest[:], known.digest[:]) == 1
	switch {
	case !same || !found:
		return nil, APIKeyInvalid
	case ended(known.principal.Expires, now):
		return nil, APIKeyExpired
	}
	return known.principal, ""
}

// nobodysKey is compared with what is unknown.
var nobodysKey knownKey

// ended reports whether now is not before the end of something; zero is none.
func ended(end, now time.Time) bool { return !end.IsZero() && !now.Before(end) }
