package identity

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
)

// ServerConfig is for listeners of our own: mutual TLS 1.3, with our SVID, for
// peers whose SVID verifies and whom authorize lets in. Without a valid SVID of our
// own every handshake fails.
//
// Whoever passes the handshake can be named with PeerID. The configuration offers
// HTTP/2 and HTTP/1.1; NextProtos may be changed before it is first used, after
// that nothing may.
//
// All checks run in VerifyConnection, because that is the only callback which also
// runs on a resumed session; and sessions are not resumed, because nothing here
// needs it.
func ServerConfig(src *Source, authorize Authorizer) *tls.Config {
	cfg := src.serverConfig(nil)
	cfg.MinVersion = tls.VersionTLS13
	cfg.ClientAuth = tls.RequireAndVerifyClientCert
	cfg.GetCertificate = src.serverCertificate
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		return src.verify(state, authorize)
	}
	return cfg
}

// Recheck returns why the peer of a connection that ServerConfig has let in would not
// be let in now: its SVID has expired, or its authority is not trusted any more.
// Long connections outlive what was known when they began.
func Recheck(src *Source, state *tls.ConnectionState, authorize Authorizer) error {
	return src.verify(*state, authorize)
}

// ListenerConfig is for listeners that strangers reach: TLS 1.2 or 1.3, with the
// certificates that certificate finds, or our SVID when it is nil. A client may
// present an SVID of any trust domain we have a bundle of, and is then known by
// PeerID; one that presents nothing is let through with PeerID failing as
// ErrNoCertificate; one that presents anything else fails the handshake. An expired
// SVID of our own does not keep clients from being verified.
//
// What ServerConfig says of callbacks, resumption and NextProtos holds here too.
func ListenerConfig(
	src *Source, certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error),
) *tls.Config {
	return ListenerConfigWith(src, certificate, nil)
}

// Vouchers let clients pass the handshake whose certificates are no SVIDs. They
// are asked for the moment, and must be safe for concurrent use.
type Vouchers interface {
	// Roots are the authorities that clients are told of, in an order that stays
	// the same while they do.
	Roots() []*x509.Certificate
	// Vouch returns nil for a client's certificate, leaf first, that is none of an
	// SVID and verifies at now.
	Vouch(chain []*x509.Certificate, now time.Time) error
}

// ListenerConfigWith is ListenerConfig for listeners that strangers reach with
// other certificates as well, for which the Vouchers of the moment answer; nil
// answers for none. PeerID fails for them, as for whatever is no SVID: IsSVID
// says which of the two a leaf is, and it is never both.
func ListenerConfigWith(
	src *Source, certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error), others func() Vouchers,
) *tls.Config {
	if certificate == nil {
		certificate = src.serverCertificate
	}
	cfg := src.serverConfig(others)
	cfg.MinVersion = tls.VersionTLS12
	cfg.CipherSuites = tls12Suites()
	cfg.ClientAuth = tls.VerifyClientCertIfGiven
	cfg.GetCertificate = certificate
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		switch {
		case len(state.PeerCertificates) == 0:
			return nil
		case others == nil || IsSVID(state.PeerCertificates[0]):
			return src.verify(state, anyone)
		}
		if err := others().Vouch(state.PeerCertificates, src.cfg.Now()); err != nil {
			return fmt.Errorf("%w: %w", ErrPeer, err)
		}
		return nil
	}
	return cfg
}

// ClientConfig is for connections of our own, to the control plane and to SPIFFE
// upstreams: mutual TLS 1.3, with our SVID, to a server whose SVID verifies and
// whom expected accepts. The server's host name plays no part. While our own SVID is
// missing or expired, handshakes fail with ErrNoIdentity or ErrExpired; a server
// that is somebody else fails them with ErrPeer. A server that gives up first leaves
// only its alert: who needs our own reason in any case asks SVID before dialing.
//
// It fits http.Transport.TLSClientConfig; for HTTP/2 set ForceAttemptHTTP2 there.
func ClientConfig(src *Source, expected Authorizer) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		Time:       src.cfg.Now,
		// The standard check is of host names and the system's roots. Ours is
		// in VerifyConnection, which crypto/tls calls in spite of this.
		InsecureSkipVerify: true, //nolint:gosec // see above
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return src.certificate()
		},
		VerifyConnection: func(state tls.ConnectionState) error {
			// A server that asks for no certificate must not hide from us
			// that we have none.
			if _, err := src.certificate(); err != nil {
				return err
			}
			return src.verify(state, expected)
		},
	}
}

// serverConfig brings the bundles of the moment into each handshake. The chains
// that crypto/tls builds from all authorities together only serve PeerID to tell a
// verified connection; that an authority spoke for its own trust domain is checked
// by verify.
func (s *Source) serverConfig(others func() Vouchers) *tls.Config {
	known := &rootsOfAll{source: s, others: others}
	cfg := &tls.Config{
		Time:                   s.cfg.Now,
		NextProtos:             []string{"h2", "http/1.1"},
		SessionTicketsDisabled: true,
		// Empty, never nil: nil would mean the system's roots.
		ClientCAs: x509.NewCertPool(),
	}
	cfg.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		current := cfg.Clone()
		current.ClientCAs = known.pool()
		return current, nil
	}
	return cfg
}

// rootsOfAll keeps the union of what the Source and the Vouchers know.
type rootsOfAll struct {
	source *Source
	others func() Vouchers

	last atomic.Pointer[union]
}

type union struct {
	of    *x509.CertPool // of the Source
	roots []*x509.Certificate
	pool  *x509.CertPool
}

func (r *rootsOfAll) pool() *x509.CertPool {
	own := r.source.material.Load().authorities
	if r.others == nil {
		return own
	}
	roots := r.others().Roots()
	if last := r.last.Load(); last != nil && last.of == own && slices.Equal(last.roots, roots) {
		return last.pool
	}
	all := own.Clone()
	for _, c := range roots {
		all.AddCert(c)
	}
	r.last.Store(&union{own, roots, all})
	return all
}

func (s *Source) certificate() (*tls.Certificate, error) {
	svid, err := s.SVID()
	if err != nil {
		return nil, err
	}
	return svid.Certificate, nil
}

func (s *Source) serverCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return s.certificate()
}

// verify is the whole check of a peer, with the bundles and the time of the moment.
func (s *Source) verify(state tls.ConnectionState, authorize Authorizer) error {
	return s.verifyBy(s.material.Load().bundles, state, authorize)
}

func (s *Source) verifyBy(bundles x509bundle.Source, state tls.ConnectionState, authorize Authorizer) error {
	if len(state.PeerCertificates) == 0 {
		return ErrNoCertificate
	}
	id, err := verifyChain(bundles, state.PeerCertificates, s.cfg.Now())
	if err != nil {
		return err
	}
	if err := authorize.authorize(id); err != nil {
		return fmt.Errorf("%w: %w", ErrPeer, err)
	}
	return nil
}

// anyone leaves the decision to whoever reads PeerID.
func anyone(ID) error { return nil }

// tls12Suites leaves TLS 1.2 only forward secrecy and authenticated encryption.
func tls12Suites() []uint16 {
	return []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
		tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	}
}
