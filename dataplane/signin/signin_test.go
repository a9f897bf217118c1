package signin_test

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/dataplane/signin"
	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// liar is an OpenID provider that answers as a test wants it to: a real HTTPS
// server. Honest ones are met by the gateway's tests.
type liar struct {
	t      *testing.T
	server *httptest.Server
	key    *ecdsa.PrivateKey

	mu       sync.Mutex
	metadata map[string]any              // put over the usual; nil is left out
	claims   jwt.MapClaims               // of ID tokens, likewise
	info     map[string]any              // of userinfo, likewise
	kind     string                      // of access tokens; Bearer when empty
	answer   map[string]http.HandlerFunc // instead of the usual, by path
	asked    map[string]int              // by path
	form     url.Values                  // of the last exchange
	basic    [2]string                   // its credentials
	nonce    string                      // that the browser was sent with
	bearer   string                      // what userinfo was asked for with
}

func newLiar(t *testing.T) *liar {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	l := &liar{t: t, key: key, metadata: map[string]any{}, claims: jwt.MapClaims{}, info: map[string]any{}, answer: map[string]http.HandlerFunc{}, asked: map[string]int{}}
	l.server = httptest.NewUnstartedServer(l)
	l.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	l.server.StartTLS()
	t.Cleanup(l.server.Close)
	return l
}

// ServeHTTP implements http.Handler.
func (l *liar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked[r.URL.Path]++
	if answer := l.answer[r.URL.Path]; answer != nil {
		answer(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		_, _ = io.WriteString(w, text(over(map[string]any{
			"issuer": l.server.URL, "authorization_endpoint": l.server.URL + "/authorize", "token_endpoint": l.server.URL + "/token",
			"end_session_endpoint": l.server.URL + "/end?a=b", "userinfo_endpoint": l.server.URL + "/userinfo",
		}, l.metadata)))
	case "/jwks":
		point, err := l.key.PublicKey.Bytes()
		if err != nil {
			panic(err)
		}
		b64 := base64.RawURLEncoding.EncodeToString
		fmt.Fprintf(w, `{"keys":[{"kty":"EC","crv":"P-256","use":"sig","kid":"one","x":%q,"y":%q}]}`, b64(point[1:33]), b64(point[33:]))
	case "/token":
		if err := r.ParseForm(); err != nil {
			panic(err)
		}
		l.form = r.PostForm
		l.basic[0], l.basic[1], _ = r.BasicAuth()
		_, _ = io.WriteString(w, text(map[string]any{"access_token": "x", "token_type": cmp.Or(l.kind, "Bearer"), "id_token": l.token()}))
	case "/userinfo":
		l.bearer = r.Header.Get("Authorization")
		_, _ = io.WriteString(w, text(over(map[string]any{
			"sub": "alice", "groups": []string{"night", "shop"}, "email": "mallory@shop.example", "phone": "+49 1", "acr": "highest",
		}, l.info)))
	}
}

func (l *liar) token() string {
	token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims(over(map[string]any{
		"iss": l.server.URL, "aud": "app", "sub": "alice", "nonce": l.nonce, "groups": []string{"shop"}, "email": "alice@shop.example",
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(), "auth_time": time.Now().Add(-time.Hour).Unix(),
		"acr": "high", "amr": []string{"pwd", "otp"}, "secret": "not for us",
	}, l.claims)))
	token.Header["kid"] = "one"
	raw, err := token.SignedString(l.key)
	if err != nil {
		panic(err)
	}
	return raw
}

func over(usual, changes map[string]any) map[string]any {
	maps.Copy(usual, changes)
	maps.DeleteFunc(usual, func(_ string, v any) bool { return v == nil })
	return usual
}

