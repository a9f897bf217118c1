package identity

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Federated is a trust domain whose bundle comes from elsewhere than the Workload
// API. One of Bundle and File is given.
type Federated struct {
	TrustDomain TrustDomain
	Bundle      string // a SPIFFE bundle (JWKS), or certificates in PEM
	File        string // of the same, read again when it changes
}

// maxBundle bounds the file of a bundle, in bytes.
const maxBundle = 1 << 20

// federation is what Federate was told, with what was understood of it.
type federation struct {
	spec   Federated
	text   []byte // what bundle was made of
	bundle *x509bundle.Bundle
	err    error // why bundle is not what spec says now
}

// Federate makes us trust these trust domains, in place of those of the call
// before, as soon as it returns. Where the Workload API has a bundle for one of
// them, that one counts, and ours is never among them. What cannot be understood
// is logged, and nobody of it is trusted until Refresh finds that it can.
func (s *Source) Federate(domains []Federated) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := make([]*federation, 0, len(domains))
	for _, spec := range domains {
		f := &federation{spec: spec}
		for _, old := range s.federated {
			if old.spec == spec {
				f = old
			}
		}
		next = append(next, f)
	}
	s.federated = next
	s.readFederated()
	s.mergeFederated()
}

// Refresh looks at the files of bundles, which is for the caller of Federate to do
// now and then.
func (s *Source) Refresh() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readFederated() {
		s.mergeFederated()
	}
}

// readFederated reports whether a bundle has changed. The caller holds mu.
func (s *Source) readFederated() (changed bool) {
	for _, f := range s.federated {
		renewed, err := f.read(s.cfg.TrustDomain)
		if err != nil && (f.err == nil || f.err.Error() != err.Error()) {
			s.cfg.Log.Error("trust bundle cannot be read", "trust_domain", f.spec.TrustDomain, "file", f.spec.File, "err", err)
		}
		f.err = err
		changed = changed || renewed
	}
	return changed
}

// read leaves the bundle of before in place while there is no other to be
// understood.
func (f *federation) read(own TrustDomain) (renewed bool, err error) {
	if f.spec.TrustDomain == own {
		return false, errors.New("it is our own trust domain, whose bundle is the Workload API's")
	}
	text := []byte(f.spec.Bundle)
	if f.spec.File != "" {
		if text, err = readBundle(f.spec.File); err != nil {
			return false, err
		}
	}
	if f.bundle != nil && bytes.Equal(text, f.text) {
		return false, nil
	}
	bundle, err := parseBundle(f.spec.TrustDomain, text)
	if err != nil {
		return false, err
	}
	f.text, f.bundle = text, bundle
	return true, nil
}

func parseBundle(name TrustDomain, text []byte) (*x509bundle.Bundle, error) {
	if _, err := ParseTrustDomain(string(name)); err != nil {
		return nil, err
	}
	td, err := spiffeid.TrustDomainFromString(string(name))
	if err != nil {
		return nil, err
	}
	var bundle *x509bundle.Bundle
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		whole, err := spiffebundle.Parse(td, text)
		if err != nil {
			return nil, err
		}
		bundle = whole.X509Bundle()
	} else if bundle, err = x509bundle.Parse(td, text); err != nil {
		return nil, err
	}
	if bundle.Empty() {
		return nil, errors.New("there is no X.509 authority")
	}
	return bundle, nil
}

func readBundle(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxBundle+1))
	if err == nil && len(text) > maxBundle {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxBundle)
	}
	return text, err
}

// mergeFederated puts into service what the Workload API says together with what
// Federate was told. The caller holds mu.
func (s *Source) mergeFederated() {
	next := *s.material.Load()
	s.replace(&next)
}

// merged is all that we trust when the Workload API says own. The caller holds
// mu.
func (s *Source) merged(own *x509bundle.Set) *x509bundle.Set {
	all := x509bundle.NewSet(own.Bundles()...)
	for _, f := range s.federated {
		if f.bundle != nil && !own.Has(f.bundle.TrustDomain()) {
			all.Add(f.bundle)
		}
	}
	return all
}

// Trusts reports whether an identity that was verified once could be verified
// now, as far as its trust domain goes: there still is a bundle of it.
func (s *Source) Trusts(id ID) bool {
	return s.material.Load().domains[id.TrustDomain()]
}

func domainsOf(bundles *x509bundle.Set) map[TrustDomain]bool {
	domains := make(map[TrustDomain]bool)
	for _, b := range bundles.Bundles() {
		domains[TrustDomain(b.TrustDomain().Name())] = !b.Empty()
	}
	return domains
}

func pool(bundles *x509bundle.Set) *x509.CertPool {
	out := x509.NewCertPool()
	for _, b := range bundles.Bundles() {
		for _, c := range b.X509Authorities() {
			out.AddCert(c)
		}
	}
	return out
}
