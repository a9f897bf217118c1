package e2e_test

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	pb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
)

var mebibytes = flag.Int("mib", 128, "how much goes through a proxy to each slow reader, in MiB")

const (
	mib = 1 << 20
	// slowGrowth is what a proxy may grow by meanwhile, in MiB.
	slowGrowth = 32
	// stops is how often a slow reader waits until nobody sends any more.
	stops = 16
)

// A proxy keeps little of what goes through it to who reads slowly, in whatever
// protocol: it has the sender wait.
func TestSlowReaders(t *testing.T) {
	f := start(t)
	s := &slow{fleet: f, proxy: f.Members[0]}
	s.serve(t)
	for _, c := range []struct {
		name string
		read func(t *testing.T, p *pace)
	}{
		{"http1", func(t *testing.T, p *pace) { s.download(t, p, false) }},
		{"http2", func(t *testing.T, p *pace) { s.download(t, p, true) }},
		{"upload_http1", func(t *testing.T, p *pace) { s.upload(t, p, false) }},
		{"upload_http2", func(t *testing.T, p *pace) { s.upload(t, p, true) }},
		{"grpc", s.call},
		{"websocket", s.listen},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &pace{size: int64(*mebibytes) * mib, weigh: func() float64 {
				return metrics(t, s.proxy.Status)["process_resident_memory_bytes"] / mib
			}}
			before := p.weigh()
			s.pace.Store(p)
			c.read(t, p)
			if n := p.read.Load(); n != p.size {
				t.Errorf("%d bytes were read of %d", n, p.size)
			}
			fmt.Printf("figure slow_%s_growth %.1f MiB\n", c.name, p.heaviest-before)
			if p.heaviest > before+slowGrowth && !raceEnabled { // the race detector remembers as well
				t.Errorf("the proxy has grown from %.1f MiB to %.1f", before, p.heaviest)
			}
		})
	}
}

// pace is how a reader reads.
type pace struct {
	size       int64
	weigh      func() float64
	heaviest   float64 // belongs to who reads
	sent, read atomic.Int64
}

// taken is called by the reader for bytes that it has read. Now and then it takes so
// long that the sender stops.
func (p *pace) taken(n int) {
	step := p.size / stops
	if now := p.read.Add(int64(n)); now/step == (now-int64(n))/step {
		return
	}
	for last := int64(-1); last != p.sent.Load(); {
		last = p.sent.Load()
		<-time.After(50 * time.Millisecond)
	}
	p.heaviest = max(p.heaviest, p.weigh())
}

// source is what is sent: zeros, counted.
func (p *pace) source() io.Reader { return io.LimitReader(counted{&p.sent}, p.size) }

type counted struct{ n *atomic.Int64 }

func (c counted) Read(b []byte) (int, error) {
	clear(b)
	c.n.Add(int64(len(b)))
	return len(b), nil
}

// drain reads slowly.
func (p *pace) drain(r io.Reader) error {
	buffer := make([]byte, 64<<10)
	for {
		n, err := r.Read(buffer)
		p.taken(n)
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// slow is an upstream behind a proxy.
type slow struct {
	pb.UnimplementedTestServiceServer
	fleet *fleet.Fleet
	proxy *fleet.Member
	pace  atomic.Pointer[pace] // of what is under way
}

// serve serves HTTP/1.1 in plain text, and HTTP/2 and gRPC over TLS.
func (s *slow) serve(t *testing.T) {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(s.fleet.Path("proxy-tls.pem"), s.fleet.Path("proxy-tls-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	plain, secure := httptest.NewServer(s), httptest.NewUnstartedServer(s)
	secure.TLS, secure.EnableHTTP2 = &tls.Config{Certificates: []tls.Certificate{cert}}, true
	secure.StartTLS()
	calls := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&cert)))
	pb.RegisterTestServiceServer(calls, s)
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = calls.Serve(ln) }() // until it is stopped
	t.Cleanup(func() { plain.Close(); secure.Close(); calls.Stop() })
	by := "tls: {caFile: " + s.fleet.Described.CAFile + "}"
	text := slowRoute("slow-http1", "/slow/http1", plain.Listener, "plaintext: {}") +
		slowRoute("slow-http2", "/slow/http2", secure.Listener, by) +
		slowRoute("slow-grpc", "/grpc.testing.TestService/**", ln, by)
	if err := prove(t.Context(), s.fleet, text); err != nil {
		t.Fatal(err)
	}
}

