package signin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"golang.org/x/oauth2"

	"github.com/sallyport/sallyport/internal/token"
)

// userInfo asks a provider, once, what it says of the subject of an ID token besides
// (OpenID Connect Core 1.0, section 5.3). It is nil for a provider that is not to be
// asked; one that is and does not answer signs nobody in, as somebody without their
// groups would pass by what denies one of them.
func (c *Client) userInfo(ctx context.Context, r *Return, m *metadata, got *oauth2.Token, of *token.Claims) (*token.UserInfo, *Failure) {
	switch {
	case !r.Provider.UserInfo:
		return nil, nil
	case m.UserInfo == "":
		return nil, fail(ProviderUnavailable, errors.New("the provider has no userinfo endpoint that can be asked"))
	case !strings.EqualFold(got.Type(), "Bearer"):
		return nil, fail(Failed, errors.New("the access token is no bearer token"))
	}
	answer, failure := c.askUserInfo(ctx, r.Provider, m.UserInfo, got.AccessToken)
	if failure != nil {
		return nil, failure
	}
	info, reason := r.Verifier.UserInfo(r.Provider.Name, answer, of)
	if reason != "" {
		return nil, fail(Failed, errors.New("the answer of the userinfo endpoint is refused: "+string(reason)))
	}
	return info, nil
}

func (c *Client) askUserInfo(ctx context.Context, p *Provider, at, accessToken string) ([]byte, *Failure) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, fail(ProviderUnavailable, withoutURL(err))
	}
	req.Header.Set("Authorization", "Bearer "+accessToken)
	req.Header.Set("Accept", "application/json")
	res, err := c.to(p).Do(req)
	if err != nil {
		return nil, fail(ProviderUnavailable, errors.New("the userinfo endpoint does not answer"))
	}
	defer res.Body.Close()
	media, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	switch {
	case res.StatusCode/100 == 4:
		return nil, fail(Failed, fmt.Errorf("the userinfo endpoint answers with status %d", res.StatusCode))
	case res.StatusCode != http.StatusOK:
		return nil, fail(ProviderUnavailable, fmt.Errorf("the userinfo endpoint answers with status %d", res.StatusCode))
	case media != "application/json":
		return nil, fail(Failed, errors.New("the userinfo endpoint answers with something else than JSON"))
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, fail(ProviderUnavailable, errors.New("the answer of the userinfo endpoint cannot be read"))
	}
	return b, nil
}
