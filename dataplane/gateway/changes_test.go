package gateway_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	pb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/sallyport/sallyport/internal/identity"
)

var (
	changes    = flag.Int("changes", 300, "how many snapshots follow one another under load")
	changeRate = flag.Int("change-rate", 400, "requests in a second meanwhile")
)

const (
	changesPerSecond = 100
	rounds           = 15 // between which nothing is under way but streams
	aspects          = 8  // of what a snapshot says, that change in turn
)

// 10,000 snapshots (with the flags of "make soak") follow one another under load over
// HTTP/1.1 and HTTP/2, each with another change: no request fails, streams that may
// go on go on, and neither memory nor goroutines become more.
func TestChangesUnderLoad(t *testing.T) {
	c := newChanging(t)
	perRound := max(*changes/rounds, 1)
	var live, goroutines []uint64
	for round := range rounds + 1 {
		c.load(perRound, func() {
			tick := time.NewTicker(time.Second / changesPerSecond)
			defer tick.Stop()
			for range perRound {
				<-tick.C
				c.change()
			}
		})
		if round > 0 { // the first makes what is made once
			live, goroutines = append(live, liveHeap()), append(goroutines, uint64(runtime.NumGoroutine()))
		}
	}
	c.end()
	first, last := thirds(live)
	fmt.Printf("figure changes_under_load %d changes\nfigure changes_requests %d requests\nfigure changes_request_p99_ms %.2f ms\n"+
		"figure changes_live_first_third %.2f MiB\nfigure changes_live_last_third %.2f MiB\nfigure changes_resident %.1f MiB\n",
		c.made, len(c.took), p99(c.took), first/(1<<20), last/(1<<20), resident(t))
	if last > first*1.05 {
		t.Errorf("%.0f bytes were live in the first third, and %.0f in the last", first, last)
	}
	before, after := thirds(goroutines)
	fmt.Printf("figure changes_goroutines_first_third %.0f goroutines\nfigure changes_goroutines_last_third %.0f goroutines\n", before, after)
	if after > before+20 {
		t.Errorf("there were %.0f goroutines in the first third, and %.0f in the last", before, after)
	}
}

// thirds are the medians of the first and of the last third.
func thirds(all []uint64) (first, last float64) {
	third := len(all) / 3
	a, b := slices.Clone(all[:third]), slices.Clone(all[len(all)-third:])
	slices.Sort(a)
	slices.Sort(b)
	return float64(a[third/2]), float64(b[third/2])
}

// liveHeap is what is left when all garbage is collected, pools as well.
func liveHeap() uint64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// resident is what this process has of memory, in MiB.
func resident(t *testing.T) float64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(b))[1])
	if err != nil {
		t.Fatal(err)
	}
	return float64(pages*os.Getpagesize()) / (1 << 20)
}

// changing is a gateway with clients in processes of their own, streams that are
// open all the time, and a snapshot that changes.
type changing struct {
	*world
	endpoints [2]string // of the route under load
	streams   string    // the upstream of streams
	calls     string    // that of gRPC
	one, two  *pacedClient
	token     string

	made   int
	took   []time.Duration
	open   []*openStream
	events map[string]chan string // by path
}

// openStream is one that says back what it is told.
type openStream struct {
	name string
	tell func(message string) error
	end  func() error
}

func newChanging(t *testing.T) *changing {
	t.Helper()
	w := newWorld(t, options{writer: io.Discard})
	// What the test notes itself is not to look like growth.
	took := make([]time.Duration, 0, 2**changes**changeRate/changesPerSecond)
	c := &changing{world: w, took: took, one: newPacedClient(t), two: newPacedClient(t), events: map[string]chan string{"/v1/streams/events-1": make(chan string), "/v1/streams/events-2": make(chan string)}}
	c.token = w.tokens.sign(map[string]any{"exp": time.Now().Add(2 * time.Hour).Unix()})
	for i := range c.endpoints {
		_, out := child(t, "upstream")
		line, err := out.ReadString('\n')
		w.must(err)
		c.endpoints[i] = strings.TrimSpace(line)
	}
	c.streams, c.calls = c.serveStreams(), c.serveCalls()
	w.certificate("other", host)
	w.apply(c.snapshotAt(0))
	for _, http2 := range []bool{false, true} {
		c.open = append(c.open, c.listens(http2), c.speaks(http2))
	}
	c.open = append(c.open, c.socket(), c.call())
	return c
}

