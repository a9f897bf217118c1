package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/dataplane/access"
	"github.com/sallyport/sallyport/dataplane/assertion"
	"github.com/sallyport/sallyport/dataplane/gateway"
	"github.com/sallyport/sallyport/dataplane/overload"
	"github.com/sallyport/sallyport/dataplane/record"
	"github.com/sallyport/sallyport/dataplane/signin"
	"github.com/sallyport/sallyport/dataplane/trace"
	"github.com/sallyport/sallyport/dataplane/upstream"
	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/identity/issuer"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/revocation"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(childVariable); role != "" {
		beChild(role)
		return
	}
	goleak.VerifyTestMain(m)
}

const self identity.ID = "spiffe://prod.example/proxy/one"

const host = "api.shop.example"

// world is a running gateway, and all that it needs, for real.
type world struct {
	t         testing.TB
	issuer    *issuer.Issuer
	tokens    *tokens
	gateway   *gateway.Gateway
	signin    *signin.Client
	records   *lines
	recorder  *record.Recorder
	registry  *prometheus.Registry
	keys      *assertion.Keys
	dir       string
	roots     *x509.CertPool
	table     *compile.Table
	resources string         // that are in force
	revisions map[string]int // by environment
	stop      func()         // ends the gateway and waits for it

	mu    sync.Mutex
	age   time.Duration // of the table
	known bool
	since time.Duration    // revocations were confirmed
	ahead time.Duration    // of the gateway's clock
	clock func() time.Time // instead; nil for none
	away  error            // what the control plane says to logouts
	told  []*proxyv1.LogoutRequest
}

// options are what tests change of the usual.
type options struct {
	source    *identity.Source
	drain     time.Duration
	writer    io.Writer
	queue     int
	unsecured bool // nothing is known of revocations
	remote    record.Remote
	geo       policy.Locator
	limits    gateway.LimitStore
	trace     *trace.Tracer
	access    *access.Log
	overload  *overload.Guard
	log       *slog.Logger // quiet when nil
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func newWorld(t testing.TB, o options) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), records: &lines{}, registry: prometheus.NewRegistry(), roots: x509.NewCertPool(), revisions: map[string]int{}, known: true}
	var err error
	w.issuer, err = issuer.New(issuer.Config{DevelopmentOnly: true, TrustDomain: "prod.example", Log: quiet()})
	w.must(err)
	w.roots.AppendCertsFromPEM(w.issuer.ServerCAPEM())
	w.tokens = newTokens(t)
	if o.source == nil {
		o.source = w.identified(self)
	}
	if o.writer == nil {
		o.writer = w.records
	}
	if o.log == nil {
		o.log = quiet()
	}
	pool, err := authn.New(authn.Config{Log: quiet(), Client: w.tokens.server.Client(), Now: w.now})
	w.must(err)
	w.keys, err = assertion.New(assertion.Config{File: filepath.Join(w.dir, "assertion-keys"), Log: quiet(), Now: w.now})
	w.must(err)
	w.must(w.keys.Load())
	upstreams, err := upstream.New(upstream.Config{Identity: o.source, Log: quiet(), Now: w.now})
	w.must(err)
	w.recorder, err = record.New(record.Config{Writer: o.writer, Remote: o.remote, Log: quiet(), Queue: o.queue, Wait: 50 * time.Millisecond, Gather: time.Millisecond})
	w.must(err)
	w.signin, err = signin.New(signin.Config{Log: quiet()})
	w.must(err)
	w.gateway, err = gateway.New(gateway.Config{
		Identity: o.source, Authn: pool, Upstreams: upstreams, Record: w.recorder, SignIn: w.signin, Log: o.log, Registerer: w.registry,
		Age: w.configurationAge, SecurityAge: w.securityAge, Drain: o.drain, Reload: 10 * time.Millisecond, Now: w.now,
		Assertions: assertion.NewSigner(w.keys), LoggedOut: w.cutOff, Geo: o.geo, Limits: o.limits, Trace: o.trace, Access: o.access, Overload: o.overload,
	})
	w.must(err)
	w.run(w.recorder.Run)
	w.run(pool.Run)
	w.run(w.keys.Run)
	w.run(upstreams.Run)
	w.stop = w.run(w.gateway.Run)
	w.certificate("edge", host, "*.wild.example")
	if !o.unsecured {
		w.revoke()
	}
	return w
}

