package gateway_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/internal/revocation"
	"github.com/sallyport/sallyport/internal/snapshot"
)

// device is a key that signs device tokens.
type device struct {
	w   *world
	key crypto.Signer
	alg jwt.SigningMethod
	jwk map[string]any
}

func (w *world) device() *device {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	point, err := key.PublicKey.Bytes()
	w.must(err)
	return &device{w, key, jwt.SigningMethodES256, map[string]any{
		"kty": "EC", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:]),
	}}
}

func (w *world) deviceEd25519() *device {
	w.t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	w.must(err)
	return &device{w, key, jwt.SigningMethodEdDSA, map[string]any{"kty": "OKP", "crv": "Ed25519", "x": b64(public)}}
}

func (w *world) deviceRSA() *device {
	w.t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	w.must(err)
	return &device{w, key, jwt.SigningMethodPS256, map[string]any{"kty": "RSA", "n": b64(key.N.Bytes()), "e": "AQAB"}}
}

// thumbprint is made by hand (RFC 7638, section 3).
func (d *device) thumbprint() string {
	k, text := d.jwk, ""
	switch k["kty"] {
	case "EC":
		text = fmt.Sprintf(`{"crv":"P-256","kty":"EC","x":"%s","y":"%s"}`, k["x"], k["y"])
	case "OKP":
		text = fmt.Sprintf(`{"crv":"Ed25519","kty":"OKP","x":"%s"}`, k["x"])
	case "RSA":
		text = fmt.Sprintf(`{"e":"%s","kty":"RSA","n":"%s"}`, k["e"], k["n"])
	}
	sum := sha256.Sum256([]byte(text))
	return b64(sum[:])
}

// token is a good one, with what header and claims put over it.
func (d *device) token(header map[string]any, claims jwt.MapClaims) string {
	d.w.t.Helper()
	now := d.w.now()
	all := jwt.MapClaims{"aud": host, "iat": now.Unix(), "exp": now.Add(time.Minute).Unix()}
	maps.Copy(all, claims)
	t := jwt.NewWithClaims(d.alg, all)
	t.Header["typ"], t.Header["jwk"] = "device+jwt", d.jwk
	maps.Copy(t.Header, header)
	raw, err := t.SignedString(d.key)
	d.w.must(err)
	return raw
}

// good is a token as it should be.
func (d *device) good() string { return d.token(nil, nil) }

// lane puts exactly these in force in the security lane.
func (w *world) lane(resources ...string) *revocation.Set {
	w.t.Helper()
	set := revocation.Compile(w.gateway.Revocations(), w.snapshot(snapshot.SecurityLane, strings.Join(resources, "")))
	w.gateway.Revoke(set)
	return set
}

