package fleet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"

	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/identity/issuer"
)

// Identities gives the workloads of a fleet their SPIFFE identities. A fleet
// calls it while it starts, one call at a time.
type Identities interface {
	// Workload returns the absolute path of a socket that serves the Workload
	// API to w. It may be called before the workload runs.
	Workload(ctx context.Context, w Workload) (socket string, err error)
	// Certificate issues an X.509-SVID that nobody renews, for programs that
	// read files.
	Certificate(ctx context.Context, id identity.ID) (tls.Certificate, error)
}

// Workload is a process of a fleet.
type Workload struct {
	ID      identity.ID
	Name    string // short, and no other workload's
	Program string // the path of the executable that it runs
}

// development is the issuer of the fleet's own, with a socket for each workload.
type development struct {
	*issuer.Issuer
	fleet *Fleet
}

func (d development) Workload(_ context.Context, w Workload) (string, error) {
	socket := d.fleet.Path(w.Name + ".sock")
	endpoint, err := d.Listen(w.ID, socket, 0o600)
	if err != nil {
		return "", err
	}
	d.fleet.background(endpoint.Run)
	return socket, nil
}

func (d development) Certificate(_ context.Context, id identity.ID) (tls.Certificate, error) {
	return d.Issue(id, svidTTL)
}

// Federate has the workloads of a fleet that runs on the development issuer trust
// roots for the SVIDs of another trust domain, at once.
func (f *Fleet) Federate(td identity.TrustDomain, roots ...*x509.Certificate) error {
	return f.authority.Federate(td, roots...)
}

// startIssuers starts the token issuer and, unless others give identities, the
// SPIFFE issuer. The certificates that servers show to people are of the
// development issuer's authority in any case: they are no SVIDs.
func (f *Fleet) startIssuers(ctx context.Context) error {
	own, err := issuer.New(issuer.Config{
		DevelopmentOnly: true, TrustDomain: TrustDomain, TTL: svidTTL, Log: f.log,
	})
	if err != nil {
		return err
	}
	f.authority = own
	if f.identities == nil {
		f.identities = development{own, f}
	}
	if err := f.put("ca.pem", own.ServerCAPEM()); err != nil {
		return err
	}
	if f.Described.Client, err = f.certificate(ctx, BillingID, "billing"); err != nil {
		return err
	}
	if f.Described.Operator, err = f.certificate(ctx, OperatorID, "operator"); err != nil {
		return err
	}
	return f.startTokenIssuer()
}

func (f *Fleet) startTokenIssuer() error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	f.Described.TokenIssuer = "http://" + ln.Addr().String()
	if f.tokens, err = newTokenIssuer(f.Described.TokenIssuer); err != nil {
		return err
	}
	f.serve(ln, f.tokens.handler(), nil)
	return nil
}

// inside opens a Workload API socket for a workload of this very process.
func (f *Fleet) inside(ctx context.Context, id identity.ID, name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	return f.identities.Workload(ctx, Workload{id, name, self})
}

// certificate writes an SVID as PEM files, for curl.
func (f *Fleet) certificate(ctx context.Context, id identity.ID, name string) (Certificate, error) {
	svid, err := f.identities.Certificate(ctx, id)
	if err != nil {
		return Certificate{}, err
	}
	c := Certificate{SPIFFEID: string(id), CertificateFile: f.Path(name + ".pem"), PrivateKeyFile: f.Path(name + "-key.pem")}
	return c, f.putPair(name, svid)
}

// serverCertificate writes a certificate for the machine's loopback names.
func (f *Fleet) serverCertificate(name string, names ...string) error {
	pair, err := f.authority.IssueServerCertificate(append(names, "localhost", "127.0.0.1"), svidTTL)
	if err != nil {
		return err
	}
	return f.putPair(name, pair)
}

func (f *Fleet) putPair(name string, pair tls.Certificate) error {
	chain, key, err := issuer.EncodePEM(pair)
	if err != nil {
		return err
	}
	return errors.Join(f.put(name+".pem", chain), f.put(name+"-key.pem", key))
}