// cutOff is told what has ended, for the fleet.
func (w *world) cutOff(_ context.Context, proof *proxyv1.LogoutRequest) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, proof)
	return w.away
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) configurationAge(time.Time) (time.Duration, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.age, w.known
}

func (w *world) securityAge(time.Time) (time.Duration, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.since, w.known
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.clock != nil {
		return w.clock()
	}
	return time.Now().Add(w.ahead)
}

func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// run calls part until the returned function, or the end of the test, stops it.
func (w *world) run(part func(context.Context) error) (stop func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- part(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("run: %v", err)
		}
	})
	w.t.Cleanup(stop)
	return stop
}

// identified is a Source that has the identity id.
func (w *world) identified(id identity.ID) *identity.Source {
	w.t.Helper()
	socket := filepath.Join(w.t.TempDir(), "s")
	e, err := w.issuer.Listen(id, socket, 0)
	w.must(err)
	addr, err := identity.SocketAddr(socket)
	w.must(err)
	src, err := identity.New(identity.Config{
		SocketAddr: addr, TrustDomain: "prod.example", JWTBundles: true, Log: quiet(), Now: w.now,
		Endpoints: func(private bool) *http.Transport {
			transport := authn.Transport(private)
			transport.TLSClientConfig = &tls.Config{RootCAs: w.roots, MinVersion: tls.VersionTLS13}
			return transport
		},
	})
	w.must(err)
	w.run(e.Run)
	w.run(src.Run)
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	w.must(src.Wait(ctx))
	return src
}

// certificate writes a server certificate for names to files NAME.crt and
// NAME.key.
func (w *world) certificate(file string, names ...string) {
	w.t.Helper()
	cert, err := w.issuer.IssueServerCertificate(names, time.Hour)
	w.must(err)
	chain, key, err := issuer.EncodePEM(cert)
	w.must(err)
	w.must(os.WriteFile(filepath.Join(w.dir, file+".key"), key, 0o600))
	w.must(os.WriteFile(filepath.Join(w.dir, file+".crt"), chain, 0o600))
}

// files names the files of certificate, for a Listener.
func (w *world) files(file string) string {
	return fmt.Sprintf("{certificateFile: %q, privateKeyFile: %q}", filepath.Join(w.dir, file+".crt"), filepath.Join(w.dir, file+".key"))
}

// listener is the Listener edge/public.
func (w *world) listener() string {
	return `
---
apiVersion: sallyport/v1
kind: Listener
metadata: {namespace: edge, name: public}
spec: {address: "127.0.0.1:0", tls: {certificates: [` + w.files("edge") + `], clientCertificates: OPTIONAL, minVersion: "1_2"}}
`
}

// route is a Route shop/NAME of one host, its Upstream and its Policies: users
// of group shop and workloads of namespace shop may GET and POST.
func (w *world) route(name, host, upstream string) string {
	return strings.NewReplacer("NAME", name, "HOST", host, "UPSTREAM", upstream).Replace(`
---
apiVersion: sallyport/v1
kind: Upstream
metadata: {namespace: shop, name: NAME}
spec: {UPSTREAM}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: NAME, labels: {app: NAME}}
spec: {hosts: [HOST], paths: ["/v1/**"], upstream: NAME, authentication: {identityProviders: [login], clientCertificates: true}}
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: NAME-allow}
spec:
  routes: {names: [NAME]}
  effect: ALLOW
  principals: [{group: shop}, {spiffe: "spiffe://prod.example/ns/shop/*"}]
  methods: [GET, POST]
`)
}

