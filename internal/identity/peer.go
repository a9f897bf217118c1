package identity

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// PeerID names the client of a connection that ServerConfig or ListenerConfig
// accepted. Only the verified leaf counts: exactly one URI name, which ParseID
// accepts, no authority over others, still valid now.
//
// It fails with ErrNoCertificate when there is no TLS or no client certificate, and
// with ErrPeer for everything else. What it trusts is the chain that the handshake
// verified: it has no meaning for a connection accepted with another configuration,
// and fails on the client's side of one, where ClientConfig has asked its Authorizer.
func PeerID(state *tls.ConnectionState) (ID, error) {
	if state == nil || len(state.PeerCertificates) == 0 {
		return "", ErrNoCertificate
	}
	leaf, now := state.PeerCertificates[0], time.Now()
	switch {
	case !state.HandshakeComplete || !verified(state.VerifiedChains, leaf):
		return "", fmt.Errorf("%w: certificate is not verified", ErrPeer)
	case now.Before(leaf.NotBefore):
		return "", fmt.Errorf("%w: not valid before %s", ErrPeer, leaf.NotBefore.Format(time.RFC3339))
	case now.After(leaf.NotAfter):
		return "", fmt.Errorf("%w: valid until %s", ErrPeer, leaf.NotAfter.Format(time.RFC3339))
	}
	return leafID(leaf)
}

// IsSVID reports whether a certificate claims to be an X.509-SVID: one of its
// names has the scheme of SPIFFE IDs. It then is one or nothing, whoever has
// signed it.
func IsSVID(leaf *x509.Certificate) bool {
	return slices.ContainsFunc(leaf.URIs, func(u *url.URL) bool { return strings.EqualFold(u.Scheme, "spiffe") })
}

func verified(chains [][]*x509.Certificate, leaf *x509.Certificate) bool {
	for _, chain := range chains {
		if len(chain) > 0 && chain[0].Equal(leaf) {
			return true
		}
	}
	return false
}

// leafID reads the ID of a leaf that was verified already.
func leafID(leaf *x509.Certificate) (ID, error) {
	if leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return "", fmt.Errorf("%w: certificate is an authority, not a workload", ErrPeer)
	}
	// RFC 8446 §4.4.2.2 and the SPIFFE X.509-SVID specification §4.3 ask for it; no
	// library checks it.
	if leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return "", fmt.Errorf("%w: the certificate's key is not for signatures", ErrPeer)
	}
	raw, err := x509svid.IDFromCert(leaf)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrPeer, err)
	}
	id, err := ParseID(raw.String())
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrPeer, err)
	}
	return id, nil
}
