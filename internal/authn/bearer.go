package authn

import (
	"strings"

	"github.com/sallyport/sallyport/internal/token"
)

// bearer returns what follows "Bearer" or "DPoP" in the only Authorization value
// (RFC 6750 §2.1, RFC 9449 §7.1). Tokens in bodies and queries are not looked
// for. Whether it is a token at all is left to isToken: one that was verified
// before is.
func bearer(values []string) (raw string, dpop bool, reason Reason) {
	if len(values) != 1 {
		return "", false, CredentialsMalformed
	}
	scheme, rest, _ := strings.Cut(values[0], " ")
	if scheme == "" {
		return "", false, CredentialsMalformed
	}
	if dpop = strings.EqualFold(scheme, "DPoP"); !dpop && !strings.EqualFold(scheme, "Bearer") {
		return "", false, SchemeUnsupported
	}
	raw = strings.TrimLeft(rest, " ")
	if len(raw) > token.MaxSize {
		return "", dpop, tokenPrefix + Reason(token.Malformed)
	}
	return raw, dpop, ""
}

// isToken checks the b64token of RFC 6750 §2.1. A comma is no part of it, so
// that two values joined by a proxy are refused too.
func isToken(s string) bool {
	s = strings.TrimRight(s, "=")
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && strings.IndexByte("-._~+/", c) < 0 {
			return false
		}
	}
	return s != ""
}
