package signin

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/token"
)

// Pending is a sign-in that a browser has begun. It is kept by that browser alone,
// so that nobody else can complete it, and nobody can have another's completed by
// it.
type Pending struct {
	Provider string    `json:"p"` // namespace/name
	Target   string    `json:"t"` // a path and a query of the same host
	State    string    `json:"s"`
	Nonce    string    `json:"n"`
	Verifier string    `json:"v"` // of PKCE
	Redirect string    `json:"r"` // the redirect URI
	Began    time.Time `json:"b"`

	cookie string
}

const (
	// maxTarget is how much of a path and query is remembered.
	maxTarget = 1 << 10
	// maxPending is how many sign-ins a browser may have under way: as many as
	// windows that it opens at once. Those before are forgotten then.
	maxPending = 8
	// stateLength is that of rand.Text: 128 bits need no more.
	stateLength = 26
	// cookieSuffix is how many characters of the state name its cookie.
	cookieSuffix = 8
)

// Begin sends a browser to a provider. target is the canonical path and query that
// it comes back to.
func (c *Client) Begin(ctx context.Context, at Site, p *Provider, target string, now time.Time) (*Answer, *Failure) {
	if !at.Keys.Ready(now) {
		return nil, fail(KeysUnavailable, nil)
	}
	if !c.enter() {
		return nil, fail(Busy, nil)
	}
	defer c.leave()
	m, err := c.discover(ctx, p, now)
	if err != nil {
		return nil, fail(ProviderUnavailable, err)
	}
	pending := &Pending{
		Provider: p.Name.String(), Target: shorten(target), State: rand.Text(), Nonce: rand.Text(),
		Verifier: oauth2.GenerateVerifier(), Redirect: at.Origin + Callback, Began: now,
	}
	sealed, err := pending.seal(at, now)
	if err != nil {
		return nil, fail(KeysUnavailable, err)
	}
	answer := &Answer{Location: c.oauth(p, m, pending.Redirect, "").AuthCodeURL(pending.State, p.asks(pending)...)}
	if before := session.Ours(at.Cookies, session.PendingPrefix); len(before) >= maxPending {
		answer.clear(before)
	}
	answer.Cookies = append(answer.Cookies, session.Set(pending.cookieName(), sealed, session.PendingTime))
	return answer, nil
}

// asks is what a provider is asked for besides a code.
func (p *Provider) asks(pending *Pending) []oauth2.AuthCodeOption {
	options := []oauth2.AuthCodeOption{
		oauth2.SetAuthURLParam("nonce", pending.Nonce), oauth2.S256ChallengeOption(pending.Verifier),
	}
	if len(p.ACRValues) > 0 {
		options = append(options, oauth2.SetAuthURLParam("acr_values", strings.Join(p.ACRValues, " ")))
	}
	if p.MaxAge > 0 {
		options = append(options, oauth2.SetAuthURLParam("max_age", strconv.FormatInt(int64(p.MaxAge/time.Second), 10)))
	}
	return options
}

// shorten drops a query, and then the path, that is too long to be remembered.
func shorten(target string) string {
	if len(target) <= maxTarget {
		return target
	}
	if path, _, _ := strings.Cut(target, "?"); len(path) <= maxTarget {
		return path
	}
	return "/"
}

func (p *Pending) seal(at Site, now time.Time) (string, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return "", err
	}
	return at.Keys.Seal(session.Pending, at.Host, b, now)
}

func (p *Pending) cookieName() string { return session.PendingPrefix + p.State[:cookieSuffix] }

func (a *Answer) clear(names []string) {
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if isCookieName(name) {
			a.Cookies = append(a.Cookies, session.Clear(name))
		}
	}
}

// isCookieName keeps what a client calls its cookies out of our answers, unless we
// may have called them so.
func isCookieName(name string) bool {
	suffix, ok := strings.CutPrefix(name, session.PendingPrefix)
	return ok && isState(suffix, cookieSuffix)
}

// isState accepts what rand.Text makes.
func isState(s string, atLeast int) bool {
	for i := range len(s) {
		if (s[i] < 'A' || s[i] > 'Z') && (s[i] < '2' || s[i] > '7') {
			return false
		}
	}
	return len(s) >= atLeast && len(s) <= 64
}

// Resume finds what a browser has begun that comes back with a query.
func Resume(at Site, query url.Values, now time.Time) (*Pending, *Failure) {
	state := query["state"]
	if len(state) != 1 || !isState(state[0], stateLength) {
		return nil, fail(Unknown, errors.New("there is not one state"))
	}
	name := session.PendingPrefix + state[0][:cookieSuffix]
	value, found := session.Find(at.Cookies, name)
	if !found {
		return nil, fail(Unknown, errors.New("the browser has begun nothing with this state"))
	}
	plain, err := at.Keys.Open(session.Pending, at.Host, value)
	switch {
	case errors.Is(err, session.ErrNoKey):
		return nil, fail(KeysUnavailable, nil)
	case err != nil:
		return nil, fail(Unknown, err)
	}
	p := &Pending{}
	if err := json.Unmarshal(plain, p); err != nil {
		return nil, fail(Unknown, err)
	}
	switch age := now.Sub(p.Began); {
	case subtle.ConstantTimeCompare([]byte(p.State), []byte(state[0])) != 1:
		return nil, fail(Unknown, errors.New("the browser has begun nothing with this state"))
	case age > session.PendingTime || age < -time.Minute:
		return nil, fail(Unknown, errors.New("it has taken too long"))
	}
	p.cookie = name
	return p, nil
}

