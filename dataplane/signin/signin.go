// Package signin has people sign in at an OpenID provider with their browser, and
// out again: it is the client of OpenID Connect Core 1.0, with PKCE (RFC 7636).
package signin

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/token"
)

// Reason is why a sign-in does not go on. The set is closed and fit for metric
// labels.
type Reason string

// The reasons.
const (
	// Unknown: nothing that this browser has begun here in the last ten minutes
	// comes back with this state.
	Unknown Reason = "sign_in_unknown"
	// Refused: the provider says that it does not sign the person in.
	Refused Reason = "sign_in_refused"
	// Failed: what the provider hands out is not the answer to what was asked.
	Failed Reason = "sign_in_failed"
	// TooLarge: the session does not fit into a cookie.
	TooLarge Reason = "session_too_large"
	// ProviderUnavailable: the provider does not answer, or not as one does.
	ProviderUnavailable Reason = "sign_in_provider_unavailable"
	// KeysUnavailable: there is no key to seal cookies with.
	KeysUnavailable Reason = "sign_in_keys_unavailable"
	// Busy: too many sign-ins are being completed.
	Busy Reason = "sign_in_busy"
	// LogoutInvalid: a logout token that is not one, or was here before.
	LogoutInvalid Reason = "logout_invalid"
	// LogoutUnconfirmed: the session has ended at this proxy, and the control plane
	// has not said that it has in the fleet.
	LogoutUnconfirmed Reason = "logout_unconfirmed"
)

// Status is the one of an answer that tells the reason.
func (r Reason) Status() int {
	switch r {
	case Unknown, LogoutInvalid:
		return http.StatusBadRequest
	case Refused, Failed, TooLarge:
		return http.StatusForbidden
	}
	return http.StatusServiceUnavailable
}

// Failure is a reason, and what the record says of it besides.
type Failure struct {
	Reason Reason
	Detail string
}

func fail(r Reason, err error) *Failure {
	f := &Failure{Reason: r}
	if err != nil {
		f.Detail = err.Error()
	}
	return f
}

// Provider is an OpenID provider, and the client that it knows us as.
type Provider struct {
	Name       authn.ProviderName
	Issuer     string
	ClientID   string
	SecretFile string // empty for a public client
	Private    bool   // as authn.Provider.AllowPrivateAddresses
	Scopes     []string
	Claims     []string // that a session keeps
	UserInfo   bool     // whether its userinfo endpoint is asked as well

	// How people have to sign in, as far as a provider can be told.
	ACRValues []string      // one of them is the class; any when empty
	MaxAge    time.Duration // since they did; any when zero
}

// Site is where a browser is.
type Site struct {
	Host   string        // whose cookies it sends
	Origin string        // as in authn.Browser
	Keys   *session.Ring // nil for none

	Cookies []string // that it sends: values of the Cookie field
}

// Callback is the path of the redirect URI.
const Callback = "/.sallyport/callback"

// Answer is what a browser is told.
type Answer struct {
	Location string   // where to go
	Cookies  []string // values of Set-Cookie
}

// Verifier verifies what providers sign, with the keys that they publish. It is an
// *authn.Authenticator.
type Verifier interface {
	Identify(ctx context.Context, name authn.ProviderName, raw, client string, now time.Time) (*token.Claims, authn.Reason)
	UserInfo(name authn.ProviderName, answer []byte, of *token.Claims) (*token.UserInfo, authn.Reason)
	LoggedOut(ctx context.Context, name authn.ProviderName, raw, client string, now time.Time) (*token.Logout, authn.Reason)
}

// Config is what a Client needs. Log is required.
type Config struct {
	Log *slog.Logger
	// HTTP brings the transport to providers: authn.Transport when nil. Its other
	// fields are not used.
	HTTP *http.Client
	// Timeout is for one exchange with a provider; 5 s when zero.
	Timeout time.Duration
}

// Client signs people in and out. It is safe for concurrent use.
type Client struct {
	log     *slog.Logger
	http    [2]*http.Client // to those on the internet, and to private addresses
	timeout time.Duration
	// busy holds a token for each exchange with a provider that is under way.
	busy  chan struct{}
	ended ended

	mu    sync.Mutex
	known map[place]*discovered
}

// maxBusy bounds the exchanges with providers at one time, and so what those cost
// us that hang.
const maxBusy = 128

// New returns a Client, and asks nobody.
func New(c Config) (*Client, error) {
	switch {
	case c.Log == nil:
		return nil, errors.New("Log is required")
	case c.Timeout < 0:
		return nil, errors.New("Timeout must not be negative")
	case c.Timeout == 0:
		c.Timeout = 5 * time.Second
	}
	return &Client{
		log: c.Log, http: newHTTP(c.HTTP), timeout: c.Timeout,
		busy: make(chan struct{}, maxBusy), known: map[place]*discovered{},
	}, nil
}

// enter takes one of the places for exchanges with providers, without waiting. The
// caller leaves it.
func (c *Client) enter() bool {
	select {
	case c.busy <- struct{}{}:
		return true
	default:
		return false
	}
}

func (c *Client) leave() { <-c.busy }

// to returns the client that reaches a provider.
func (c *Client) to(p *Provider) *http.Client {
	if p.Private {
		return c.http[1]
	}
	return c.http[0]
}
