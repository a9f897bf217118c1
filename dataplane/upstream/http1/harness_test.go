package http1_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/dataplane/upstream/http1"
	"github.com/sallyport/sallyport/internal/identity/issuer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var limits = http1.Limits{
	Head: 64 << 10, Idle: 4, Rest: time.Minute, Age: time.Hour,
	Write: time.Minute, Silence: time.Minute, Continue: time.Minute,
}

// endpoint is a server that does with each connection what it is told.
type endpoint struct {
	t       *testing.T
	ln      net.Listener
	secure  *tls.Config // nil for plaintext
	roots   *x509.CertPool
	serving sync.WaitGroup
}

func listen(t *testing.T, serve func(net.Conn)) *endpoint {
	t.Helper()
	return start(t, &endpoint{t: t}, serve)
}

// listenTLS is listen with TLS.
func listenTLS(t *testing.T, serve func(net.Conn)) *endpoint {
	t.Helper()
	is, err := issuer.New(issuer.Config{DevelopmentOnly: true, TrustDomain: "prod.example", Log: quiet()})
	must(t, err)
	cert, err := is.IssueServerCertificate([]string{"127.0.0.1"}, time.Hour)
	must(t, err)
	e := &endpoint{t: t, secure: &tls.Config{Certificates: []tls.Certificate{cert}}, roots: x509.NewCertPool()}
	e.roots.AppendCertsFromPEM(is.ServerCAPEM())
	return start(t, e, serve)
}

func start(t *testing.T, e *endpoint, serve func(net.Conn)) *endpoint {
	t.Helper()
	var err error
	e.ln, err = net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	e.serving.Go(func() {
		for {
			conn, err := e.ln.Accept()
			if err != nil {
				return
			}
			if e.secure != nil {
				conn = tls.Server(conn, e.secure)
			}
			e.serving.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = e.ln.Close()
		e.serving.Wait()
	})
	return e
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (e *endpoint) dial(ctx context.Context) (net.Conn, *http1.Socket, error) {
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", e.ln.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	socket := http1.NewSocket(raw)
	if e.secure == nil {
		return socket, socket, nil
	}
	conn := tls.Client(socket, &tls.Config{RootCAs: e.roots, ServerName: "127.0.0.1"})
	err = conn.HandshakeContext(ctx)
	return conn, socket, err
}

// client is a Pool with an endpoint, as upstreams use it but for second tries.
type client struct {
	*http1.Pool
	to *endpoint
}

func newClient(t *testing.T, to *endpoint, l http1.Limits, now func() time.Time) *client {
	t.Helper()
	p, err := http1.NewPool(l, now)
	must(t, err)
	t.Cleanup(p.Close)
	return &client{p, to}
}

func (c *client) RoundTrip(r *http.Request) (*http.Response, error) {
	conn := c.Take()
	if conn == nil {
		raw, socket, err := c.to.dial(r.Context())
		if err != nil {
			return nil, err
		}
		conn = c.New(raw, socket)
	}
	return conn.RoundTrip(r, traced(r))
}

// traced has what comes before an answer told to the request's trace, as net/http
// does.
func traced(r *http.Request) http1.Interim {
	if trace := httptrace.ContextClientTrace(r.Context()); trace != nil {
		return trace.Got1xxResponse
	}
	return nil
}

// stock is net/http's transport, for the same endpoint.
func stock(t *testing.T, to *endpoint) http.RoundTripper {
	t.Helper()
	tr := &http.Transport{
		DisableCompression: true, ExpectContinueTimeout: time.Minute, MaxResponseHeaderBytes: int64(limits.Head),
		TLSClientConfig: &tls.Config{RootCAs: to.roots},
	}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func (e *endpoint) request(method string, body io.Reader) *http.Request {
	e.t.Helper()
	scheme := "http://"
	if e.secure != nil {
		scheme = "https://"
	}
	r, err := http.NewRequestWithContext(e.t.Context(), method, scheme+e.ln.Addr().String()+"/v1/orders?a=b;c", body)
	must(e.t, err)
	r.Header = http.Header{"User-Agent": nil}
	return r
}

// answer is what a client makes of what came.
type answer struct {
	Status  string
	Code    int
	Proto   string
	Header  http.Header
	Length  int64
	Coding  []string
	Body    string
	Trailer http.Header
	Interim []int
}

// ask returns the answer, or why there is none that is whole.
func ask(rt http.RoundTripper, r *http.Request) (*answer, error) {
	var a answer
	res, err := rt.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
			a.Interim = append(a.Interim, code)
			return nil
		},
	})))
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	a.Status, a.Code, a.Proto, a.Header = res.Status, res.StatusCode, res.Proto, res.Header
	a.Length, a.Coding, a.Body, a.Trailer = res.ContentLength, res.TransferEncoding, string(body), res.Trailer
	return &a, nil
}

// say reads one request and answers it with text.
func say(text string) func(net.Conn) {
	return func(conn net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(conn, text)
		linger(conn)
	}
}

// linger ends the conversation without taking back what was said.
func linger(conn net.Conn) {
	if w, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite()
	}
	_, _ = io.Copy(io.Discard, conn)
}

// each answers the requests of a connection in turn, and then waits for its end.
func each(texts ...string) func(net.Conn) {
	return func(conn net.Conn) { inTurn(texts...)(conn) }
}

// inTurn answers the requests of all connections in turn, and then waits for their
// end.
func inTurn(texts ...string) func(net.Conn) {
	var turn atomic.Int64
	return func(conn net.Conn) {
		for in := bufio.NewReader(conn); ; {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			if n := int(turn.Add(1)); n > len(texts) {
				return
			} else if _, err := io.WriteString(conn, texts[n-1]); err != nil {
				return
			}
		}
	}
}

// refusal returns what is wrong with an answer, empty for another error.
func refusal(err error) string {
	var m http1.Malformed
	if !errors.As(err, &m) {
		return ""
	}
	return string(m)
}