// text is JSON.
func text(v map[string]any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// world is a client, and what it needs.
type world struct {
	*testing.T
	liar     *liar
	client   *signin.Client
	provider *signin.Provider
	verifier *authn.Authenticator
	site     signin.Site
}

func newWorld(t *testing.T) *world {
	t.Helper()
	l := newLiar(t)
	pool, err := authn.New(authn.Config{Log: slog.New(slog.DiscardHandler), Client: l.server.Client()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = pool.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; l.server.Client().CloseIdleConnections() })
	client, err := signin.New(signin.Config{Log: slog.New(slog.DiscardHandler), HTTP: l.server.Client(), Timeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := session.NewRing("aws", session.NewKey(time.Now().Add(-time.Minute)))
	if err != nil {
		t.Fatal(err)
	}
	return &world{
		T: t, liar: l, client: client,
		provider: &signin.Provider{
			Name: authn.ProviderName{Namespace: "shop", Name: "people"}, Issuer: l.server.URL, ClientID: "app", Private: true, Claims: []string{"email", "phone"},
		},
		verifier: pool.Sync([]authn.Provider{{
			Namespace: "shop", Name: "people", Issuer: l.server.URL, JWKSURL: l.server.URL + "/jwks", Audiences: []string{"orders"}, AllowPrivateAddresses: true,
		}}),
		site: signin.Site{Host: "app.shop.example", Origin: "https://app.shop.example:8443", Keys: keys},
	}
}

// with is the site as a browser asks that sends cookies.
func (w *world) with(cookies string) signin.Site {
	at := w.site
	at.Cookies = []string{cookies}
	return at
}

// signIn has a browser sign in, and returns what came of it.
func (w *world) signIn() (*session.Session, *signin.Answer, *signin.Failure) {
	w.Helper()
	now := time.Now()
	answer, failure := w.client.Begin(w.Context(), w.site, w.provider, "/orders?a=b", now)
	if failure != nil {
		return nil, nil, failure
	}
	to, err := url.Parse(answer.Location)
	if err != nil {
		w.Fatal(err)
	}
	if got := to.Query().Get("redirect_uri"); got != "https://app.shop.example:8443/.sallyport/callback" {
		w.Fatalf("the redirect URI is %s", got)
	}
	w.liar.mu.Lock()
	w.liar.nonce = to.Query().Get("nonce")
	w.liar.mu.Unlock()
	cookie, _, _ := strings.Cut(answer.Cookies[0], ";")
	query := url.Values{"state": {to.Query().Get("state")}, "code": {"code"}}
	pending, failure := signin.Resume(w.with(cookie), query, now)
	if failure != nil {
		w.Fatalf("resume: %+v", failure)
	}
	return w.client.Complete(w.Context(), &signin.Return{
		Site: w.site, Pending: pending, Query: query, Provider: w.provider, Verifier: w.verifier, Lasts: time.Hour,
	}, now)
}

func TestWhatASessionKeeps(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("s&cret \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.provider.SecretFile = file
	s, answer, failure := w.signIn()
	if failure != nil {
		t.Fatalf("%+v", failure)
	}
	if answer.Location != "/orders?a=b" || len(answer.Cookies) != 2 {
		t.Errorf("the browser is told %+v", answer)
	}
	for _, c := range answer.Cookies {
		if !strings.HasPrefix(c, "__Host-sallyport-") || !strings.HasSuffix(c, "; Secure; HttpOnly; SameSite=Lax") || !strings.Contains(c, "; Path=/;") || strings.Contains(c, "Domain") {
			t.Errorf("a cookie is %s", c)
		}
	}
	if s.Provider != "shop/people" || s.Subject != "alice" || len(s.Groups) != 1 || s.ID == "" || s.ACR != "high" || len(s.AMR) != 2 ||
		time.Since(s.AuthTime).Round(time.Minute) != time.Hour || s.Expires.Sub(s.SignedIn) != time.Hour {
		t.Errorf("the session is %+v", s)
	}
	if len(s.Claims) != 1 || s.Claims["email"] != "alice@shop.example" {
		t.Errorf("the session keeps %v", s.Claims)
	}
	if w.liar.basic != [2]string{"app", "s%26cret"} || len(w.liar.form.Get("code_verifier")) < 43 || w.liar.form.Get("client_secret") != "" {
		t.Errorf("the provider got %v and %v", w.liar.basic, w.liar.form)
	}
	// Secrets change without a restart, and go into the body where that is wanted.
	if err := os.WriteFile(file, []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	other := newWorld(t)
	other.provider.SecretFile = file
	other.liar.metadata["token_endpoint_auth_methods_supported"] = []string{"client_secret_post"}
	other.liar.claims["sid"] = "theirs"
	if s, _, failure = other.signIn(); failure != nil || s.ID != "theirs" {
		t.Fatalf("%+v, %+v", s, failure)
	}
	if other.liar.form.Get("client_secret") != "other" || other.liar.basic[0] != "" {
		t.Errorf("the provider got %v and %v", other.liar.basic, other.liar.form)
	}
}

// What the ID token does not say is asked for where that is wanted, once; what it
// says stays.
func TestUserInfo(t *testing.T) {
	w := newWorld(t)
	if s, _, failure := w.signIn(); failure != nil || w.liar.asked["/userinfo"] != 0 || !slices.Equal(s.Groups, []string{"shop"}) {
		t.Errorf("nobody wants it: %+v, %+v", s, failure)
	}
	w.provider.UserInfo = true
	s, _, failure := w.signIn()
	if failure != nil {
		t.Fatalf("%+v", failure)
	}
	if w.liar.asked["/userinfo"] != 1 || w.liar.bearer != "Bearer x" {
		t.Errorf("it was asked %d times, with %q", w.liar.asked["/userinfo"], w.liar.bearer)
	}
	if !slices.Equal(s.Groups, []string{"shop", "night"}) || s.ACR != "high" || s.Subject != "alice" ||
		!maps.Equal(s.Claims, map[string]any{"email": "alice@shop.example", "phone": "+49 1"}) {
		t.Errorf("the session is %+v", s)
	}
	w.liar.claims["groups"], w.liar.info["groups"] = nil, "night"
	if s, _, failure := w.signIn(); failure != nil || !slices.Equal(s.Groups, []string{"night"}) {
		t.Errorf("groups that are there alone: %+v, %+v", s, failure)
	}
}

// Whatever a provider answers that is not the answer to what was asked signs nobody
// in.
func TestProvidersThatAnswerSomethingElse(t *testing.T) {
	page := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<html>")
	}
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	endless := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}
	silent := func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // else the server does not see that the client is gone
		<-r.Context().Done()
	}
	elsewhere := func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/jwks", http.StatusFound) }
	asks := func(change func(*world)) func(*world) {
		return func(w *world) { w.provider.UserInfo = true; change(w) }
	}
	says := func(media, text string) func(*world) {
		return asks(func(w *world) {
			w.liar.answer["/userinfo"] = func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", media)
				_, _ = io.WriteString(w, text)
			}
		})
	}
	const discovery = "/.well-known/openid-configuration"
	for name, c := range map[string]struct {
		change func(*world)
		want   signin.Reason
	}{
		"another nonce":               {func(w *world) { w.liar.claims["nonce"] = "other" }, signin.Failed},
		"no nonce":                    {func(w *world) { w.liar.claims["nonce"] = nil }, signin.Failed},
		"another audience":            {func(w *world) { w.liar.claims["aud"] = "orders" }, signin.Failed},
		"another client of many":      {func(w *world) { w.liar.claims["aud"], w.liar.claims["azp"] = []string{"app", "b"}, "b" }, signin.Failed},
		"many clients, none of them":  {func(w *world) { w.liar.claims["aud"] = []string{"app", "b"} }, signin.Failed},
		"another issuer in the token": {func(w *world) { w.liar.claims["iss"] = "https://mallory.example" }, signin.Failed},
		"an expired token":            {func(w *world) { w.liar.claims["exp"] = time.Now().Add(-time.Hour).Unix() }, signin.Failed},
		"no subject":                  {func(w *world) { w.liar.claims["sub"] = nil }, signin.Failed},
		"too much for a cookie":       {func(w *world) { w.liar.claims["groups"] = strings.Split(strings.Repeat("group ", 700)+"x", " ") }, signin.TooLarge},
		"no ID token": {func(w *world) {
			w.liar.answer["/token"] = func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				_, _ = io.WriteString(w, `{"access_token":"x","token_type":"Bearer"}`)
			}
		}, signin.Failed},
		"a code that is refused":         {func(w *world) { w.liar.answer["/token"] = status(http.StatusBadRequest) }, signin.Failed},
		"an exchange that fails":         {func(w *world) { w.liar.answer["/token"] = status(http.StatusBadGateway) }, signin.ProviderUnavailable},
		"a page for tokens":              {func(w *world) { w.liar.answer["/token"] = page }, signin.ProviderUnavailable},
		"tokens without end":             {func(w *world) { w.liar.answer["/token"] = endless }, signin.ProviderUnavailable},
		"no tokens, ever":                {func(w *world) { w.liar.answer["/token"] = silent }, signin.ProviderUnavailable},
		"a secret that is not there":     {func(w *world) { w.provider.SecretFile = "/nowhere/at/all" }, signin.ProviderUnavailable},
		"userinfo of another":            {asks(func(w *world) { w.liar.info["sub"] = "mallory" }), signin.Failed},
		"userinfo of nobody":             {asks(func(w *world) { w.liar.info["sub"] = nil }), signin.Failed},
		"userinfo with two subjects":     {says("application/json", `{"sub":"mallory","sub":"alice"}`), signin.Failed},
		"userinfo that is no object":     {says("application/json", `["alice"]`), signin.Failed},
		"userinfo that is signed":        {says("application/jwt", `{"sub":"alice"}`), signin.Failed},
		"userinfo that is a page":        {asks(func(w *world) { w.liar.answer["/userinfo"] = page }), signin.Failed},
		"userinfo with other groups":     {asks(func(w *world) { w.liar.info["groups"] = []any{"shop", 7} }), signin.Failed},
		"groups that are elsewhere":      {asks(func(w *world) { w.liar.info["_claim_names"] = map[string]any{"groups": "x"} }), signin.Failed},
		"userinfo too large to keep":     {asks(func(w *world) { w.liar.info["phone"] = strings.Repeat("1", 5000) }), signin.TooLarge},
		"userinfo without end":           {asks(func(w *world) { w.liar.answer["/userinfo"] = endless }), signin.ProviderUnavailable},
		"no userinfo, ever":              {asks(func(w *world) { w.liar.answer["/userinfo"] = silent }), signin.ProviderUnavailable},
		"userinfo elsewhere":             {asks(func(w *world) { w.liar.answer["/userinfo"] = elsewhere }), signin.ProviderUnavailable},
		"userinfo that is refused":       {asks(func(w *world) { w.liar.answer["/userinfo"] = status(http.StatusUnauthorized) }), signin.Failed},
		"userinfo that fails":            {asks(func(w *world) { w.liar.answer["/userinfo"] = status(http.StatusBadGateway) }), signin.ProviderUnavailable},
		"userinfo in clear":              {asks(func(w *world) { w.liar.metadata["userinfo_endpoint"] = "http://mallory.example/" }), signin.ProviderUnavailable},
		"no userinfo endpoint":           {asks(func(w *world) { w.liar.metadata["userinfo_endpoint"] = nil }), signin.ProviderUnavailable},
		"a token that is not a bearer's": {asks(func(w *world) { w.liar.kind = "DPoP" }), signin.Failed},

		"an answer without iss": {func(w *world) { w.liar.metadata["authorization_response_iss_parameter_supported"] = true }, signin.Failed},

		"metadata of another":       {func(w *world) { w.liar.metadata["issuer"] = "https://mallory.example" }, signin.ProviderUnavailable},
		"an authorization in clear": {func(w *world) { w.liar.metadata["authorization_endpoint"] = "http://mallory.example/" }, signin.ProviderUnavailable},
		"no token endpoint":         {func(w *world) { w.liar.metadata["token_endpoint"] = nil }, signin.ProviderUnavailable},
		"a page for metadata":       {func(w *world) { w.liar.answer[discovery] = page }, signin.ProviderUnavailable},
		"metadata without end":      {func(w *world) { w.liar.answer[discovery] = endless }, signin.ProviderUnavailable},
		"no metadata, ever":         {func(w *world) { w.liar.answer[discovery] = silent }, signin.ProviderUnavailable},
		"metadata elsewhere":        {func(w *world) { w.liar.answer[discovery] = elsewhere }, signin.ProviderUnavailable},
		"no keys for cookies":       {func(w *world) { w.site.Keys = nil }, signin.KeysUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			c.change(w)
			s, _, failure := w.signIn()
			if failure == nil || failure.Reason != c.want {
				t.Errorf("got %+v, %+v; want %s", s, failure, c.want)
			}
		})
	}
}