// serveStreams starts an upstream of events, of WebSockets and of whoever speaks.
func (c *changing) serveStreams() (address string) {
	up := newEcho(c.t)
	up.answerWith(func(rw http.ResponseWriter, r *http.Request) {
		if events := c.events[r.URL.Path]; events != nil {
			tell(rw, r, events)
			return
		}
		switch r.URL.Path {
		case "/v1/streams/socket":
			echoes(rw, r)
		default:
			_ = http.NewResponseController(rw).EnableFullDuplex()
			flush(rw)
			p := make([]byte, 1024)
			for {
				n, err := r.Body.Read(p)
				_, _ = rw.Write(p[:n])
				flush(rw)
				if err != nil {
					return
				}
			}
		}
	})
	return up.address()
}

// tell has a client told of events until there are no more, or it leaves.
func tell(rw http.ResponseWriter, r *http.Request, events <-chan string) {
	rw.Header().Set("Content-Type", "text/event-stream")
	for {
		flush(rw)
		select {
		case event, more := <-events:
			if !more {
				return
			}
			_, _ = io.WriteString(rw, event)
		case <-r.Context().Done():
			return
		}
	}
}

// serveCalls starts an upstream of gRPC, and returns what a spec says of it.
func (c *changing) serveCalls() string {
	cfg := identity.ServerConfig(c.identified("spiffe://prod.example/ns/shop/orders"), identity.Only(self))
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(cfg)))
	pb.RegisterTestServiceServer(server, service{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	c.must(err)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(ln) })
	c.t.Cleanup(func() { server.Stop(); serving.Wait() })
	return fmt.Sprintf(`spiffe: {peerIds: ["spiffe://prod.example/ns/shop/orders"]}, endpoints: [%q]`, ln.Addr())
}

// snapshotAt is the n-th snapshot: each differs from the one before in one aspect.
func (c *changing) snapshotAt(n int) string {
	at := func(aspect int) int { return (n + aspects - 1 - aspect) / aspects } // how often it has changed
	toggled := func(aspect int) bool { return at(aspect)%2 == 1 }
	place := func(yaml, paths string) string { return strings.Replace(yaml, `"/v1/**"`, `"`+paths+`"`, 1) }
	endpoints := c.endpoints[:1]
	if toggled(0) {
		endpoints = c.endpoints[:]
	}
	load := place(c.route("orders", host, plaintext(endpoints...)), "/v1/orders/**")
	load = strings.Replace(load, "upstream: orders,", fmt.Sprintf("upstream: orders, timeout: %ds,", 20+at(1)%7), 1)
	streams := strings.Replace(place(c.route("streams", host, plaintext(c.streams)), "/v1/streams/**"), "upstream: streams,", "webSocket: true, upstream: streams,", 1)
	all := c.listener() + c.login() + load + streams + place(c.route("calls", host, c.calls), "/grpc.testing.TestService/**")
	version := "1_2"
	if toggled(2) {
		version = "1_3"
	}
	all += listen("other", "127.0.0.1:0", "certificates: ["+c.files("other")+fmt.Sprintf(`], minVersion: %q`, version))
	if toggled(3) {
		all += listen("passing", "127.0.0.1:0", "certificates: ["+c.files("other")+"]")
	}
	if toggled(4) {
		all += c.route("passing", "passing.example", plaintext("127.0.0.1:1"))
	}
	// Aspect 5 is the certificates' files.
	return all + fmt.Sprintf(`
---
{apiVersion: sallyport/v1, kind: Policy, metadata: {namespace: shop, name: changing},
 spec: {routes: {names: [orders, streams, calls]}, effect: ALLOW, principals: [{group: group-%d}]}}
---
{apiVersion: sallyport/v1, kind: Policy, metadata: {namespace: shop, name: denying},
 spec: {routes: {names: [orders, streams, calls]}, effect: DENY, principals: [{group: enemies-%d}]}}
`, at(6), at(7))
}

// change puts the next snapshot in force, and has streams that are open say something
// now and then.
func (c *changing) change() {
	c.made++
	if (c.made-1)%aspects == 5 {
		c.certificate("edge", host, "*.wild.example")
		c.certificate("other", host)
	}
	c.apply(c.snapshotAt(c.made))
	if c.made%10 == 0 {
		c.beat()
	}
}

func (c *changing) beat() {
	for _, s := range c.open {
		if err := s.tell("change " + itoa(c.made)); err != nil {
			c.t.Errorf("after %d changes, %s: %v", c.made, s.name, err)
		}
	}
}

