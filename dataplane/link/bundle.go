package link

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/sallyport/sallyport/internal/bundle"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

const (
	// fetchWithin bounds one attempt to have a bundle, and answerWithin how long its
	// server may take to begin.
	fetchWithin  = 10 * time.Minute
	answerWithin = 30 * time.Second
	// maxAuthorities bounds a file of authorities, in bytes.
	maxAuthorities = 1 << 20

	// Bounds of the wait before the next attempt.
	firstBundleRetry   = time.Second
	longestBundleRetry = time.Minute
)

// Bundle names an exported bundle. The zero Bundle names none.
type Bundle struct {
	// Environment is what its snapshot has to be of: the fleet signs for others as
	// well, which may allow more.
	Environment string
	// File is its path, and URL where it is had by https. One of them is set.
	File, URL string
	// CAFile verifies the server of URL, in PEM; the system's roots when empty.
	CAFile string
}

func (b Bundle) given() bool { return b != Bundle{} }

// Check says what is wrong with it. It reads nothing.
func (b Bundle) Check() error {
	if !b.given() {
		return nil
	}
	switch {
	case b.Environment == "" || b.Environment == snapshot.SecurityLane:
		return errors.New("environment: say of which it has to be")
	case (b.File == "") == (b.URL == ""):
		return errors.New("give file or url")
	case b.File != "" && !filepath.IsAbs(b.File):
		return fmt.Errorf("file: %q is not an absolute path", b.File)
	case b.CAFile != "" && b.URL == "":
		return errors.New("ca_file: is for a url")
	case b.CAFile != "" && !filepath.IsAbs(b.CAFile):
		return fmt.Errorf("ca_file: %q is not an absolute path", b.CAFile)
	case b.URL == "":
		return nil
	}
	u, err := url.Parse(b.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" {
		return errors.New("url: want https://host/path")
	}
	return nil
}

// boot tries to begin with the bundle, until ctx ends or something is in force in
// both lanes, wherever it came from.
func (l *Link) boot(ctx context.Context) error {
	said := ""
	for wait := firstBundleRetry; !l.whole() && ctx.Err() == nil; wait = min(2*wait, longestBundleRetry) {
		err := l.begin(ctx)
		if ctx.Err() != nil || l.whole() {
			return nil
		}
		if err != nil && err.Error() != said {
			said = err.Error()
			l.log.ErrorContext(ctx, "bundle cannot be used", "err", err)
		}
		pause(ctx, rand.N(wait)) //nolint:gosec // spreads load, hides nothing
	}
	return nil
}

// begin has the bundle be in force in the lanes that have nothing. Security goes
// first, as always.
func (l *Link) begin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, fetchWithin)
	defer cancel()
	r, err := l.cfg.Bundle.open(ctx)
	if err != nil {
		l.metrics.bundles.WithLabelValues("failed").Inc()
		return err
	}
	defer r.Close()
	before := l.cfg.Verifier.Newest().Generation
	b, err := bundle.Read(bufio.NewReaderSize(r, 1<<16), l.cfg.Verifier)
	if l.cfg.Verifier.Newest().Generation > before {
		l.keys.taken(ctx)
	}
	if err == nil && b.Policy != nil && b.Policy.Head().Environment != l.cfg.Bundle.Environment {
		err = fmt.Errorf("%w: it is of %q, not of %q", errEnvironment, b.Policy.Head().Environment, l.cfg.Bundle.Environment)
	}
	if err == nil {
		err = errors.Join(
			l.security.begin(ctx, b.Security, b.SecurityFreshness, snapshot.SecurityLane),
			l.policy.begin(ctx, b.Policy, b.Freshness, l.cfg.Bundle.Environment))
	}
	if err != nil {
		l.metrics.bundles.WithLabelValues("refused").Inc()
		return err
	}
	l.metrics.bundles.WithLabelValues("taken").Inc()
	return nil
}

// begin puts what a bundle holds of the lane in force, if nothing is. What it says of
// its own age is believed, because it is signed: a bundle of long ago is stale.
func (l *lane) begin(ctx context.Context, s *snapshot.Snapshot, signed *proxyv1.SignedFreshness, environment string) error {
	l.taking.Lock()
	defer l.taking.Unlock()
	switch {
	case l.current != nil:
		return nil
	case s == nil:
		return fmt.Errorf("%s: it holds nothing of this lane", l.name)
	}
	if err := l.marks.check(environment, s.Head()); err != nil {
		return fmt.Errorf("%s: %w", l.name, err)
	}
	l.enforce(s)
	if signed != nil {
		f, err := l.cfg.Verifier.VerifyFreshness(signed)
		if err == nil {
			err = l.clock.check(f, environment, l.cfg.Now())
		}
		if err != nil {
			l.log.ErrorContext(ctx, "freshness of the bundle cannot be used", "err", err)
		} else {
			l.clock.take(fresh{f, signed}, s.Head())
		}
	}
	l.keeper.keep(s, l.marks, l.clock.confirmed)
	l.tell()
	l.log.InfoContext(ctx, "bundle enforced", "environment", environment, "revision", s.Head().Revision)
	return nil
}

// open returns the bundle, which the caller closes.
func (b Bundle) open(ctx context.Context) (io.ReadCloser, error) {
	if b.File != "" {
		return os.Open(b.File)
	}
	config, err := b.tls()
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		DialContext: (&net.Dialer{Timeout: answerWithin}).DialContext, TLSClientConfig: config, TLSHandshakeTimeout: answerWithin,
		ResponseHeaderTimeout: answerWithin, ForceAttemptHTTP2: true, DisableCompression: true, DisableKeepAlives: true,
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return errors.New("a bundle is where its url says")
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.URL, http.NoBody)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("get %s: %s", b.URL, res.Status), res.Body.Close())
	}
	return res.Body, nil
}

func (b Bundle) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if b.CAFile == "" {
		return config, nil
	}
	f, err := os.Open(b.CAFile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	pem, err := io.ReadAll(io.LimitReader(f, maxAuthorities))
	if err != nil {
		return nil, err
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate in PEM", b.CAFile)
	}
	return config, nil
}