// A provider is asked for its metadata once in an hour, and once in a while when it
// does not answer; what is known of it is good for a day.
func TestMetadataIsKept(t *testing.T) {
	const discovery = "/.well-known/openid-configuration"
	w := newWorld(t)
	now := time.Now()
	begin := func(after time.Duration) *signin.Failure {
		_, failure := w.client.Begin(w.Context(), w.site, w.provider, "/", now.Add(after))
		return failure
	}
	asked := func() int {
		w.liar.mu.Lock()
		defer w.liar.mu.Unlock()
		return w.liar.asked[discovery]
	}
	down := func(is bool) {
		w.liar.mu.Lock()
		defer w.liar.mu.Unlock()
		if w.liar.answer[discovery] = nil; is {
			w.liar.answer[discovery] = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }
		}
	}
	down(true)
	for range 10 {
		if f := begin(0); f == nil || f.Reason != signin.ProviderUnavailable {
			t.Fatalf("got %+v", f)
		}
	}
	if n := asked(); n != 1 {
		t.Errorf("a provider that is away was asked %d times", n)
	}
	down(false)
	for i := range 10 {
		if f := begin(time.Minute + time.Duration(i)*time.Minute); f != nil {
			t.Fatalf("got %+v", f)
		}
	}
	if n := asked(); n != 2 {
		t.Errorf("within an hour it was asked %d times", n)
	}
	down(true)
	if f := begin(23 * time.Hour); f != nil {
		t.Errorf("what is known of a provider is good for a day: %+v", f)
	}
	if f := begin(25 * time.Hour); f == nil {
		t.Error("what is known of a provider is good for ever")
	}
}