// load has requests made for as long as meanwhile is expected to take, and waits for
// all of it. A client that gets another answer than 200 ends, and the test with it.
func (c *changing) load(n int, meanwhile func()) {
	requests := max(n*(*changeRate)/changesPerSecond, 2)
	p := &pacedLoad{
		Address: c.address("edge/public"), CA: c.issuer.ServerCAPEM(), Connections: 8, Requests: requests / 2, PerSecond: max(*changeRate/2, 1),
		Token: c.token, Want: http.StatusOK,
	}
	over2 := *p
	over2.HTTP2 = true
	c.one.begin(p)
	c.two.begin(&over2)
	meanwhile()
	c.took = append(append(c.took, c.one.end()...), c.two.end()...)
	c.settled()
}

// settled waits until nothing is under way but streams.
func (c *changing) settled() {
	until(c.t, "only streams are under way", func() bool {
		return c.metric("sallyport_requests_in_flight") == itoa(len(c.open))
	})
}

func (c *changing) end() {
	c.beat()
	for _, s := range c.open {
		if err := s.end(); err != nil {
			c.t.Errorf("the end of %s: %v", s.name, err)
		}
	}
	c.settle()
	if got := statusOf(c.gateway, "public"); got.Error != "" {
		c.t.Errorf("edge/public is %+v", got)
	}
}

func (c *changing) streamed(http2 bool, method, path string, body io.Reader) io.ReadCloser {
	r, err := http.NewRequestWithContext(c.t.Context(), method, "https://"+host+path, body)
	c.must(err)
	r.Header.Set("Authorization", "Bearer "+c.token)
	res, err := c.client(http2, c.tls(host)).Do(r)
	c.must(err)
	if res.StatusCode != http.StatusOK {
		c.t.Fatalf("%s is answered with %s", path, res.Status)
	}
	return res.Body
}

// listens is a stream of events.
func (c *changing) listens(http2 bool) *openStream {
	path := "/v1/streams/events-1"
	if http2 {
		path = "/v1/streams/events-2"
	}
	in := c.streamed(http2, "GET", path, nil)
	return &openStream{"events at " + path, func(message string) error {
		select {
		case c.events[path] <- message:
			return comesBack(in, message)
		case <-time.After(30 * time.Second):
			return errors.New("nobody takes the event")
		}
	}, func() error {
		close(c.events[path])
		_, err := io.Copy(io.Discard, in)
		return errors.Join(err, in.Close())
	}}
}

func comesBack(in io.Reader, message string) error {
	got := make([]byte, len(message))
	_, err := io.ReadFull(in, got)
	if err == nil && string(got) != message {
		err = fmt.Errorf("%q came back", got)
	}
	return err
}

// speaks is a request whose answer says what it says.
func (c *changing) speaks(http2 bool) *openStream {
	body, out := io.Pipe()
	in := c.streamed(http2, "POST", "/v1/streams/spoken", body)
	return &openStream{fmt.Sprint("spoken, HTTP/2 ", http2), func(message string) error {
		if _, err := io.WriteString(out, message); err != nil {
			return err
		}
		return comesBack(in, message)
	}, func() error {
		ended := out.Close()
		_, err := io.Copy(io.Discard, in)
		return errors.Join(ended, err, in.Close())
	}}
}

func (c *changing) socket() *openStream {
	conn, _, err := websocket.Dial(c.t.Context(), "wss://"+host+"/v1/streams/socket", &websocket.DialOptions{
		HTTPClient: c.client(false, c.tls(host)), HTTPHeader: http.Header{"Authorization": {"Bearer " + c.token}},
	})
	c.must(err)
	return &openStream{
		"WebSocket",
		func(message string) error { return say(c.t.Context(), conn, message) },
		func() error { return conn.Close(websocket.StatusNormalClosure, "") },
	}
}

func (c *changing) call() *openStream {
	ctx, cancel := context.WithCancel(c.t.Context())
	c.t.Cleanup(cancel)
	call, err := c.dialGRPC("spiffe://prod.example/ns/shop/web").FullDuplexCall(ctx)
	c.must(err)
	c.must(call.Send(&pb.StreamingOutputCallRequest{}))
	_, err = call.Recv()
	c.must(err)
	return &openStream{"gRPC", func(message string) error {
		if err := call.Send(&pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: []byte(message)}}); err != nil {
			return err
		}
		got, err := call.Recv()
		if err == nil && string(got.GetPayload().GetBody()) != message {
			err = fmt.Errorf("%q came back", got.GetPayload().GetBody())
		}
		return err
	}, func() error {
		err := call.CloseSend()
		_, last := call.Recv()
		if !errors.Is(last, io.EOF) {
			err = errors.Join(err, last)
		}
		return err
	}}
}
