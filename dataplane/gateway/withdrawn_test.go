package gateway_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/internal/policy"
)

// vouching is an identity provider that can take back what it has vouched for: its
// keys, and tokens of which it is asked.
type vouching struct {
	server *httptest.Server

	mu     sync.Mutex
	keys   map[string]*ecdsa.PrivateKey // that it publishes
	active map[string]string            // whose tokens are, by their text
}

func newVouching(t *testing.T) *vouching {
	v := &vouching{keys: map[string]*ecdsa.PrivateKey{}, active: map[string]string{}}
	v.server = httptest.NewUnstartedServer(v)
	v.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	v.server.Start()
	t.Cleanup(v.server.Close)
	return v
}

func (v *vouching) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if r.URL.Path == "/introspect" {
		answer := `{"active":false}`
		if subject, ok := v.active[r.FormValue("token")]; ok {
			answer = fmt.Sprintf(`{"active":true,"sub":%q,"aud":"orders","groups":["shop"],"exp":%d}`, subject, time.Now().Add(time.Hour).Unix())
		}
		_, _ = io.WriteString(rw, answer) // the gateway is gone
		return
	}
	var all []string
	for kid, k := range v.keys {
		point, err := k.PublicKey.Bytes()
		if err != nil {
			panic(err)
		}
		b64 := base64.RawURLEncoding.EncodeToString
		all = append(all, fmt.Sprintf(`{"kty":"EC","crv":"P-256","kid":%q,"x":%q,"y":%q}`, kid, b64(point[1:33]), b64(point[33:])))
	}
	_, _ = io.WriteString(rw, `{"keys":[`+strings.Join(all, ",")+`]}`)
}

func (v *vouching) set(change func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change()
}

// sign signs by a key, which is published from now on.
func (v *vouching) sign(t *testing.T, kid, subject string) string {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.keys[kid] == nil {
		var err error
		if v.keys[kid], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
		"iss": "https://login.example", "aud": "orders", "sub": subject, "groups": []string{"shop"}, "exp": time.Now().Add(time.Hour).Unix(),
	})
	token.Header["kid"] = kid
	raw, err := token.SignedString(v.keys[kid])
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// vouched is a fleet whose users are those of v.
func (w *world) vouched(v *vouching, upstream, more string) string {
	spec := w.sockets(upstream)
	login := fmt.Sprintf("jwksUrl: %q, ", w.tokens.server.URL)
	if !strings.Contains(spec, login) {
		w.t.Fatal("the provider has its keys elsewhere")
	}
	return strings.Replace(spec, login, fmt.Sprintf("jwksUrl: %q, %s", v.server.URL+"/keys", more), 1)
}

// An issuer that withdraws a key withdraws what was opened with it, and nothing else.
func TestKeyIsWithdrawnWhileOpen(t *testing.T) {
	w := newWorld(t, options{})
	v, up := newVouching(t), newEcho(t)
	up.answerWith(echoes)
	lost, kept := v.sign(t, "lost", "alice"), v.sign(t, "kept", "bob")
	w.apply(w.vouched(v, plaintext(up.address()), ""))
	open := func(token string) (*websocket.Conn, *http.Response) {
		return w.openBy(w.client(false, w.tls(host)), http.Header{"Authorization": {"Bearer " + token}})
	}
	loser, res := open(lost)
	winner, _ := open(kept)
	w.again()
	w.must(say(t.Context(), loser, "still published"))

	v.set(func() { delete(v.keys, "lost") })
	third, _ := open(v.sign(t, "new", "carol")) // whose key has to be fetched
	code, told := w.hears(loser)
	if w.closedBy(res.Header.Get("Sallyport-Decision-Id"), told, "token_unknown_key"); code != websocket.StatusPolicyViolation {
		t.Errorf("closed with %d", code)
	}
	w.again()
	for _, conn := range []*websocket.Conn{winner, third} {
		w.must(say(t.Context(), conn, "on"))
	}
}

// A token that its issuer says is inactive closes what was opened with it, as soon as
// the issuer has been asked, and nothing else.
func TestTokenIsInactiveWhileOpen(t *testing.T) {
	w := newWorld(t, options{})
	v, up := newVouching(t), newEcho(t)
	up.answerWith(echoes)
	secret := filepath.Join(w.dir, "secret")
	w.must(os.WriteFile(secret, []byte("secret\n"), 0o600))
	w.apply(w.vouched(v, plaintext(up.address()), fmt.Sprintf(
		"introspection: {endpoint: %q, clientId: proxy, clientSecretFile: %q}, ", v.server.URL+"/introspect", secret)))
	v.set(func() { v.active["one"], v.active["two"] = "alice", "bob" })
	open := func(token string) (*websocket.Conn, *http.Response) {
		return w.openBy(w.client(false, w.tls(host)), http.Header{"Authorization": {"Bearer " + token}})
	}
	loser, res := open("one")
	winner, _ := open("two")
	v.set(func() { delete(v.active, "one") })
	w.again()
	w.must(say(t.Context(), loser, "within a minute")) // the word of the issuer counts
	w.set(func() { w.ahead = 61 * time.Second })
	code, told := w.hears(loser)
	if w.closedBy(res.Header.Get("Sallyport-Decision-Id"), told, "token_inactive"); code != websocket.StatusPolicyViolation {
		t.Errorf("closed with %d", code)
	}
	w.again()
	w.must(say(t.Context(), winner, "on"))
}

// panicking panics when it is asked, once it is to.
type panicking struct{ on atomic.Bool }

func (f *panicking) Locate(netip.Addr, time.Time) *policy.Place {
	if f.on.Load() {
		panic("the database is damaged")
	}
	return &policy.Place{Country: "DE"}
}

// What cannot be decided on is closed: a decision that panics takes its stream with it,
// and neither others nor the gateway.
func TestPanicWhileDecidingAgainCloses(t *testing.T) {
	f := &panicking{}
	w := newWorld(t, options{geo: f})
	up := newEcho(t)
	up.answerWith(echoes)
	spec := w.sockets(plaintext(up.address()))
	w.apply(strings.Replace(spec, "  methods: [GET, POST]\n", "  methods: [GET, POST]\n  when: principal.id == \"bob\" || signals.geo.country == \"DE\"\n", 1))
	c := w.client(false, w.tls(host))
	loser, res := w.open(c, "alice")
	winner, _ := w.open(c, "bob")
	f.on.Store(true)
	code, told := w.hears(loser)
	if d := w.closedBy(res.Header.Get("Sallyport-Decision-Id"), told, "evaluation_error"); code != websocket.StatusPolicyViolation || d.Detail != "deciding again has failed" {
		t.Errorf("closed with %d, recorded was %+v", code, d)
	}
	w.again()
	w.must(say(t.Context(), winner, "on"))
	f.on.Store(false)
	after, _ := w.open(c, "alice")
	w.again()
	w.must(say(t.Context(), after, "on"))
}
