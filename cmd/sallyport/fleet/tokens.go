package fleet

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	keyID         = "demo-1"
	defaultExpiry = 5 * time.Minute
	tokenWithin   = 5 * time.Second
)

// TokenRequest says what a token should say.
type TokenRequest struct {
	Subject   string
	Groups    []string
	Audience  string
	ExpiresIn time.Duration // in the past when negative
}

// tokenIssuer signs tokens for whoever asks: it is for the demo's machine
// alone, and listens on its loopback address.
type tokenIssuer struct {
	key *ecdsa.PrivateKey
	url string
}

func newTokenIssuer(url string) (*tokenIssuer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make token key: %w", err)
	}
	return &tokenIssuer{key: key, url: url}, nil
}

func (i *tokenIssuer) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /jwks.json", i.keys)
	mux.HandleFunc("POST /token", i.issue)
	return mux
}

// keys publishes the key set (RFC 7517).
func (i *tokenIssuer) keys(w http.ResponseWriter, _ *http.Request) {
	public, err := i.key.PublicKey.Bytes() // 0x04, x, y
	if err != nil {
		http.Error(w, "no key", http.StatusInternalServerError)
		return
	}
	enc := base64.RawURLEncoding
	set := map[string]any{"keys": []map[string]string{{
		"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": keyID,
		"x": enc.EncodeToString(public[1:33]), "y": enc.EncodeToString(public[33:]),
	}}}
	w.Header().Set("Content-Type", "application/jwk-set+json")
	b, err := json.Marshal(set)
	if err != nil {
		http.Error(w, "no key", http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(b) // the client is gone
}

// issue answers a form with subject, group (repeated), audience and expires_in.
func (i *tokenIssuer) issue(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
	if err := r.ParseForm(); err != nil {
		http.Error(w, "not a form", http.StatusBadRequest)
		return
	}
	expires, err := time.ParseDuration(r.PostForm.Get("expires_in"))
	if err != nil || r.PostForm.Get("subject") == "" || r.PostForm.Get("audience") == "" {
		http.Error(w, "give subject, audience and expires_in", http.StatusBadRequest)
		return
	}
	token, err := i.sign(TokenRequest{
		Subject: r.PostForm.Get("subject"), Groups: r.PostForm["group"],
		Audience: r.PostForm.Get("audience"), ExpiresIn: expires,
	})
	if err != nil {
		http.Error(w, "not signed", http.StatusInternalServerError)
		return
	}
	_, _ = io.WriteString(w, token) // the client is gone
}

func (i *tokenIssuer) sign(req TokenRequest) (string, error) {
	now := time.Now()
	t := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
		"iss": i.url, "sub": req.Subject, "aud": req.Audience, "groups": req.Groups,
		"iat": min(now.Unix(), now.Add(req.ExpiresIn).Unix()), "exp": now.Add(req.ExpiresIn).Unix(),
	})
	t.Header["kid"] = keyID
	return t.SignedString(i.key)
}

// Sign returns a token of the fleet's token issuer.
func (f *Fleet) Sign(req TokenRequest) (string, error) { return f.tokens.sign(req) }

// Token asks the token issuer of the fleet that runs in dir for a token.
func Token(ctx context.Context, dir string, req TokenRequest) (string, error) {
	d, err := Read(dir)
	if err != nil {
		return "", err
	}
	if req.ExpiresIn == 0 {
		req.ExpiresIn = defaultExpiry
	}
	form := url.Values{
		"subject": {req.Subject}, "group": req.Groups, "audience": {req.Audience},
		"expires_in": {req.ExpiresIn.String()},
	}
	ctx, cancel := context.WithTimeout(ctx, tokenWithin)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, d.TokenIssuer+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	client := &http.Client{}
	res, err := client.Do(r)
	if err != nil {
		return "", fmt.Errorf("ask the token issuer: %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return "", err
	}
	if res.StatusCode != http.StatusOK {
		return "", errors.New(strings.TrimSpace(string(body)))
	}
	return string(body), nil
}
