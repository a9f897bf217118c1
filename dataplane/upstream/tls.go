package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/sallyport/sallyport/dataplane/upstream/http1"
	"github.com/sallyport/sallyport/internal/identity"
)

// errRoots says that there are no authorities to verify an endpoint with.
var errRoots = errors.New("certificate authorities cannot be read")

// dialTLS connects, for one of some protocols, and finds out who is there, before
// anything is sent.
func (c *connections) dialTLS(ctx context.Context, at place, protocols ...string) (*tls.Conn, *http1.Socket, error) {
	cfg, err := c.tlsConfig(at)
	if err != nil {
		return nil, nil, &connectError{address: at.address, err: err, ours: true}
	}
	cfg.NextProtos = protocols
	ctx, cancel := context.WithTimeout(ctx, 2*c.pool.connectTimeout)
	defer cancel()
	socket, err := c.dial(ctx, at.address)
	if err != nil {
		return nil, nil, err
	}
	conn := tls.Client(socket, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = socket.Close()
		return nil, nil, c.unconnected(ctx, at.address, err)
	}
	return conn, socket, nil
}

func (c *connections) tlsConfig(at place) (*tls.Config, error) {
	switch {
	case c.spiffe != nil:
		return identity.ClientConfig(c.pool.identity, identity.Matching(c.spiffe.Peers...)), nil
	case c.tls != nil:
		return c.namedConfig(at)
	}
	return nil, errors.New("upstream has no transport")
}

// namedConfig leaves out sessions to resume: a resumed one is not verified
// against authorities that changed meanwhile.
func (c *connections) namedConfig(at place) (*tls.Config, error) {
	host, err := at.host()
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS12,
		ServerName: host,
		Time:       c.pool.now,
	}
	if c.tls.ServerName != "" {
		cfg.ServerName = c.tls.ServerName
	}
	if c.roots != nil {
		// Never nil: that would mean the system's.
		if cfg.RootCAs, err = c.roots.pool(); cfg.RootCAs == nil {
			return nil, fmt.Errorf("%w: %w", errRoots, err)
		}
		if err != nil {
			c.pool.log.Error("certificate authorities cannot be read again", "upstream", c.upstream, "err", err)
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
