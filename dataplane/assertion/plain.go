package assertion

import (
	"strings"

	"github.com/sallyport/sallyport/internal/policy"
)

// Field is a header field that says one thing of a principal in plain text.
type Field uint8

// The fields.
const (
	Subject Field = iota + 1
	Issuer
	Kind
	Groups
	SPIFFEID
	Email
)

// Name returns the canonical name of the field, or nothing for one that is not
// known.
func (f Field) Name() string {
	switch f {
	case Subject:
		return "Sallyport-Subject"
	case Issuer:
		return "Sallyport-Issuer"
	case Kind:
		return "Sallyport-Kind"
	case Groups:
		return "Sallyport-Groups"
	case SPIFFEID:
		return "Sallyport-Spiffe-Id"
	case Email:
		return "Sallyport-Email"
	}
	return ""
}

// Value returns what the field says of p; nothing when there is nothing to say.
// Bytes that could be taken for something else in a header are escaped as in
// URLs: all but visible ASCII, the percent sign and, as groups stand in a list,
// the comma.
func (f Field) Value(p *policy.Principal) string {
	switch f {
	case Subject:
		return escape(p.ID)
	case Issuer:
		return escape(p.Issuer)
	case Kind:
		return p.Kind.String()
	case Groups:
		escaped := make([]string, len(p.Groups))
		for i, g := range p.Groups {
			escaped[i] = escape(g)
		}
		return strings.Join(escaped, ",")
	case SPIFFEID:
		return escape(p.SPIFFEID)
	case Email:
		return escape(email(p.Claims))
	}
	return ""
}

// email is the address, unless its issuer says that nobody has verified it
// (OpenID Connect Core §5.1).
func email(claims map[string]any) string {
	if said, given := claims["email_verified"]; given {
		if verified, _ := said.(bool); !verified {
			return ""
		}
	}
	address, _ := claims["email"].(string)
	return address
}

func escape(s string) string {
	plain := func(c byte) bool { return c > ' ' && c < 0x7f && c != '%' && c != ',' }
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; plain(c) {
			b.WriteByte(c)
		} else {
			const upper = "0123456789ABCDEF"
			b.Write([]byte{'%', upper[c>>4], upper[c&0xf]})
		}
	}
	return b.String()
}
