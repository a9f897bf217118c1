package identity

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Profile is how a bundle endpoint proves itself (SPIFFE Federation section 5.2).
// The zero value is no way at all.
type Profile int

// The profiles that SPIFFE Federation defines.
const (
	// WebProfile is https_web: by a certificate for the host of the URL, of an
	// authority that the transport trusts.
	WebProfile Profile = iota + 1
	// SPIFFEProfile is https_spiffe: by an X.509-SVID.
	SPIFFEProfile
)

// Endpoint serves the bundle of a trust domain.
type Endpoint struct {
	URL     string // https
	Profile Profile
	// Private lets it have a private address: it is handed to Config.Endpoints.
	Private bool

	// Of SPIFFEProfile: the endpoint's ID, and a bundle of its trust domain, which
	// vouches for the endpoint while we know no other bundle of that.
	ID        ID
	Bootstrap string
}

// fetchTimeout bounds one fetch.
const fetchTimeout = 10 * time.Second

// The results of a fetch, as the metric names them.
const (
	fetchOK          = "ok"
	fetchForbidden   = "forbidden"   // at an address that is not allowed
	fetchUnreachable = "unreachable" // no whole answer
	fetchUnverified  = "unverified"  // somebody else answered
	fetchStatus      = "status"      // an answer other than 200
	fetchInvalid     = "invalid"     // not what can be used
	fetchOlder       = "older"       // than what we had
)

// fetchError is a fetch without success, with its result.
type fetchError struct {
	result string
	cause  error
}

func (e *fetchError) Error() string { return e.cause.Error() }
func (e *fetchError) Unwrap() error { return e.cause }

// resultOf returns what the metric calls the outcome of a fetch.
func resultOf(err error) string {
	if e, ok := errors.AsType[*fetchError](err); ok {
		return e.result
	}
	if err != nil {
		return fetchInvalid
	}
	return fetchOK
}

// check refuses what could not be fetched from, or by anybody's word.
func (d *Federated) check(cfg *Config) error {
	e := &d.Endpoint
	if cfg.Endpoints == nil {
		return errors.New("bundle endpoints are not for this process")
	}
	u, err := url.Parse(e.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return errors.New("the URL of a bundle endpoint is https, with a host and no user")
	}
	if _, err := ParseTrustDomain(string(d.TrustDomain)); err != nil {
		return err
	}
	switch e.Profile {
	case WebProfile:
		return nil
	case SPIFFEProfile:
		_, err := e.bootstrap()
		return err
	}
	return errors.New("a bundle endpoint needs a profile")
}

// bootstrap is the bundle by which the endpoint is known at first.
func (e *Endpoint) bootstrap() (*x509bundle.Bundle, error) {
	if _, err := ParseID(string(e.ID)); err != nil {
		return nil, fmt.Errorf("the bundle endpoint: %w", err)
	}
	b, err := parseBundle(e.ID.TrustDomain(), []byte(e.Bootstrap))
	if err != nil {
		return nil, fmt.Errorf("the bootstrap bundle of %s: %w", e.ID.TrustDomain(), err)
	}
	return b.x509, nil
}

// fetch gets the bundle of d from its endpoint.
func (s *Source) fetch(ctx context.Context, d *Federated) (*bundle, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	transport, err := s.endpointTransport(d)
	if err != nil {
		return nil, err
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.Endpoint.URL, nil)
	if err != nil {
		return nil, unreachable(err)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := (&http.Client{Transport: transport, CheckRedirect: sameHost}).Do(req)
	if err != nil {
		return nil, unreachable(err)
	}
	defer resp.Body.Close()
	text, err := answer(resp)
	if err != nil {
		return nil, err
	}
	return parseBundle(d.TrustDomain, text)
}

// endpointTransport has a connection of its own for each fetch: by what bundle the
// endpoint is known may have changed since the last.
func (s *Source) endpointTransport(d *Federated) (*http.Transport, error) {
	t := s.cfg.Endpoints(d.Endpoint.Private)
	t.DisableKeepAlives = true
	if d.Endpoint.Profile == WebProfile {
		return t, nil
	}
	known, err := s.vouching(&d.Endpoint)
	if err != nil {
		return nil, err
	}
	t.TLSClientConfig = &tls.Config{
		MinVersion: tls.VersionTLS12,
		Time:       s.cfg.Now,
		// As in ClientConfig, the check is in VerifyConnection.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection: func(state tls.ConnectionState) error {
			return s.verifyBy(known, state, Only(d.Endpoint.ID))
		},
	}
	return t, nil
}

// vouching returns the bundle that the endpoint's SVID is verified by: that of its
// trust domain which is in use, or else the one to begin with.
func (s *Source) vouching(e *Endpoint) (*x509bundle.Bundle, error) {
	td, err := spiffeid.TrustDomainFromString(string(e.ID.TrustDomain()))
	if err != nil {
		return nil, err
	}
	if b, ok := s.material.Load().bundles.Get(td); ok {
		return b, nil
	}
	return e.bootstrap()
}

// sameHost follows a few redirects of the same server: only the configured host
// speaks for a trust domain. Others end the fetch with the redirect as its answer.
func sameHost(next *http.Request, via []*http.Request) error {
	if first := via[0].URL; len(via) > 3 || next.URL.Scheme != first.Scheme || next.URL.Host != first.Host {
		return http.ErrUseLastResponse
	}
	return nil
}

// answer reads the body of an answer that can be a bundle.
func answer(resp *http.Response) ([]byte, error) {
	if resp.StatusCode != http.StatusOK {
		return nil, &fetchError{fetchStatus, fmt.Errorf("answer has status %d", resp.StatusCode)}
	}
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind == "text/html" {
		return nil, &fetchError{fetchInvalid, errors.New("answer is a page")}
	}
	text, err := readBounded(resp.Body, "answer")
	switch {
	case len(text) > maxBundle:
		return nil, &fetchError{fetchInvalid, err}
	case err != nil:
		return nil, unreachable(err)
	}
	return text, nil
}

// unreachable tells why there is no answer, and keeps query strings out of the log.
func unreachable(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	if _, ok := errors.AsType[interface {
		error
		Forbidden()
	}](err); ok {
		return &fetchError{fetchForbidden, err}
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok || errors.Is(err, ErrPeer) {
		return &fetchError{fetchUnverified, err}
	}
	return &fetchError{fetchUnreachable, err}
}