// A browser that opens many windows keeps few sign-ins.
func TestPendingSignInsAreBounded(t *testing.T) {
	w := newWorld(t)
	cookies := map[string]string{}
	for range 50 {
		var fields []string
		for name, value := range cookies {
			fields = append(fields, name+"="+value)
		}
		answer, failure := w.client.Begin(w.Context(), w.with(strings.Join(fields, "; ")), w.provider, "/", time.Now())
		if failure != nil {
			t.Fatalf("%+v", failure)
		}
		for _, c := range answer.Cookies {
			pair, attributes, _ := strings.Cut(c, ";")
			name, value, _ := strings.Cut(pair, "=")
			if cookies[name] = value; strings.Contains(attributes, "Max-Age=0;") {
				delete(cookies, name)
			}
		}
		if len(cookies) > 8 {
			t.Fatalf("the browser keeps %d sign-ins", len(cookies))
		}
	}
	// What is not ours is not repeated into an answer.
	answer, failure := w.client.Begin(w.Context(), w.with(strings.Repeat("__Host-sallyport-signin-a\"b=c; ", 20)), w.provider, "/", time.Now())
	if failure != nil || len(answer.Cookies) != 1 {
		t.Errorf("got %+v, %+v", answer, failure)
	}
}

func TestLeave(t *testing.T) {
	w := newWorld(t)
	s, _, failure := w.signIn()
	if failure != nil {
		t.Fatalf("%+v", failure)
	}
	now := time.Now()
	who := authn.SignedIn(s)
	if w.client.Ended(who, now) {
		t.Error("it has ended before it has")
	}
	answer := w.client.Leave(w.Context(), w.with("a=b; __Host-sallyport-signin-AAAAAAAA=x"), s, w.provider, now)
	if answer.Location != w.liar.server.URL+"/end?a=b&client_id=app" || len(answer.Cookies) != 2 {
		t.Errorf("got %+v", answer)
	}
	bearer := *who
	bearer.AuthenticatedBy = "jwt"
	for what, c := range map[string]struct {
		who   *policy.Principal
		now   time.Time
		ended bool
	}{
		"the session": {who, now, true}, "while it could last": {who, now.Add(session.MaxLifetime), true},
		"beside a token":              {&policy.Principal{Kind: policy.User, ID: "bob", Beside: []*policy.Principal{who}}, now, true},
		"a token of the same session": {&bearer, now, false}, "nobody": {&policy.Principal{}, now, false},
	} {
		if got := w.client.Ended(c.who, c.now); got != c.ended {
			t.Errorf("%s: %v", what, got)
		}
	}
	if answer := w.client.Leave(w.Context(), w.site, nil, nil, now); answer.Location != "" || len(answer.Cookies) != 1 {
		t.Errorf("got %+v", answer)
	}
}

// FuzzResume: no query and no cookie of a stranger resumes anything.
func FuzzResume(f *testing.F) {
	keys, err := session.NewRing("aws", session.NewKey(time.Now().Add(-time.Minute)))
	if err != nil {
		f.Fatal(err)
	}
	site := signin.Site{Host: "app.shop.example", Origin: "https://app.shop.example", Keys: keys}
	f.Add("state=AAAAAAAAAAAAAAAAAAAAAAAAAA&code=x", "__Host-sallyport-signin-AAAAAAAA=AAAA")
	f.Add("state=A&state=B", "")
	f.Add("error=access_denied&iss=x", "a=b")
	f.Fuzz(func(t *testing.T, raw, cookie string) {
		query, err := url.ParseQuery(raw)
		if err != nil {
			return
		}
		at := site
		at.Cookies = []string{cookie}
		if p, failure := signin.Resume(at, query, time.Now()); failure == nil || failure.Reason != signin.Unknown {
			t.Errorf("got %+v, %+v", p, failure)
		}
	})
}
