package bypass_test

import (
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
	"github.com/sallyport/sallyport/test/openid"
)

// openID is a provider that was written by others.
type openID struct{ issuer string }

// The people whom the provider knows, and their subjects.
const (
	alice   = "test-user@localhost" // id1
	mallory = "test-user2"          // id2
)

// startOpenID starts a provider that sends people back to some origins.
func startOpenID(t *testing.T, origins ...string) *openID {
	t.Helper()
	var redirects []string
	for _, origin := range origins {
		redirects = append(redirects, origin+callbackPath)
	}
	return &openID{openid.Start(t, redirects...)}
}

func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

var loginForm = regexp.MustCompile(`name="id" value="([^"]+)"`)

// signIn signs a person in who was sent to an address of the provider, and
// returns where that sends them back to.
func (o *openID) signIn(t *testing.T, address, user string) (back *url.URL) {
	t.Helper()
	client := &http.Client{Timeout: within, Jar: must(cookiejar.New(nil)), CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if !strings.HasPrefix(r.URL.String(), o.issuer) {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	defer client.CloseIdleConnections()
	read := func(res *http.Response, err error) (*http.Response, string) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		return res, string(must(io.ReadAll(res.Body)))
	}
	login, body := read(client.Get(address))
	id := loginForm.FindStringSubmatch(body)
	if id == nil {
		t.Fatalf("there is no form to sign in at %s: %d %s", address, login.StatusCode, body)
	}
	res, body := read(client.PostForm(login.Request.URL.String(), url.Values{"id": {id[1]}, "username": {user}, "password": {"verysecure"}}))
	if res.StatusCode != http.StatusFound {
		t.Fatalf("the provider answers %d: %s", res.StatusCode, body)
	}
	return must(res.Location())
}

// person is a browser, and who uses it, at one host of one proxy.
type person struct {
	*people
	user    string
	proxy   *fleet.Member
	host    string
	cookies map[string]string
}

// asks is a request as a page's script sends it, with the browser's cookies.
func (p *person) asks(path string, header ...string) request {
	r := request{path: path, header: header, proxy: p.proxy, host: p.host}
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(p.cookies)) {
		pairs = append(pairs, name+"="+p.cookies[name])
	}
	if len(pairs) > 0 {
		r.header = append(r.header, "Cookie: "+strings.Join(pairs, "; "))
	}
	return r
}

// opens is a request for a page in a window.
func (p *person) opens(path string, header ...string) request {
	return p.asks(path, append(header, "Accept: text/html", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document")...)
}

// goes opens a page and keeps the cookies that come with it.
func (p *person) goes(t *testing.T, path string, header ...string) answer {
	t.Helper()
	a, err := p.exchange(t, p.opens(path, header...))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range (&http.Response{Header: a.header}).Cookies() {
		if p.cookies[c.Name] = c.Value; c.MaxAge < 0 {
			delete(p.cookies, c.Name)
		}
	}
	return a
}

// begins goes to a page, and returns where that sends them to sign in.
func (p *person) begins(t *testing.T, path string) (address string) {
	t.Helper()
	a := p.goes(t, path)
	if got := a.outcome(t); got != "302 sign_in_required" {
		t.Fatalf("%s: %s", path, got)
	}
	return a.header.Get("Location")
}

// returns goes to a page, signs in, and stops before it comes back.
func (p *person) returns(t *testing.T, path string) (callback string) {
	t.Helper()
	back := p.openID.signIn(t, p.begins(t, path), p.user)
	if at := p.url(p.asks("")); back.Host != at.Host || back.Path != callbackPath {
		t.Fatalf("the provider sends back to %s", back)
	}
	return back.RequestURI()
}

// signsIn goes to a page and comes back to it, and returns the session's cookie.
func (p *person) signsIn(t *testing.T, path string) (value string) {
	t.Helper()
	if got, want := p.goes(t, p.returns(t, path)).outcome(t), "303 to "+path; got != want {
		t.Fatalf("the sign-in ends with %s, want %s", got, want)
	}
	if len(p.cookies) != 1 {
		t.Fatalf("the browser keeps %v", p.cookies)
	}
	return p.cookies[sessionCookie]
}

// with is p's browser with other cookies: pairs of name and value.
func (p *person) with(pairs ...string) *person {
	other := *p
	other.cookies = map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		other.cookies[pairs[i]] = pairs[i+1]
	}
	return &other
}

// and is p's browser with one more cookie.
func (p *person) and(name, value string) *person {
	other := p.with(name, value)
	for known, v := range p.cookies {
		if known != name {
			other.cookies[known] = v
		}
	}
	return other
}

// pending is the cookie of the sign-in that is under way.
func (p *person) pending(t *testing.T) (name, value string) {
	t.Helper()
	for name, value := range p.cookies {
		if strings.HasPrefix(name, pendingPrefix) {
			return name, value
		}
	}
	t.Fatalf("no sign-in is under way: %v", p.cookies)
	return "", ""
}
