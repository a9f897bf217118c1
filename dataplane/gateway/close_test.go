package gateway_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/dataplane/gateway"
)

var revoked = gateway.Cause{Reason: "revoked"}

func of(subject string) func(*gateway.Stream) bool {
	return func(s *gateway.Stream) bool { return s.Principal.ID == subject }
}

func everyStream(*gateway.Stream) bool { return true }

// begin sends a request of a subject, and returns the answer that has begun.
func (w *world) beginAs(c *http.Client, subject string) *http.Response {
	w.t.Helper()
	r := w.request(w.t.Context(), "GET", nil)
	r.Header.Set("Authorization", "Bearer "+w.tokens.sign(map[string]any{"sub": subject}))
	res, err := c.Do(r)
	w.must(err)
	w.t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

// endless is an upstream that sends a line when next does, until the request
// is cancelled, which it tells through gone.
type endless struct {
	mu    sync.Mutex
	lines map[chan string]struct{}
	gone  chan struct{}
}

func newEndless() *endless {
	return &endless{lines: map[chan string]struct{}{}, gone: make(chan struct{}, 1<<10)}
}

func (e *endless) serve(rw http.ResponseWriter, r *http.Request) {
	mine := make(chan string, 16)
	e.mu.Lock()
	e.lines[mine] = struct{}{}
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		delete(e.lines, mine)
		e.mu.Unlock()
		e.gone <- struct{}{}
	}()
	rw.Header().Set("Content-Type", "text/event-stream")
	for flush(rw); ; flush(rw) {
		select {
		case <-r.Context().Done():
			return
		case line := <-mine:
			_, _ = io.WriteString(rw, line)
		}
	}
}

func (e *endless) say(line string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for c := range e.lines {
		c <- line
	}
}

// Only the streams that match are closed, over each protocol and to each
// upstream: their answers do not look whole, their upstreams are told, their
// outcomes name the reason, and their neighbours go on.
func TestCloseStreams(t *testing.T) {
	up := newEndless()
	eachWay(t, up.serve, func(t *testing.T, w *world, c *http.Client) {
		alice, mallory := w.beginAs(c, "alice"), w.beginAs(c, "mallory")
		goesOn := bufio.NewReader(alice.Body)
		if n := w.gateway.CloseStreams(of("nobody"), revoked); n != 0 {
			t.Errorf("%d streams of nobody were closed", n)
		}
		up.say("data: 1\n")
		if n := w.gateway.CloseStreams(of("mallory"), revoked); n != 1 {
			t.Errorf("%d streams were closed, want 1", n)
		}
		<-up.gone
		up.say("data: 2\n")
		if got, err := io.ReadAll(mallory.Body); err == nil || strings.Contains(string(got), "2") {
			t.Errorf("%q, %v arrived after the end", got, err)
		}
		o := w.records.of(t, "outcome", mallory.Header.Get("Sallyport-Decision-Id"))
		if o.Reason != "revoked" || o.Status != 200 {
			t.Errorf("recorded was %+v", o)
		}
		for _, want := range []string{"data: 1\n", "data: 2\n"} {
			if got, err := goesOn.ReadString('\n'); got != want {
				t.Errorf("the neighbour got %q, %v, want %q", got, err, want)
			}
		}
		if n := w.gateway.CloseStreams(everyStream, revoked); n != 1 {
			t.Errorf("%d streams were left, want 1", n)
		}
		<-up.gone
	})
}

// Streams say what they are.
func TestWhatStreamsAre(t *testing.T) {
	up := newEndless()
	eachWay(t, up.serve, func(t *testing.T, w *world, c *http.Client) {
		res := w.beginAs(c, "alice")
		found := 0
		w.gateway.CloseStreams(func(s *gateway.Stream) bool {
			found++
			if s.ID != res.Header.Get("Sallyport-Decision-Id") || s.Route != "shop/orders" || s.Listener != "edge/public" ||
				s.Principal.ID != "alice" || s.Protocol != gateway.Request || time.Since(s.Began) > time.Minute {
				t.Errorf("the stream is %s of %+v over %s, %s, %d", s.ID, s.Principal, s.Listener, s.Route, s.Protocol)
			}
			return found == 1
		}, revoked)
		if found != 1 {
			t.Errorf("%d streams are open", found)
		}
		<-up.gone
		w.settle()
		w.gateway.CloseStreams(func(*gateway.Stream) bool { t.Error("one has not left"); return false }, revoked)
	})
}

// What was not answered yet is refused.
func TestCloseBeforeTheAnswer(t *testing.T) {
	came := make(chan struct{}, 1)
	eachWay(t, func(_ http.ResponseWriter, r *http.Request) {
		came <- struct{}{}
		<-r.Context().Done()
	}, func(t *testing.T, w *world, c *http.Client) {
		for _, why := range []struct {
			cause  gateway.Cause
			status int
		}{{revoked, 401}, {gateway.Cause{Reason: "not_allowed_any_more", Status: 403}, 403}} {
			closed := make(chan int)
			go func() {
				<-came
				closed <- w.gateway.CloseStreams(everyStream, why.cause)
			}()
			res, body := w.ask(c, "GET", "/v1/orders", nil)
			p, o := w.problem(body), w.records.of(t, "outcome", res.Header.Get("Sallyport-Decision-Id"))
			if res.StatusCode != why.status || p.Reason != why.cause.Reason || o.Reason != why.cause.Reason || o.Status != why.status {
				t.Errorf("%d %s, recorded %+v", res.StatusCode, body, o)
			}
			if (res.Header.Get("Www-Authenticate") != "") != (why.status == 401) {
				t.Errorf("challenged with %q", res.Header.Get("Www-Authenticate"))
			}
			if n := <-closed; n != 1 {
				t.Errorf("%d streams were closed", n)
			}
		}
	})
}

