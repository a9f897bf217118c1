package authority

import (
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Subject says which name of a certificate tells whose it is.
type Subject uint8

// The subjects. The zero value is no name at all.
const (
	_ Subject = iota
	DNSName
	EmailAddress
	URI
	CommonName
)

// maxSubject bounds a name, in bytes.
const maxSubject = 256

var commonName = asn1.ObjectIdentifier{2, 5, 4, 3}

// of returns the name of a leaf that counts: the only one of its kind, among
// those that patterns match.
func (s Subject) of(leaf *x509.Certificate, patterns []string) (string, bool) {
	var found []string
	for _, name := range s.all(leaf) {
		if len(patterns) == 0 || slices.ContainsFunc(patterns, func(p string) bool { return s.Matches(p, name) }) {
			found = append(found, name)
		}
	}
	if len(found) != 1 || !isSubject(found[0]) {
		return "", false
	}
	return found[0], true
}

func (s Subject) all(leaf *x509.Certificate) (names []string) {
	switch s {
	case DNSName:
		for _, n := range leaf.DNSNames {
			names = append(names, strings.ToLower(n))
		}
	case EmailAddress:
		for _, n := range leaf.EmailAddresses {
			names = append(names, lowerDomain(n))
		}
	case URI:
		for _, u := range leaf.URIs {
			names = append(names, u.String())
		}
	case CommonName:
		for _, n := range leaf.Subject.Names {
			if text, ok := n.Value.(string); ok && n.Type.Equal(commonName) {
				names = append(names, text)
			}
		}
	}
	return names
}

// lowerDomain leaves the local part as it is, whose case may matter.
func lowerDomain(address string) string {
	at := strings.LastIndexByte(address, '@') + 1
	return address[:at] + strings.ToLower(address[at:])
}

// Matches reports whether a pattern names a certificate's name. It is that name,
// or of DNS names "*.example.com" for one label, and of e-mail addresses
// "*@example.com" for everybody there.
func (s Subject) Matches(pattern, name string) bool {
	rest, wild := strings.CutPrefix(pattern, "*")
	first, ok := strings.CutSuffix(name, rest)
	switch {
	case !wild || s != DNSName && s != EmailAddress:
		return pattern == name
	case s == DNSName:
		return ok && first != "" && strings.HasPrefix(rest, ".") && !strings.Contains(first, ".")
	}
	return ok && first != "" && strings.HasPrefix(rest, "@") && !strings.Contains(first, "@")
}

// isSubject refuses names that stand for many, that pass for a SPIFFE ID, or
// that no record can show.
func isSubject(name string) bool {
	return name != "" && len(name) <= maxSubject && utf8.ValidString(name) && !strings.Contains(name, "*") &&
		!strings.HasPrefix(strings.ToLower(name), "spiffe:") && !strings.ContainsFunc(name, unicode.IsControl)
}
