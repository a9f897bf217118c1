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
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/token"
)

// The results of a fetch, as metrics name them.
const (
	fetchOK          = "ok"
	fetchForbidden   = "forbidden"   // at an address that is not allowed
	fetchUnreachable = "unreachable" // no whole answer
	fetchStatus      = "status"      // an answer other than 200
	fetchInvalid     = "invalid"     // not what can be used
)

// fetcher gets documents of providers over HTTP. It is safe for concurrent use.
type fetcher struct {
	public, private http.RoundTripper
	timeout         time.Duration // of one document
}

// newFetcher uses the transport of c, or transports of its own when c is nil.
func newFetcher(c *http.Client, timeout time.Duration) *fetcher {
	if c != nil {
		return &fetcher{c.Transport, c.Transport, timeout}
	}
	return &fetcher{newTransport(false), newTransport(true), timeout}
}

func (f *fetcher) transport(private bool) http.RoundTripper {
	if private {
		return f.private
	}
	return f.public
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

// fetchError is a fetch without success, with its result.
type fetchError struct {
	result string
	cause  error
}

func (e *fetchError) Error() string { return e.cause.Error() }
func (e *fetchError) Unwrap() error { return e.cause }

// resultOf returns what metrics call the outcome of a fetch.
func resultOf(err error) string {
	if e, ok := errors.AsType[*fetchError](err); ok {
		return e.result
	}
	if err != nil {
		return fetchInvalid
	}
	return fetchOK
}

// document is what a fetch got.
type document struct {
	body  []byte
	fresh time.Duration // as Cache-Control has it; negative when it says nothing
}

// fetch gets the key set of a source, and how long the issuer says that it will
// not change, negative when it says nothing.
func (f *fetcher) fetch(ctx context.Context, from source) (*token.KeySet, time.Duration, error) {
	at := from.url
	if from.issuer != "" {
		var err error
		if at, err = f.discover(ctx, from); err != nil {
			return nil, 0, err
		}
	}
	got, err := f.get(ctx, at, from.private)
	if err != nil {
		return nil, 0, err
	}
	set, err := token.ParseKeySet(got.body)
	return set, got.fresh, err
}

// discover asks for the metadata each time: an issuer may move its keys.
func (f *fetcher) discover(ctx context.Context, from source) (string, error) {
	got, err := f.get(ctx, metadataURL(from.issuer), from.private)
	if err != nil {
		return "", fmt.Errorf("get metadata: %w", err)
	}
	at, err := token.ParseMetadata(got.body, from.issuer)
	if err != nil {
		return "", err
	}
	if err := checkURL(at, from.private); err != nil {
		return "", fmt.Errorf("jwks_uri of the metadata: %w", err)
	}
	return at, nil
}

func (f *fetcher) get(ctx context.Context, url string, private bool) (document, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return document{}, unreachable(err)
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	client := &http.Client{Transport: f.transport(private), CheckRedirect: sameOrigin}
	return exchange(client, req, token.MaxKeySetSize)
}

// exchange sends a request and reads an answer of JSON, one byte more than most
// at the most: enough for whoever parses it to refuse it.
func exchange(client *http.Client, req *http.Request, most int64) (document, error) {
	resp, err := client.Do(req)
	if err != nil {
		return document{}, unreachable(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return document{}, &fetchError{fetchStatus, fmt.Errorf("answer has status %d", resp.StatusCode)}
	}
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind == "text/html" {
		return document{}, &fetchError{fetchInvalid, errors.New("answer is a page")}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err != nil {
		return document{}, unreachable(err)
	}
	return document{body, freshness(resp.Header)}, nil
}

// unreachable keeps query strings out of the log.
func unreachable(err error) error {
	err = withoutURL(err)
	if _, ok := errors.AsType[*forbiddenError](err); ok {
		return &fetchError{fetchForbidden, err}
	}
	return &fetchError{fetchUnreachable, err}
}

func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// freshness reads what Cache-Control (RFC 9111 §5.2.2) says to a private cache;
// negative is nothing.
func freshness(h http.Header) time.Duration {
	fresh := time.Duration(-1)
	for _, value := range h.Values("Cache-Control") {
		for directive := range strings.SplitSeq(strings.ToLower(value), ",") {
			name, argument, _ := strings.Cut(strings.TrimSpace(directive), "=")
			switch seconds, err := strconv.ParseUint(strings.Trim(argument, `"`), 10, 31); {
			case name == "no-store", name == "no-cache":
				return 0
			case name == "max-age" && err == nil:
				fresh = time.Duration(seconds) * time.Second
			}
		}
	}
	return fresh
}

func loopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}