// login is the IdentityProvider shop/login.
func (w *world) login() string {
	return fmt.Sprintf(`
---
apiVersion: sallyport/v1
kind: IdentityProvider
metadata: {namespace: shop, name: login}
spec: {issuer: "https://login.example", jwksUrl: %q, audiences: [orders], allowPrivateAddresses: true}
`, w.tokens.server.URL)
}

func plaintext(endpoints ...string) string {
	return fmt.Sprintf("plaintext: {}, endpoints: [%s]", strings.Join(quoted(endpoints), ", "))
}

func quoted(texts []string) []string {
	q := make([]string, len(texts))
	for i, s := range texts {
		q[i] = fmt.Sprintf("%q", s)
	}
	return q
}

// usual is one route, shop/orders, to an upstream.
func (w *world) usual(upstream string) string {
	return w.listener() + w.login() + w.route("orders", host, upstream)
}

// compile makes a table of resources, as the next revision.
func (w *world) compile(yaml string) *compile.Table {
	w.t.Helper()
	w.table = compile.Compile(w.table, w.snapshot("aws", yaml))
	return w.table
}

// snapshot is the next of an environment.
func (w *world) snapshot(environment, yaml string) *snapshot.Snapshot {
	w.t.Helper()
	all, problems := resource.ParseYAML([]byte(yaml))
	var entries []snapshot.Entry
	for _, l := range all {
		p, found := resource.Decode(l.Resource)
		problems.Join(l.Index, found)
		if found.Total > 0 {
			continue
		}
		b, err := resource.Encode(p)
		w.must(err)
		e, err := snapshot.NewEntry(b)
		w.must(err)
		entries = append(entries, e)
	}
	for _, p := range problems.Kept {
		w.t.Fatalf("%s", p)
	}
	w.revisions[environment]++
	set := snapshot.NewSet(entries...)
	signer := snapshot.NewSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	head, err := signer.SignHead(snapshot.Statement{
		Epoch: 1, Environment: environment, Revision: snapshot.Revision(w.revisions[environment]), Root: set.Root(), Documents: set.Len(),
	})
	w.must(err)
	s, err := snapshot.Assemble(head, set)
	w.must(err)
	return s
}

// apply puts resources in force.
func (w *world) apply(yaml string) {
	w.t.Helper()
	w.resources = yaml
	w.gateway.Apply(w.compile(yaml))
	for _, r := range w.table.Rejects() {
		w.t.Fatalf("%s is rejected: %s", r.Key, r.Reason)
	}
	if w.gateway.Current() != w.table {
		w.t.Fatal("after Apply another table is in force")
	}
}

// revoke puts exactly these in force, each a Revocation's spec in YAML.
func (w *world) revoke(specs ...string) {
	w.t.Helper()
	w.gateway.Revoke(w.revocations(specs...))
	for _, r := range w.gateway.Revocations().Rejects() {
		w.t.Fatalf("%s is rejected: %s", r.Key, r.Reason)
	}
}

func (w *world) revocations(specs ...string) *revocation.Set {
	w.t.Helper()
	var yaml strings.Builder
	for i, spec := range specs {
		fmt.Fprintf(&yaml, "---\n{apiVersion: sallyport/v1, kind: Revocation, metadata: {name: r-%d}, spec: {%s}}\n", i, spec)
	}
	return revocation.Compile(w.gateway.Revocations(), w.snapshot(snapshot.SecurityLane, yaml.String()))
}

// address returns where a listener listens.
func (w *world) address(name string) string {
	w.t.Helper()
	for _, l := range w.gateway.Listeners() {
		if l.Namespace+"/"+l.Name == name && l.Error == "" {
			return l.Address
		}
	}
	w.t.Fatalf("%s does not listen: %+v", name, w.gateway.Listeners())
	return ""
}

// tls is what clients of a host use.
func (w *world) tls(host string) *tls.Config {
	return &tls.Config{RootCAs: w.roots, ServerName: host}
}

