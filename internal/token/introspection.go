package token

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// MaxIntrospectionSize is what a caller has to read at most of an answer.
const MaxIntrospectionSize = 64 << 10

// LooksOpaque says whether raw is nothing that Parse could ever take: not three
// segments, or no header in front. Only its issuer can tell what it is worth. A
// JWT that is encrypted is opaque.
func LooksOpaque(raw string) bool {
	header, _, _ := strings.Cut(raw, ".")
	b, ok := decodeSegment(header)
	return strings.Count(raw, ".") != 2 || !ok || len(b) == 0 || b[0] != '{' || !json.Valid(b)
}

// ReadIntrospection reads what an introspection endpoint says of a token
// (RFC 7662 §2.2), and holds it against the rules as the claims of a JWT;
// Algorithms and Types do not apply. Only iss may be missing, since the endpoint
// is the issuer's own.
//
// The error is an *Error when the answer says that the token is not good here,
// another when it is no such answer.
func ReadIntrospection(answer []byte, rules Rules, now time.Time) (*Claims, error) {
	claims, err := activeClaims(answer)
	if err != nil {
		return nil, err
	}
	if _, given := claims["iss"]; !given {
		claims["iss"] = rules.Issuer
	}
	return rules.check(claims, now)
}

// ReadActive reads no more of the answer than whether the token is active, for
// one whose claims are verified in another way. Errors are as for
// ReadIntrospection.
func ReadActive(answer []byte) error {
	_, err := activeClaims(answer)
	return err
}

func activeClaims(answer []byte) (map[string]any, error) {
	if len(answer) > MaxIntrospectionSize {
		return nil, fmt.Errorf("read introspection: longer than %d bytes", MaxIntrospectionSize)
	}
	claims, err := decodeObject(answer)
	if err != nil {
		return nil, fmt.Errorf("read introspection: %w", err)
	}
	active, ok := claims["active"].(bool)
	if !ok {
		return nil, errors.New("read introspection: active is missing")
	}
	if !active {
		return nil, refuse(Inactive)
	}
	delete(claims, "active")
	return claims, nil
}
