package signin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/authn"
)

const (
	// maxAnswer bounds what a provider says at once, in bytes.
	maxAnswer = 256 << 10
	// How long it is believed what was discovered, for how long if it cannot be
	// discovered again, and when that is tried after it has failed.
	freshFor   = time.Hour
	staleFor   = 24 * time.Hour
	retryAfter = 5 * time.Second
)

// metadata is what a provider says of itself (OpenID Connect Discovery 1.0, section
// 3; RFC 9207, section 3).
type metadata struct {
	Issuer        string   `json:"issuer"`
	Authorization string   `json:"authorization_endpoint"`
	Token         string   `json:"token_endpoint"`
	UserInfo      string   `json:"userinfo_endpoint"`
	EndSession    string   `json:"end_session_endpoint"`
	Methods       []string `json:"token_endpoint_auth_methods_supported"`
	NamesIssuer   bool     `json:"authorization_response_iss_parameter_supported"`
}

// discovered is what is known of a provider. Its mutex is held while it is asked,
// so that one asks for all who wait.
type discovered struct {
	mu    sync.Mutex
	last  *metadata
	at    time.Time // when last was told
	retry time.Time // not asked before
	err   error     // of the last try
}

// place is where metadata are, and how it is reached.
type place struct {
	issuer  string
	private bool
}

// discover returns the metadata of a provider.
func (c *Client) discover(ctx context.Context, p *Provider, now time.Time) (*metadata, error) {
	at := place{p.Issuer, p.Private}
	c.mu.Lock()
	d := c.known[at]
	if d == nil {
		d = &discovered{}
		c.known[at] = d
	}
	c.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last != nil && now.Sub(d.at) < freshFor {
		return d.last, nil
	}
	if !now.Before(d.retry) {
		m, err := c.ask(ctx, p)
		if d.err = err; err == nil {
			d.last, d.at = m, now
			return m, nil
		}
		d.retry = now.Add(retryAfter)
		c.log.WarnContext(ctx, "openid provider cannot be discovered", "issuer", p.Issuer, "err", err)
	}
	if d.last != nil && now.Sub(d.at) < staleFor {
		return d.last, nil
	}
	return nil, d.err
}

// ask goes on when the one is gone who made it begin: others wait for it too.
func (c *Client) ask(ctx context.Context, p *Provider) (*metadata, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.timeout)
	defer cancel()
	at := strings.TrimSuffix(p.Issuer, "/") + "/.well-known/openid-configuration"
	if err := checkEndpoint(at, p.Private); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, withoutURL(err)
	}
	req.Header.Set("Accept", "application/json")
	res, err := c.to(p).Do(req)
	if err != nil {
		return nil, withoutURL(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("answer has status %d", res.StatusCode)
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	return readMetadata(p, b)
}

func readMetadata(p *Provider, b []byte) (*metadata, error) {
	m := &metadata{}
	if err := json.Unmarshal(b, m); err != nil {
		return nil, errors.New("answer is no JSON object of metadata")
	}
	// One provider must not speak for another (OpenID Connect Discovery 1.0,
	// section 4.3).
	if m.Issuer != p.Issuer {
		return nil, errors.New("answer is of another issuer")
	}
	for name, endpoint := range map[string]string{"authorization_endpoint": m.Authorization, "token_endpoint": m.Token} {
		if err := checkEndpoint(endpoint, p.Private); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, optional := range []*string{&m.UserInfo, &m.EndSession} {
		if checkEndpoint(*optional, p.Private) != nil {
			*optional = ""
		}
	}
	return m, nil
}

// checkEndpoint accepts https, and http to this machine itself where private
// addresses are allowed.
func checkEndpoint(raw string, private bool) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return withoutURL(err)
	case u.Host == "" || u.User != nil || u.Fragment != "":
		return errors.New("needs a host, no user and no fragment")
	case u.Scheme == "https", u.Scheme == "http" && private && loopback(u.Hostname()):
		return nil
	}
	return errors.New("has to be https")
}

func loopback(host string) bool { return host == "localhost" || net.ParseIP(host).IsLoopback() }

// withoutURL keeps query strings out of records and logs.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// newHTTP returns clients that follow no redirect and read no more than maxAnswer
// of an answer.
func newHTTP(c *http.Client) (clients [2]*http.Client) {
	for i := range clients {
		var next http.RoundTripper = authn.Transport(i == 1)
		if c != nil && c.Transport != nil {
			next = c.Transport
		}
		clients[i] = &http.Client{
			Transport:     bounded{next},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return clients
}

// bounded bounds answers.
type bounded struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := b.next.RoundTrip(r)
	if err == nil {
		res.Body = http.MaxBytesReader(nil, res.Body, maxAnswer)
	}
	return res, err
}

// CloseIdleConnections is for http.Client's method of that name.
func (b bounded) CloseIdleConnections() {
	if c, ok := b.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
