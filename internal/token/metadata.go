package token

import (
	"errors"
	"fmt"
)

// ParseMetadata reads the metadata that an issuer publishes (RFC 8414 §3.2,
// OpenID Connect Discovery 1.0 §4.2) and returns its jwks_uri, which is any
// text. Metadata of another issuer, compared byte by byte, are an error: whoever
// can write somewhere below an issuer's host must not become it.
func ParseMetadata(document []byte, issuer string) (jwksURI string, err error) {
	if len(document) > MaxKeySetSize {
		return "", fmt.Errorf("parse metadata: longer than %d bytes", MaxKeySetSize)
	}
	object, err := decodeObject(document)
	if err != nil {
		return "", fmt.Errorf("parse metadata: %w", err)
	}
	if object["issuer"] != issuer {
		return "", errors.New("parse metadata: they are of another issuer")
	}
	jwksURI, _ = object["jwks_uri"].(string)
	if jwksURI == "" {
		return "", errors.New("parse metadata: no jwks_uri")
	}
	return jwksURI, nil
}