// A client that does not take its answer cannot keep it.
func TestCloseWhileTheClientDoesNotRead(t *testing.T) {
	var written atomic.Int64
	eachWay(t, func(rw http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			n, _ := rw.Write(make([]byte, 64<<10))
			written.Add(int64(n))
		}
	}, func(t *testing.T, w *world, c *http.Client) {
		res := w.beginAs(c, "mallory")
		for last := int64(-1); last != written.Load(); { // until nothing moves any more
			last = written.Load()
			<-time.After(50 * time.Millisecond)
		}
		if n := w.gateway.CloseStreams(everyStream, revoked); n != 1 {
			t.Errorf("%d streams were closed", n)
		}
		o := w.records.of(t, "outcome", res.Header.Get("Sallyport-Decision-Id"))
		if o.Reason != "revoked" {
			t.Errorf("recorded was %+v", o)
		}
	})
}

// Calls of gRPC end with a status, and the others on their connection go on.
func TestCloseGRPC(t *testing.T) {
	w := grpcWorld(t)
	c := w.dialGRPC("spiffe://prod.example/ns/shop/web")
	call := func() grpc.BidiStreamingClient[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse] {
		s, err := c.FullDuplexCall(t.Context())
		w.must(err)
		return s
	}
	say := func(s grpc.BidiStreamingClient[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse]) error {
		if err := s.Send(&pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: make([]byte, 100)}}); err != nil {
			return err
		}
		_, err := s.Recv()
		return err
	}
	for _, end := range []struct {
		cause gateway.Cause
		code  codes.Code
	}{
		{revoked, codes.Unauthenticated},
		{gateway.Cause{Reason: "not_allowed_any_more", Status: 403}, codes.PermissionDenied},
		{gateway.Cause{Reason: "elsewhere", Status: 503}, codes.Unavailable},
	} {
		goesOn := call()
		w.must(say(goesOn))
		var kept string
		w.gateway.CloseStreams(func(s *gateway.Stream) bool { kept = s.ID; return false }, end.cause)
		ends := call()
		w.must(say(ends))
		n := w.gateway.CloseStreams(func(s *gateway.Stream) bool { return s.Protocol == gateway.GRPC && s.ID != kept }, end.cause)
		if n != 1 {
			t.Fatalf("%d calls were closed", n)
		}
		_, err := ends.Recv()
		s, _ := status.FromError(err)
		if s.Code() != end.code || !strings.HasPrefix(s.Message(), end.cause.Reason+": ") {
			t.Errorf("ended with %v, want %s", err, end.code)
		}
		if err := say(goesOn); err != nil {
			t.Errorf("the neighbour: %v", err)
		}
		w.must(goesOn.CloseSend())
		if _, err := goesOn.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("the neighbour ends with %v", err)
		}
	}
	w.settle()
}

// A call whose client takes nothing cannot be told, and ends all the same.
func TestCloseGRPCWhileTheClientDoesNotRead(t *testing.T) {
	w := grpcWorld(t)
	c := w.dialGRPC("spiffe://prod.example/ns/shop/web")
	r := &pb.StreamingOutputCallRequest{}
	for range 1000 {
		r.ResponseParameters = append(r.ResponseParameters, &pb.ResponseParameters{Size: 100_000})
	}
	s, err := c.StreamingOutputCall(t.Context(), r)
	w.must(err)
	_, err = s.Recv()
	w.must(err)
	if n := w.gateway.CloseStreams(everyStream, revoked); n != 1 {
		t.Errorf("%d calls were closed", n)
	}
	w.settle()
	if _, err := c.EmptyCall(t.Context(), &pb.Empty{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("the next call: %v", err)
	}
}

// What is still carried when the time of its listener is up is told so.
func TestStreamsOfAListenerThatEnds(t *testing.T) {
	w := newWorld(t, options{drain: 50 * time.Millisecond})
	came := make(chan struct{}, 1)
	up := newEcho(t)
	up.answerWith(func(_ http.ResponseWriter, r *http.Request) {
		came <- struct{}{}
		<-r.Context().Done()
	})
	w.apply(w.usual(plaintext(up.address())))
	go func() {
		<-came
		w.apply(w.login() + w.route("orders", host, plaintext(up.address())))
	}()
	res, body := w.ask(w.client(true, w.tls(host)), "GET", "/v1/orders", nil)
	o := w.records.of(t, "outcome", res.Header.Get("Sallyport-Decision-Id"))
	if res.StatusCode != 503 || w.problem(body).Reason != "listener_ended" || o.Reason != "listener_ended" {
		t.Errorf("%d %s, recorded %+v", res.StatusCode, body, o)
	}
}

// BenchmarkStreams is what the registry costs a request.
func BenchmarkStreams(b *testing.B) {
	var registry gateway.Registry
	var cost float64
	b.Run("enter and leave", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(p *testing.PB) {
			s := &gateway.Stream{}
			for p.Next() {
				registry.EnterAndLeave(s)
			}
		})
		cost = float64(b.Elapsed().Nanoseconds()) / float64(b.N)
	})
	fmt.Printf("figure stream_registry %.1f ns\n", cost)
}