func slowRoute(name, path string, at net.Listener, by string) string {
	return fmt.Sprintf(`apiVersion: sallyport/v1
kind: Upstream
metadata: {namespace: shop, name: %[1]s}
spec: {endpoints: [%[3]q], %[4]s}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: %[1]s}
spec:
  hosts: [127.0.0.1]
  paths: [%[2]s]
  upstream: %[1]s
  webSocket: true
  authentication: {clientCertificates: true}
---
`, name, path, at.Addr(), by) + allowBilling(name) + "---\n"
}

// ServeHTTP implements http.Handler.
func (s *slow) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	p := s.pace.Load()
	switch {
	case r.Header.Get("Upgrade") != "":
		s.speak(rw, r)
	case r.Method == http.MethodPost:
		if err := p.drain(r.Body); err != nil {
			http.Error(rw, err.Error(), http.StatusBadRequest)
		}
	default:
		_, _ = io.Copy(rw, p.source()) // the reader counts what arrives
	}
}

// speak says it all over a WebSocket.
func (s *slow) speak(rw http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(rw, r, nil)
	if err != nil {
		return
	}
	defer func() { _ = conn.CloseNow() }()
	buffer := make([]byte, 16<<10)
	for source := s.pace.Load().source(); ; {
		n, err := source.Read(buffer)
		if err != nil {
			_ = conn.Close(websocket.StatusNormalClosure, "all was said")
			return
		}
		if err := conn.Write(r.Context(), websocket.MessageBinary, buffer[:n]); err != nil {
			return
		}
	}
}

// StreamingOutputCall implements the service of gRPC's interoperability tests.
func (s *slow) StreamingOutputCall(_ *pb.StreamingOutputCallRequest, out grpc.ServerStreamingServer[pb.StreamingOutputCallResponse]) error {
	for source := s.pace.Load().source(); ; {
		buffer := make([]byte, 64<<10)
		n, err := source.Read(buffer)
		if err != nil {
			return nil
		}
		if err := out.Send(&pb.StreamingOutputCallResponse{Payload: &pb.Payload{Body: buffer[:n]}}); err != nil {
			return err
		}
	}
}

// client is the billing workload.
func (s *slow) client(t *testing.T, http2 bool) *http.Client {
	t.Helper()
	c, err := s.fleet.Client(true)
	if err != nil {
		t.Fatal(err)
	}
	c.Transport.(*http.Transport).ForceAttemptHTTP2 = http2
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func (s *slow) download(t *testing.T, p *pace, http2 bool) {
	t.Helper()
	res := s.ask(t, http.MethodGet, nil, http2)
	defer res.Body.Close()
	if err := p.drain(res.Body); err != nil {
		t.Error(err)
	}
}

func (s *slow) upload(t *testing.T, p *pace, http2 bool) {
	t.Helper()
	res := s.ask(t, http.MethodPost, p.source(), http2)
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Error(res.Status)
	}
}

// ask asks for /slow/http1 or /slow/http2: the same version is on both sides.
func (s *slow) ask(t *testing.T, method string, body io.Reader, http2 bool) *http.Response {
	t.Helper()
	url := s.proxy.URL + map[bool]string{false: "/slow/http1", true: "/slow/http2"}[http2]
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.client(t, http2).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if want := map[bool]int{false: 1, true: 2}[http2]; res.ProtoMajor != want {
		t.Errorf("it was HTTP/%d", res.ProtoMajor)
	}
	return res
}

func (s *slow) call(t *testing.T, p *pace) {
	t.Helper()
	cfg := s.client(t, true).Transport.(*http.Transport).TLSClientConfig
	conn, err := grpc.NewClient("passthrough:///"+strings.TrimPrefix(s.proxy.URL, "https://"), grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := pb.NewTestServiceClient(conn).StreamingOutputCall(t.Context(), &pb.StreamingOutputCallRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for {
		message, err := stream.Recv()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			return
		}
		p.taken(len(message.GetPayload().GetBody()))
	}
}

func (s *slow) listen(t *testing.T, p *pace) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	conn, _, err := websocket.Dial(ctx, s.proxy.URL+"/slow/http1", &websocket.DialOptions{HTTPClient: s.client(t, false)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.CloseNow() }()
	for {
		_, message, err := conn.Read(ctx)
		if err != nil {
			if websocket.CloseStatus(err) != websocket.StatusNormalClosure {
				t.Error(err)
			}
			return
		}
		p.taken(len(message))
	}
}
