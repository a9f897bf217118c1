package gateway

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

var errNoCertificate = errors.New("no certificate could be read")

// certificates presents what is in files, which may be replaced at any time. It
// is safe for concurrent use.
type certificates struct {
	log *slog.Logger

	// current is never nil, and replaced, never changed.
	current atomic.Pointer[presented]

	mu    sync.Mutex
	pairs []*pair
}

// pair is a certificate and its key in files.
type pair struct {
	spec *resourcev1.CertificateFiles

	chain, key  []byte // what certificate was made of
	certificate *tls.Certificate
	err         error // why certificate is not what is in the files now
}

// presented is a choice of certificates.
type presented struct {
	first  *tls.Certificate
	byName map[string][]*tls.Certificate // "*.example.com" too
}

func newCertificates(files []*resourcev1.CertificateFiles, log *slog.Logger) *certificates {
	c := &certificates{log: log}
	c.current.Store(choice(nil))
	for _, f := range files {
		c.pairs = append(c.pairs, &pair{spec: f})
	}
	c.read()
	return c
}

// read looks at the files and reports whether something changed. A pair that
// cannot be understood, as when only one of its files has been replaced yet,
// leaves the one before in place.
func (c *certificates) read() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := false
	for _, p := range c.pairs {
		before := p.err
		renewed, err := p.read()
		p.err = err
		switch {
		case renewed:
			c.log.Info("certificate read", "file", p.spec.GetCertificateFile(), "expires", p.certificate.Leaf.NotAfter)
		case err != nil && (before == nil || before.Error() != err.Error()):
			c.log.Error("certificate cannot be read", "file", p.spec.GetCertificateFile(), "err", err)
		case (err == nil) == (before == nil):
			continue
		}
		changed = true
	}
	if changed {
		c.current.Store(choice(c.pairs))
	}
	return changed
}

// read reports whether there is another certificate than before.
func (p *pair) read() (bool, error) {
	chain, err := readBounded(p.spec.GetCertificateFile())
	if err != nil {
		return false, err
	}
	key, err := readBounded(p.spec.GetPrivateKeyFile())
	if err != nil {
		return false, err
	}
	if p.certificate != nil && bytes.Equal(chain, p.chain) && bytes.Equal(key, p.key) {
		return false, nil
	}
	certificate, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return false, fmt.Errorf("%s: %w", p.spec.GetCertificateFile(), err)
	}
	p.chain, p.key, p.certificate = chain, key, &certificate
	return true, nil
}

func choice(pairs []*pair) *presented {
	to := &presented{byName: make(map[string][]*tls.Certificate)}
	for _, p := range pairs {
		if p.certificate == nil {
			continue
		}
		if to.first == nil {
			to.first = p.certificate
		}
		for _, n := range p.certificate.Leaf.DNSNames {
			n = strings.ToLower(n)
			to.byName[n] = append(to.byName[n], p.certificate)
		}
	}
	return to
}

// find is tls.Config.GetCertificate: by exact name, then by wildcard, else the
// first one.
func (c *certificates) find(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	current := c.current.Load()
	if current.first == nil {
		return nil, errNoCertificate
	}
	asked := strings.ToLower(hello.ServerName)
	found := current.byName[asked]
	if _, parent, ok := strings.Cut(asked, "."); ok && len(found) == 0 {
		found = current.byName["*."+parent]
	}
	for _, certificate := range found {
		if len(found) == 1 || hello.SupportsCertificate(certificate) == nil {
			return certificate, nil
		}
	}
	return current.first, nil
}

// problems says which certificates are not what is in their files.
func (c *certificates) problems() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var problems []string
	for _, p := range c.pairs {
		if p.err != nil {
			problems = append(problems, p.err.Error())
		}
	}
	return problems
}

func readBounded(file string) ([]byte, error) {
	const most = 1 << 20
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