// as adds a client certificate of a workload.
func (w *world) as(cfg *tls.Config, id identity.ID) *tls.Config {
	w.t.Helper()
	cert, err := w.issuer.Issue(id, time.Hour)
	w.must(err)
	cfg.Certificates = []tls.Certificate{cert}
	return cfg
}

// client is an HTTP client of edge/public, over HTTP/2 if so wished.
func (w *world) client(http2 bool, cfg *tls.Config) *http.Client {
	w.t.Helper()
	address := w.address("edge/public")
	tr := &http.Transport{
		TLSClientConfig: cfg, ForceAttemptHTTP2: http2, DisableCompression: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
	}
	w.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// ask sends a request with a token of alice, of group shop.
func (w *world) ask(c *http.Client, method, path string, body io.Reader) (*http.Response, string) {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, "https://"+host+path, body)
	w.must(err)
	r.Header.Set("Authorization", "Bearer "+w.tokens.sign(nil))
	res, err := c.Do(r)
	w.must(err)
	return res, w.read(res)
}

func (w *world) read(res *http.Response) string {
	w.t.Helper()
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	w.must(err)
	return string(b)
}

// problem is what a refusal says.
type problem struct {
	Type, Title, Detail, Reason string
	Status                      int
	DecisionID                  string `json:"decision_id"`
	Revision                    int
}

func (w *world) problem(body string) (p problem) {
	w.t.Helper()
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		w.t.Fatalf("%v in %q", err, body)
	}
	return p
}

// raw sends bytes over a connection of their own, and returns the answer.
func (w *world) raw(sends string) (res *http.Response, body string) {
	w.t.Helper()
	conn := w.dial("http/1.1")
	defer conn.Close()
	w.send(conn, sends)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		w.t.Fatalf("%.200q: %v", sends, err)
	}
	return res, w.read(res)
}

// dial makes a connection that speaks a protocol and lasts ten seconds.
func (w *world) dial(protocol string) *tls.Conn {
	w.t.Helper()
	cfg := w.tls(host)
	cfg.NextProtos = []string{protocol}
	conn, err := tls.Dial("tcp", w.address("edge/public"), cfg)
	w.must(err)
	w.must(conn.SetDeadline(time.Now().Add(30 * time.Second)))
	return conn
}

func (w *world) send(conn net.Conn, sends string) {
	w.t.Helper()
	_, err := io.WriteString(conn, strings.ReplaceAll(sends, "TOKEN", w.tokens.sign(nil)))
	w.must(err)
}

// metric returns the value of a series as a scrape shows it, or "".
func (w *world) metric(series string) string {
	recorder := httptest.NewRecorder()
	promhttp.HandlerFor(w.registry, promhttp.HandlerOpts{}).ServeHTTP(recorder, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(recorder.Body.String()) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// lines are decision records as they are written.
type lines struct {
	mu    sync.Mutex
	text  bytes.Buffer
	found map[string]line // by type and decision
	more  chan struct{}   // closed at the next write, when not nil
}

// Write takes whole lines.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.found == nil {
		l.found = map[string]line{}
	}
	for text := range bytes.Lines(p) {
		var next line
		if err := json.Unmarshal(text, &next); err != nil {
			panic(fmt.Sprintf("%v in %q", err, text))
		}
		l.found[next.Type+" "+next.DecisionID] = next
	}
	if l.more != nil {
		close(l.more)
		l.more = nil
	}
	return l.text.Write(p)
}