// registered is a Device that is known by something, compliant for an hour.
func (w *world) registered(name, match, facts string) string {
	return fmt.Sprintf("---\n{apiVersion: sallyport/v1, kind: Device, metadata: {name: %s}, spec: {match: {%s}, %s, expiresAt: %q}}\n",
		name, match, facts, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
}

func revoking(name string) string {
	return fmt.Sprintf("---\n{apiVersion: sallyport/v1, kind: Revocation, metadata: {name: lost}, spec: {device: %s}}\n", name)
}

// compliantOnly takes tokens of users alone, on devices that are compliant.
func compliantOnly(yaml string) string {
	return strings.Replace(taking(yaml, "identityProviders: [login]"), "  methods: [GET, POST]\n", "  methods: [GET, POST]\n  when: signals.device.compliant\n", 1)
}

// asDevice is alice's request, from a device that shows what it can.
func (w *world) asDevice(c *http.Client, bearer string, devices ...string) (reason string, d line, body string) {
	w.t.Helper()
	fields := http.Header{"Authorization": {"Bearer " + bearer}, "Accept": {"*/*"}}
	if len(devices) > 0 {
		fields["Sallyport-Device"] = devices
	}
	res, body := w.gets(asking{c, fields})
	d = w.records.of(w.t, "decision", res.Header.Get("Sallyport-Decision-Id"))
	if res.StatusCode == http.StatusOK {
		return "", d, body
	}
	return w.problem(body).Reason, d, body
}

// Nothing but a certificate or a token of its own makes a request a device's, and
// what only looks like one is denied.
func TestDevices(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	mdm := w.ca("mdm")
	w.apply(compliantOnly(w.usual(plaintext(up.address()))) + mdm.provider(`caFile: "`+mdm.file(".pem")+`", subject: SAN_DNS`))
	laptop, phone, stranger, old, server := w.device(), w.deviceEd25519(), w.device(), w.device(), w.deviceRSA()
	exact, other := mdm.leaf(nil), mdm.leaf(nil)
	sum := sha256.Sum256(exact.Certificate[0])
	set := w.lane(
		w.registered("laptop", "keys: ["+laptop.thumbprint()+"]", "compliant: true"),
		w.registered("phone", "keys: ["+phone.thumbprint()+"]", "compliant: false"),
		w.registered("untold", "keys: ["+old.thumbprint()+"]", "os: plan9"),
		w.registered("server", "keys: ["+server.thumbprint()+"]", "compliant: true"),
		w.registered("kiosk", fmt.Sprintf(`certificates: [%x]`, sum), "compliant: true"),
		w.registered("till", `certified: {issuer: "https://pki.example/mdm", id: till.corp.example}`, "compliant: true"),
		w.registered("robot", `spiffeId: "spiffe://prod.example/robot/7"`, "compliant: true"),
	)
	if len(set.Rejects()) > 0 {
		t.Fatalf("%v", set.Rejects())
	}
	till := mdm.leaf(dns("till.corp.example"))
	robot, err := w.issuer.Issue("spiffe://prod.example/robot/7", time.Hour)
	w.must(err)
	robot8, err := w.issuer.Issue("spiffe://prod.example/robot/8", time.Hour)
	w.must(err)
	now, bearer := w.now(), w.tokens.sign(nil)
	at := func(d time.Duration) int64 { return now.Add(d).Unix() }
	const unknown, no, invalid = "evaluation_error", "no_matching_policy", "device_token_invalid"
	for name, c := range map[string]struct {
		certificate *tls.Certificate
		tokens      []string
		reason      string
		detail      string // for invalid; or the device
	}{
		"nothing":                           {reason: unknown},
		"a token":                           {tokens: []string{laptop.good()}, detail: "laptop"},
		"a token, EdDSA":                    {tokens: []string{phone.good()}, reason: no, detail: "phone"},
		"facts that were not told":          {tokens: []string{old.good()}, reason: unknown, detail: "untold"},
		"a name":                            {tokens: []string{"laptop"}, reason: invalid, detail: "malformed"},
		"an empty field":                    {tokens: []string{""}, reason: invalid, detail: "malformed"},
		"claims without a signature":        {tokens: []string{strings.Join(strings.Split(laptop.good(), ".")[:2], ".") + "."}, reason: invalid, detail: "bad_signature"},
		"two tokens":                        {tokens: []string{laptop.good(), laptop.good()}, reason: invalid, detail: "malformed"},
		"two in one":                        {tokens: []string{laptop.good() + ", " + laptop.good()}, reason: invalid, detail: "malformed"},
		"an access token":                   {tokens: []string{bearer}, reason: invalid, detail: "wrong_type"},
		"a DPoP proof":                      {tokens: []string{laptop.token(map[string]any{"typ": "dpop+jwt"}, nil)}, reason: invalid, detail: "wrong_type"},
		"of a device that is not known":     {tokens: []string{stranger.good()}, reason: invalid, detail: "unknown_device"},
		"another device's key in it":        {tokens: []string{stranger.token(map[string]any{"jwk": laptop.jwk}, nil)}, reason: invalid, detail: "bad_signature"},
		"RSA":                               {tokens: []string{server.good()}, reason: invalid, detail: "algorithm"},
		"alg none":                          {tokens: []string{none(laptop)}, reason: invalid, detail: "algorithm"},
		"for another host":                  {tokens: []string{laptop.token(nil, jwt.MapClaims{"aud": "admin.shop.example"})}, reason: invalid, detail: "wrong_audience"},
		"for no host":                       {tokens: []string{laptop.token(nil, jwt.MapClaims{"aud": nil})}, reason: invalid, detail: "wrong_audience"},
		"for several hosts":                 {tokens: []string{laptop.token(nil, jwt.MapClaims{"aud": []string{"admin.shop.example", host}})}, detail: "laptop"},
		"expired":                           {tokens: []string{laptop.token(nil, jwt.MapClaims{"iat": at(-4 * time.Minute), "exp": at(-time.Minute)})}, reason: invalid, detail: "expired"},
		"long-lived":                        {tokens: []string{laptop.token(nil, jwt.MapClaims{"exp": at(5*time.Minute + time.Second)})}, reason: invalid, detail: "long_lived"},
		"as long as may be":                 {tokens: []string{laptop.token(nil, jwt.MapClaims{"exp": at(5 * time.Minute)})}, detail: "laptop"},
		"made in advance":                   {tokens: []string{laptop.token(nil, jwt.MapClaims{"iat": at(2 * time.Minute), "exp": at(4 * time.Minute)})}, reason: invalid, detail: "not_yet_valid"},
		"without exp":                       {tokens: []string{laptop.token(nil, jwt.MapClaims{"exp": nil})}, reason: invalid, detail: "bad_claim"},
		"without iat":                       {tokens: []string{laptop.token(nil, jwt.MapClaims{"iat": nil})}, reason: invalid, detail: "bad_claim"},
		"bound to this access token":        {tokens: []string{laptop.token(nil, jwt.MapClaims{"ath": hashed(bearer)})}, detail: "laptop"},
		"bound to another":                  {tokens: []string{laptop.token(nil, jwt.MapClaims{"ath": hashed(bearer + "x")})}, reason: invalid, detail: "wrong_claim"},
		"bound to what is no text":          {tokens: []string{laptop.token(nil, jwt.MapClaims{"ath": 7})}, reason: invalid, detail: "wrong_claim"},
		"its certificate":                   {certificate: &exact, detail: "kiosk"},
		"another certificate, same name":    {certificate: &other, reason: unknown},
		"one that its authority names so":   {certificate: &till, detail: "till"},
		"an SVID":                           {certificate: &robot, detail: "robot"},
		"an SVID of another":                {certificate: &robot8, reason: unknown},
		"a certificate and a token":         {certificate: &exact, tokens: []string{laptop.good()}, reason: "device_mismatch"},
		"a certificate and a bad token":     {certificate: &exact, tokens: []string{stranger.good()}, reason: invalid, detail: "unknown_device"},
		"a certificate of nothing, a token": {certificate: &robot8, tokens: []string{laptop.good()}, detail: "laptop"},
	} {
		for _, http2 := range []bool{false, true} {
			client := w.client(http2, w.tls(host))
			if c.certificate != nil {
				client = w.presents(http2, *c.certificate)
			}
			for range 2 { // verified, then remembered
				before := up.requests.Load()
				reason, d, body := w.asDevice(client, bearer, c.tokens...)
				if got := d.Device; reason != c.reason || reason == invalid && d.Detail != c.detail || reason != invalid && got != c.detail {
					t.Errorf("%s: %q, recorded %+v", name, reason, d)
				}
				if (up.requests.Load() > before) != (c.reason == "") || strings.Contains(body, "Sallyport-Device") {
					t.Errorf("%s: the upstream got %s", name, body)
				}
			}
		}
	}
}

func dns(name string) func(c *x509.Certificate) {
	return func(c *x509.Certificate) { c.DNSNames = []string{name} }
}

func hashed(raw string) string {
	sum := sha256.Sum256([]byte(raw))
	return b64(sum[:])
}

func none(d *device) string {
	parts := strings.Split(d.token(map[string]any{"alg": "none"}, nil), ".")
	return parts[0] + "." + parts[1] + "."
}

// A token may be sent again until it expires, and is none any more as soon as the
// device is none, or another one's.
func TestDeviceTokenWhileItLasts(t *testing.T) {
	w := newWorld(t, options{})
	w.apply(compliantOnly(w.usual(plaintext(newEcho(t).address()))))
	laptop := w.device()
	match := "keys: [" + laptop.thumbprint() + "]"
	raw, client := laptop.good(), w.client(true, w.tls(host))
	bearer := w.tokens.sign(jwt.MapClaims{"exp": w.now().Add(3 * time.Hour).Unix()})
	expect := func(when, want string) {
		t.Helper()
		if got, d, _ := w.asDevice(client, bearer, raw); got != want {
			t.Errorf("%s: %q, want %q: %+v", when, got, want, d)
		}
	}
	expect("not registered", "device_token_invalid")
	w.lane(w.registered("laptop", match, "compliant: true"))
	expect("registered", "")
	w.lane(w.registered("laptop", match, "compliant: false"))
	expect("not compliant any more", "no_matching_policy")
	w.lane(w.registered("laptop", match, "compliant: true"))
	expect("compliant again", "")
	w.lane(w.registered("laptop", match, "compliant: true"), w.registered("copy", match, "compliant: true"))
	expect("two devices of one key", "device_mismatch")
	w.lane(w.registered("laptop", match, "compliant: true"), revoking("laptop"))
	expect("revoked", "device_revoked")
	w.lane()
	expect("deleted", "device_token_invalid")
	w.lane(w.registered("laptop", match, "compliant: true"))
	w.set(func() { w.ahead = 85 * time.Second })
	expect("within the leeway", "")
	w.set(func() { w.ahead = 95 * time.Second })
	expect("expired", "device_token_invalid")
	w.set(func() { w.ahead = time.Hour + time.Second })
	raw = laptop.good()
	expect("facts have expired", "evaluation_error")
	w.lane(w.registered("laptop", match, "compliant: true"), revoking("laptop"))
	expect("revoked, facts have expired", "device_revoked")
}

// A certificate that is not trusted any more tells no facts, and a device that is
// revoked.
func TestDeviceOfACertificateThatWasRevoked(t *testing.T) {
	w := newWorld(t, options{})
	mdm := w.ca("mdm")
	mdm.revoke(time.Hour)
	w.apply(compliantOnly(w.usual(plaintext(newEcho(t).address()))) +
		mdm.provider(`caFile: "`+mdm.file(".pem")+`", crlFile: "`+mdm.file(".crl")+`", subject: SAN_DNS`))
	leaf := mdm.leaf(nil)
	kiosk := w.registered("kiosk", fmt.Sprintf(`certificates: [%x]`, sha256.Sum256(leaf.Certificate[0])), "compliant: true")
	w.lane(kiosk)
	client, bearer := w.presents(true, leaf), w.tokens.sign(nil)
	if got, d, _ := w.asDevice(client, bearer); got != "" {
		t.Fatalf("%q: %+v", got, d)
	}
	mdm.revoke(time.Hour, 7)
	until(t, "the list is read", func() bool { got, _, _ := w.asDevice(client, bearer); return got == "evaluation_error" })
	w.lane(kiosk, revoking("kiosk"))
	if got, d, _ := w.asDevice(client, bearer); got != "device_revoked" || d.Detail != "lost" {
		t.Errorf("%q: %+v", got, d)
	}
}

// What comes from a device ends when that is revoked, even if nobody knew the
// device when it began; others go on.
func TestRevokedDeviceWhileOpen(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	up.answerWith(func(rw http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(rw, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = conn.CloseNow() }()
		for err == nil {
			_, _, err = conn.Read(r.Context())
		}
	})
	w.apply(w.sockets(plaintext(up.address())))
	laptop, phone := w.device(), w.device()
	w.lane(w.registered("laptop", "keys: ["+laptop.thumbprint()+"]", "compliant: true"), w.registered("phone", "keys: ["+phone.thumbprint()+"]", "compliant: true"))
	robot, err := w.issuer.Issue("spiffe://prod.example/robot/7", time.Hour)
	w.must(err)
	open := func(c *http.Client, devices ...string) (*websocket.Conn, string) {
		fields := http.Header{"Authorization": {"Bearer " + w.tokens.sign(nil)}}
		if len(devices) > 0 {
			fields["Sallyport-Device"] = devices
		}
		conn, res, err := websocket.Dial(t.Context(), "wss://"+host+"/v1/orders", &websocket.DialOptions{HTTPClient: c, HTTPHeader: fields})
		w.must(err)
		t.Cleanup(func() { _ = conn.CloseNow() })
		return conn, res.Header.Get("Sallyport-Decision-Id")
	}
	closed := func(conn *websocket.Conn, id string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, _, err := conn.Read(ctx)
		if ce := (websocket.CloseError{}); !errors.As(err, &ce) || ce.Code != websocket.StatusPolicyViolation || !strings.HasPrefix(ce.Reason, "device_revoked (decision ") {
			t.Errorf("which was closed: %v", err)
		}
		if o := w.records.of(t, "outcome", id); o.Reason != "device_revoked" {
			t.Errorf("recorded was %+v", o)
		}
	}
	plain := w.client(false, w.tls(host))
	one, first := open(plain, laptop.good())
	two, second := open(w.presents(false, robot))
	three, _ := open(plain, phone.good())
	four, _ := open(plain)
	set := w.lane(
		w.registered("laptop", "keys: ["+laptop.thumbprint()+"]", "compliant: true"), w.registered("phone", "keys: ["+phone.thumbprint()+"]", "compliant: true"),
		w.registered("robot", `spiffeId: "spiffe://prod.example/robot/7"`, "compliant: true"), revoking("laptop"))
	closed(one, first)
	w.gateway.Revoke(revocation.Compile(set, w.snapshot(snapshot.SecurityLane,
		w.registered("robot", `spiffeId: "spiffe://prod.example/robot/7"`, "compliant: true")+revoking("robot"))))
	closed(two, second)
	for _, conn := range []*websocket.Conn{three, four} {
		if err := conn.Ping(conn.CloseRead(t.Context())); err != nil {
			t.Errorf("which goes on: %v", err)
		}
	}
}

// A WebSocket that a device's facts have opened ends with them, and not with the
// five minutes of the token that named the device.
func TestPostureOfWhatIsOpen(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	up.answerWith(echoes)
	w.apply(strings.Replace(w.sockets(plaintext(up.address())), "  methods: [GET, POST]\n", "  methods: [GET, POST]\n  when: signals.device.compliant\n", 1))
	laptop, phone := w.device(), w.device()
	fleet := func(compliant string) {
		w.lane(w.registered("laptop", "keys: ["+laptop.thumbprint()+"]", "compliant: "+compliant), w.registered("phone", "keys: ["+phone.thumbprint()+"]", "compliant: true"))
	}
	fleet("true")
	open := func(token string) *websocket.Conn {
		fields := http.Header{"Authorization": {"Bearer " + w.tokens.sign(nil)}, "Sallyport-Device": {token}}
		conn, _, err := websocket.Dial(t.Context(), "wss://"+host+"/v1/orders", &websocket.DialOptions{HTTPClient: w.client(false, w.tls(host)), HTTPHeader: fields})
		w.must(err)
		t.Cleanup(func() { _ = conn.CloseNow() })
		return conn
	}
	loser, winner := open(laptop.good()), open(phone.good())
	fleet("false")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, _, err := loser.Read(ctx)
	if ce := (websocket.CloseError{}); !errors.As(err, &ce) || !strings.HasPrefix(ce.Reason, "no_matching_policy (decision ") {
		t.Errorf("which was closed: %v", err)
	}
	if err := winner.Ping(winner.CloseRead(t.Context())); err != nil {
		t.Errorf("which goes on: %v", err)
	}
}