// Return is a browser that comes back from a provider.
type Return struct {
	Site
	Pending  *Pending // that Resume found
	Query    url.Values
	Provider *Provider // the one of Pending
	Verifier Verifier
	Lasts    time.Duration // of the session, from now on
}

// Complete makes a session out of what a provider has sent a browser back with.
func (c *Client) Complete(ctx context.Context, r *Return, now time.Time) (*session.Session, *Answer, *Failure) {
	p, pending := r.Provider, r.Pending
	if !c.enter() {
		return nil, nil, fail(Busy, nil)
	}
	defer c.leave()
	m, err := c.discover(ctx, p, now)
	if err != nil {
		return nil, nil, fail(ProviderUnavailable, err)
	}
	code, failure := granted(r.Query, p.Issuer, m)
	if failure != nil {
		return nil, nil, failure
	}
	got, failure := c.exchange(ctx, p, m, pending, code)
	if failure != nil {
		return nil, nil, failure
	}
	claims, failure := r.identify(ctx, got, now)
	if failure != nil {
		return nil, nil, failure
	}
	info, failure := c.userInfo(ctx, r, m, got, claims)
	if failure != nil {
		return nil, nil, failure
	}
	s := newSession(p, claims, info, r.Lasts, now)
	sealed, err := s.Seal(r.Keys, r.Host, now)
	switch {
	case errors.Is(err, session.ErrTooLarge):
		return nil, nil, fail(TooLarge, nil)
	case err != nil:
		return nil, nil, fail(KeysUnavailable, err)
	}
	answer := &Answer{Location: pending.Target, Cookies: []string{session.Set(session.CookieName, sealed, r.Lasts)}}
	answer.clear([]string{pending.cookie})
	return s, answer, nil
}

// identify says whom the ID token of an exchange is of.
func (r *Return) identify(ctx context.Context, got *oauth2.Token, now time.Time) (*token.Claims, *Failure) {
	raw, _ := got.Extra("id_token").(string)
	if raw == "" {
		return nil, fail(Failed, errors.New("the provider gives no ID token"))
	}
	claims, reason := r.Verifier.Identify(ctx, r.Provider.Name, raw, r.Provider.ClientID, now)
	if reason != "" {
		return nil, fail(Failed, errors.New("the ID token is refused: "+string(reason)))
	}
	if nonce, _ := claims.All["nonce"].(string); subtle.ConstantTimeCompare([]byte(nonce), []byte(r.Pending.Nonce)) != 1 {
		return nil, fail(Failed, errors.New("the ID token answers another sign-in"))
	}
	return claims, nil
}

// granted returns the code that a provider grants. An answer has to come from the
// provider that was asked (RFC 9207): all come back to the same address.
func granted(query url.Values, issuer string, m *metadata) (string, *Failure) {
	if iss := query["iss"]; len(iss) > 1 || len(iss) == 1 && iss[0] != issuer || len(iss) == 0 && m.NamesIssuer {
		return "", fail(Failed, errors.New("another provider has answered"))
	}
	if refusal := query["error"]; len(refusal) > 0 {
		return "", fail(Refused, errors.New(word(refusal[0])))
	}
	if code := query["code"]; len(code) == 1 && code[0] != "" {
		return code[0], nil
	}
	return "", fail(Failed, errors.New("there is not one code"))
}

// word keeps what a stranger can write into an address out of records, unless it
// is an error code (RFC 6749, section 4.1.2.1).
func word(s string) string {
	for i := range len(s) {
		if (s[i] < 'a' || s[i] > 'z') && s[i] != '_' {
			return "an error that is no error code"
		}
	}
	return s[:min(len(s), 64)]
}

// exchange returns the tokens that a code is worth.
func (c *Client) exchange(ctx context.Context, p *Provider, m *metadata, pending *Pending, code string) (*oauth2.Token, *Failure) {
	secret, err := readSecret(p.SecretFile)
	if err != nil {
		return nil, fail(ProviderUnavailable, fmt.Errorf("client secret: %w", err))
	}
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, oauth2.HTTPClient, c.to(p)), c.timeout)
	defer cancel()
	got, err := c.oauth(p, m, pending.Redirect, secret).Exchange(ctx, code, oauth2.VerifierOption(pending.Verifier))
	if refusal, ok := errors.AsType[*oauth2.RetrieveError](err); ok && refusal.Response != nil && refusal.Response.StatusCode < 500 {
		return nil, fail(Failed, errors.New("the provider does not take the code: "+word(refusal.ErrorCode)))
	}
	if err != nil {
		return nil, fail(ProviderUnavailable, errors.New("the provider does not exchange the code"))
	}
	return got, nil
}

func (c *Client) oauth(p *Provider, m *metadata, redirect, secret string) *oauth2.Config {
	style := oauth2.AuthStyleInHeader
	if secret == "" || len(m.Methods) > 0 && !slices.Contains(m.Methods, "client_secret_basic") {
		style = oauth2.AuthStyleInParams
	}
	return &oauth2.Config{
		ClientID: p.ClientID, ClientSecret: secret, RedirectURL: redirect,
		Endpoint: oauth2.Endpoint{AuthURL: m.Authorization, TokenURL: m.Token, AuthStyle: style},
		Scopes:   append([]string{"openid"}, slices.DeleteFunc(slices.Clone(p.Scopes), func(s string) bool { return s == "openid" })...),
	}
}

// maxSecret bounds a file with a client secret.
const maxSecret = 4 << 10

func readSecret(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	secret := strings.TrimSpace(string(b))
	switch {
	case err != nil:
		return "", err
	case secret == "" || len(b) > maxSecret:
		return "", errors.New("the file is empty or too large")
	}
	return secret, nil
}
