package authn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/sallyport/sallyport/internal/token"
)

// The results of a fetch, as the metric names them.
const (
	fetchOK          = "ok"
	fetchUnreachable = "unreachable" // no whole answer
	fetchStatus      = "status"      // an answer other than 200
	fetchInvalid     = "invalid"     // not a key set that can be used
)

// fetcher gets key sets over HTTP. It is safe for concurrent use.
type fetcher struct {
	client  *http.Client
	timeout time.Duration
}

// newFetcher makes a client of its own out of c, or of defaults when c is nil.
func newFetcher(c *http.Client, timeout time.Duration) *fetcher {
	client := &http.Client{CheckRedirect: sameOrigin}
	if c != nil {
		client.Transport = c.Transport
	} else {
		client.Transport = &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			ForceAttemptHTTP2:      true,
			IdleConnTimeout:        time.Minute,
			MaxResponseHeaderBytes: 64 << 10,
		}
	}
	return &fetcher{client, timeout}
}

// sameOrigin follows a few redirects of the same server. Others end the fetch
// with the redirect as its answer: only the configured host speaks for an
// issuer, and only it may be made to be asked.
func sameOrigin(next *http.Request, via []*http.Request) error {
	first := via[0].URL
	if len(via) > 3 || next.URL.Scheme != first.Scheme || next.URL.Host != first.Host {
		return http.ErrUseLastResponse
	}
	return nil
}

func (f *fetcher) fetch(ctx context.Context, url string) (set *token.KeySet, result string, err error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fetchUnreachable, withoutURL(err)
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, fetchUnreachable, withoutURL(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fetchStatus, fmt.Errorf("answer has status %d", resp.StatusCode)
	}
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind == "text/html" {
		return nil, fetchInvalid, errors.New("answer is a page")
	}
	// One byte too many is enough for ParseKeySet to refuse it.
	body, err := io.ReadAll(io.LimitReader(resp.Body, token.MaxKeySetSize+1))
	if err != nil {
		return nil, fetchUnreachable, err
	}
	if set, err = token.ParseKeySet(body); err != nil {
		return nil, fetchInvalid, err
	}
	return set, fetchOK, nil
}

// withoutURL keeps query strings out of the log.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// checkURL accepts https, and http to this machine itself. Whoever can change
// the keys on their way is the issuer.
func checkURL(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return withoutURL(err)
	case u.Host == "" || u.User != nil:
		return errors.New("needs a host and no user")
	case u.Scheme == "https", u.Scheme == "http" && loopback(u.Hostname()):
		return nil
	}
	return errors.New("has to be https")
}

func loopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}
