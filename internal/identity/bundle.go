package identity

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sallyport/sallyport/internal/token"
)

// maxBundle bounds a bundle, wherever it comes from, in bytes.
const maxBundle = 1 << 20

// bundle is what is of use in the bundle of one trust domain. It is never changed.
type bundle struct {
	x509 *x509bundle.Bundle // may be empty
	keys *token.KeySet      // of JWT-SVIDs, nil for none
	flaw error              // why there are none in spite of what it says

	sequence *uint64       // nil when it has none
	hint     time.Duration // when it wants to be fetched again; 0 when it does not say
}

// equal reports whether both make us trust the same.
func (b *bundle) equal(other *bundle) bool {
	return b != nil && other != nil && b.x509.Equal(other.x509) && b.keys.Equal(other.keys)
}

// parseBundle reads a SPIFFE bundle, or certificates in PEM.
func parseBundle(name TrustDomain, text []byte) (*bundle, error) {
	if _, err := ParseTrustDomain(string(name)); err != nil {
		return nil, err
	}
	td, err := spiffeid.TrustDomainFromString(string(name))
	if err != nil {
		return nil, err
	}
	b := &bundle{}
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		err = b.document(td, text)
	} else {
		b.x509, err = x509bundle.Parse(td, text)
	}
	if err != nil {
		return nil, err
	}
	if b.x509.Empty() && b.keys == nil {
		return nil, errors.Join(errors.New("there is no authority"), b.flaw)
	}
	return b, ofDomain(td, b.x509.X509Authorities())
}

func (b *bundle) document(td spiffeid.TrustDomain, text []byte) error {
	whole, err := spiffebundle.Parse(td, text)
	if err != nil {
		return err
	}
	b.x509 = whole.X509Bundle()
	b.keys, b.flaw = jwtKeys(whole.JWTBundle())
	b.hint, _ = whole.RefreshHint()
	if n, ok := whole.SequenceNumber(); ok {
		b.sequence = &n
	}
	return nil
}

// jwtKeys returns the keys of a bundle, nil when it has none.
func jwtKeys(b *jwtbundle.Bundle) (*token.KeySet, error) {
	if b.Empty() {
		return nil, nil
	}
	text, err := b.Marshal()
	if err != nil {
		return nil, err
	}
	return token.ParseKeySet(text)
}

// ofDomain refuses authorities that say that they are another trust domain's: a
// bundle itself does not tell whose it is (X509-SVID section 3.2).
func ofDomain(td spiffeid.TrustDomain, authorities []*x509.Certificate) error {
	for _, c := range authorities {
		for _, u := range c.URIs {
			if strings.EqualFold(u.Scheme, "spiffe") && u.Host != td.Name() {
				return fmt.Errorf("an authority is of the trust domain %q", u.Host)
			}
		}
	}
	return nil
}

func readBundle(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readBounded(f, name)
}

// readBounded reads a bundle from what is called name.
func readBounded(from io.Reader, name string) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(from, maxBundle+1))
	if err == nil && len(text) > maxBundle {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxBundle)
	}
	return text, err
}