// line is a decision record or an outcome, as far as tests look at it.
type line struct {
	Type          string
	DecisionID    string `json:"decision_id"`
	Closes        string
	TraceID       string `json:"trace_id"`
	Allow         bool
	Reason        string
	Status        int
	Detail        string
	Environment   string
	Epoch         int
	Revision      int
	Listener      string
	ClientIP      string `json:"client_ip"`
	TLS           string
	SNI           string
	Protocol      string
	Method        string
	Host          string
	Path          string
	Route, Policy string
	Principal     *struct{ Kind, ID, Provider string }
	Device        string
	Explanation   []struct{ Policy, Effect, Miss string }
	Endpoint      string
	Attempts      int
	Target        string
	Upstream      string
	Sent          int
	Received      int

	PeerIP          string `json:"peer_ip"`
	ClientIPSource  string `json:"client_ip_source"`
	ClientIPUnknown string `json:"client_ip_unknown"`
	Geo             *place

	DenialsOfPrincipal *int `json:"denials_of_principal"`
	DenialsOfAddress   *int `json:"denials_of_address"`
	ConfigurationAge   *int `json:"configuration_age_ms"`
	SecurityAge        *int `json:"security_age_ms"`
}

// of waits for the line of a kind about a decision.
func (l *lines) of(t testing.TB, kind, id string) line {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		found, ok, more := l.find(kind, id)
		if ok {
			return found
		}
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("there is no %s of %q in\n%s", kind, id, l.all())
		}
	}
}

func (l *lines) find(kind, id string) (line, bool, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.more == nil {
		l.more = make(chan struct{})
	}
	found, ok := l.found[kind+" "+id]
	return found, ok, l.more
}

func (l *lines) all() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// tokens is an identity provider: a real HTTPS server that publishes a key, and
// signs with it.
type tokens struct {
	server *httptest.Server
	key    *ecdsa.PrivateKey
	set    string // its JWKS
}

func newTokens(t testing.TB) *tokens {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	set := fmt.Sprintf(`{"keys":[{"kty":"EC","crv":"P-256","use":"sig","kid":"one","x":%q,"y":%q}]}`, b64(point[1:33]), b64(point[33:]))
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, set)
	}))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	return &tokens{server, key, set}
}

// sign signs a token for alice and orders, with claims put over the usual.
func (k *tokens) sign(claims jwt.MapClaims) string {
	all := jwt.MapClaims{
		"iss": "https://login.example", "aud": "orders", "sub": "alice", "groups": []string{"shop"},
		"exp": time.Now().Add(5 * time.Minute).Unix(),
	}
	maps.Copy(all, claims)
	t := jwt.NewWithClaims(jwt.SigningMethodES256, all)
	t.Header["kid"] = "one"
	raw, err := t.SignedString(k.key)
	if err != nil {
		panic(err)
	}
	return raw
}

// echo is an upstream that says what it got, in plain text. It counts.
type echo struct {
	*httptest.Server
	requests atomic.Int64
	conns    atomic.Int64
	handler  atomic.Pointer[http.HandlerFunc]
}

func newEcho(t testing.TB) *echo {
	t.Helper()
	return newEchoTLS(t, nil)
}

// newEchoTLS serves HTTPS, over HTTP/2 if clients like, unless cfg is nil.
func newEchoTLS(t testing.TB, cfg *tls.Config) *echo {
	t.Helper()
	e := &echo{}
	e.answerWith(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %s\n", r.Method, r.RequestURI, r.Host, r.Proto)
		_ = r.Header.Write(w)
		fmt.Fprintf(w, "\n%s", body)
		if err != nil {
			fmt.Fprintf(w, "\n%v", err)
		}
	})
	e.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.requests.Add(1)
		(*e.handler.Load())(w, r)
	}))
	e.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	e.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			e.conns.Add(1)
		}
	}
	if cfg == nil {
		e.Start()
	} else {
		e.TLS, e.EnableHTTP2 = cfg, true
		e.StartTLS()
	}
	t.Cleanup(func() {
		e.CloseClientConnections() // a handler may wait for its client, which a test that failed has left open
		e.Close()
	})
	return e
}

func (e *echo) answerWith(h http.HandlerFunc) { e.handler.Store(&h) }

func (e *echo) address() string { return e.Listener.Addr().String() }

func itoa(n int) string { return strconv.Itoa(n) }
