package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"github.com/sallyport/sallyport/dataplane/upstream/http1"
	"github.com/sallyport/sallyport/internal/identity"
)

// errRoots says that there are no authorities to verify an endpoint with.
var errRoots = errors.New("certificate authorities cannot be read")

// dialTLS connects, for one of some protocols, and finds out who is there, before
// anything is sent.
func (u *Upstream) dialTLS(ctx context.Context, address string, protocols ...string) (*tls.Conn, *http1.Socket, error) {
	cfg, err := u.tlsConfig(address)
	if err != nil {
		return nil, nil, &connectError{address: address, err: err, ours: true}
	}
	cfg.NextProtos = protocols
	ctx, cancel := context.WithTimeout(ctx, 2*u.pool.connectTimeout)
	defer cancel()
	socket, err := u.dial(ctx, address)
	if err != nil {
		return nil, nil, err
	}
	conn := tls.Client(socket, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = socket.Close()
		return nil, nil, u.unconnected(ctx, address, err)
	}
	return conn, socket, nil
}

func (u *Upstream) tlsConfig(address string) (*tls.Config, error) {
	switch {
	case u.spec.SPIFFE != nil:
		return identity.ClientConfig(u.pool.identity, identity.Matching(u.spec.SPIFFE.Peers...)), nil
	case u.spec.TLS != nil:
		return u.namedConfig(address)
	}
	return nil, errors.New("upstream has no transport")
}

// namedConfig leaves out sessions to resume: a resumed one is not verified
// against authorities that changed meanwhile.
func (u *Upstream) namedConfig(address string) (*tls.Config, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS12,
		ServerName: host,
		Time:       u.pool.now,
	}
	if u.spec.TLS.ServerName != "" {
		cfg.ServerName = u.spec.TLS.ServerName
	}
	if u.roots != nil {
		// Never nil: that would mean the system's.
		if cfg.RootCAs, err = u.roots.pool(); cfg.RootCAs == nil {
			return nil, fmt.Errorf("%w: %w", errRoots, err)
		}
		if err != nil {
			u.pool.log.Error("certificate authorities cannot be read again", "upstream", u.name, "err", err)
		}
	}
	return cfg, nil
}

// roots are the authorities in a file, which may be replaced at any time. It is
// safe for concurrent use.
type roots struct {
	file string

	mu    sync.Mutex
	read  []byte // what certs was made of
	certs *x509.CertPool
}

// pool returns the authorities that are in the file now, or, with the error
// that stands in the way, those that were last; nil if there have been none.
func (r *roots) pool() (*x509.CertPool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text, err := readBounded(r.file)
	if err != nil {
		return r.certs, err
	}
	if r.certs != nil && bytes.Equal(text, r.read) {
		return r.certs, nil
	}
	next := x509.NewCertPool()
	if !next.AppendCertsFromPEM(text) {
		return r.certs, fmt.Errorf("%s holds no certificate", r.file)
	}
	r.read, r.certs = text, next
	return next, nil
}

func readBounded(file string) ([]byte, error) {
	const most = 4 << 20 // the system's roots need 250 KiB
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, err
	}
	if len(text) > most {
		return nil, fmt.Errorf("%s is larger than %d bytes", file, most)
	}
	return text, nil
}
