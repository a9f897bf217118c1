package identity

import (
	"bytes"
	"crypto/x509"
	"errors"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
)

// Federated is a trust domain whose bundle comes from elsewhere than the Workload
// API. One of Bundle, File and Endpoint is given.
type Federated struct {
	TrustDomain TrustDomain
	Bundle      string   // a SPIFFE bundle (JWKS), or certificates in PEM
	File        string   // of the same, read again when it changes
	Endpoint    Endpoint // of the former, fetched again and again while Run runs
}

// federation is what Federate was told, with what was understood of it.
type federation struct {
	spec   Federated
	text   []byte // what bundle was made of
	bundle *bundle
	err    error // why bundle is not what spec says now

	// highest is the highest sequence number that bundles from the endpoint had.
	highest uint64
}

// Federate makes us trust these trust domains, in place of those of the call
// before, as soon as it returns; those with an Endpoint when it has been fetched
// from. What did not change keeps what it has. Where the Workload API has a bundle
// for one of them, that one counts, and ours is never among them. What cannot be
// understood is logged, and nobody of it is trusted until Refresh finds that it can.
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
	s.metrics.replace(s.federated, next)
	s.federated = next
	s.readFederated()
	s.mergeFederated()
	select {
	case s.followed <- struct{}{}:
	default:
	}
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
		renewed, err := f.read(&s.cfg)
		if err != nil && (f.err == nil || f.err.Error() != err.Error()) {
			s.cfg.Log.Error("trust bundle cannot be read", "trust_domain", f.spec.TrustDomain, "file", f.spec.File, "err", err)
		}
		if renewed {
			s.complain(f)
		}
		f.err = err
		changed = changed || renewed
	}
	return changed
}

// complain says what of a new bundle is of no use.
func (s *Source) complain(f *federation) {
	if f.bundle.flaw != nil {
		s.cfg.Log.Error("jwt bundle cannot be used", "trust_domain", f.spec.TrustDomain, "err", f.bundle.flaw)
	}
}

// read leaves the bundle of before in place while there is no other to be
// understood. From an endpoint it reads nothing: see follow.
func (f *federation) read(cfg *Config) (renewed bool, err error) {
	if f.spec.TrustDomain == cfg.TrustDomain {
		return false, errors.New("it is our own trust domain, whose bundle is the Workload API's")
	}
	if f.spec.Endpoint != (Endpoint{}) {
		return false, f.spec.check(cfg)
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
	b, err := parseBundle(f.spec.TrustDomain, text)
	if err != nil {
		return false, err
	}
	f.text, f.bundle = text, b
	return true, nil
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
		if f.bundle != nil && !own.Has(f.bundle.x509.TrustDomain()) {
			all.Add(f.bundle.x509)
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
