package upstream_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/dataplane/upstream"
)

// Where this is set, the test binary is an endpoint and nothing else.
const (
	serveAddress = "SALLYPORT_TEST_SERVE"
	serveTLS     = "SALLYPORT_TEST_SERVE_TLS"
)

func TestMain(m *testing.M) {
	if address := os.Getenv(serveAddress); address != "" {
		beEndpoint(address, os.Getenv(serveTLS) != "")
		return
	}
	goleak.VerifyTestMain(m)
}

// beEndpoint answers, each request after a while, until the process is killed, or its
// parent is gone.
func beEndpoint(address string, secure bool) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-time.After(2 * time.Millisecond)
		_, _ = io.WriteString(w, "done")
	}))
	ln, err := net.Listen("tcp", address)
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = s.Listener.Close()
	if s.Listener = ln; secure {
		s.EnableHTTP2 = true
		s.StartTLS()
	} else {
		s.Start()
	}
	fmt.Println(ln.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// process is an endpoint that can be killed.
type process struct {
	t       *testing.T
	address string
	secure  bool
	cmd     *exec.Cmd
	stdin   io.Closer
}

func startProcess(t *testing.T, secure bool) *process {
	t.Helper()
	p := &process{t: t, address: "127.0.0.1:0", secure: secure}
	p.start()
	t.Cleanup(p.kill)
	return p
}

// start returns when it listens.
func (p *process) start() {
	p.t.Helper()
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), serveAddress+"="+p.address)
	if p.secure {
		p.cmd.Env = append(p.cmd.Env, serveTLS+"=1")
	}
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.stdin = stdin
	if _, err := fmt.Fscan(stdout, &p.address); err != nil {
		p.t.Fatal("the endpoint does not listen:", err)
	}
}

// kill returns when the process is gone, and its connections with it.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	_ = p.stdin.Close()
}

// load is requests that are sent all the time, and what became of them.
type load struct {
	upstream *upstream.Upstream
	stop     atomic.Bool
	served   atomic.Int64

	mu     sync.Mutex
	failed []sentRequest
	at     map[string]int // answers, by endpoint
}

type sentRequest struct {
	outcome

	worker int
	method string
	began  time.Time
}

func (l *load) run(t *testing.T, worker int) {
	for n := 0; !l.stop.Load(); n++ {
		method, body := "GET", ""
		if n%2 == 1 {
			method, body = "POST", "an order"
		}
		began := time.Now()
		o := ask(t.Context(), l.upstream, method, body, 0)
		l.count(sentRequest{o, worker, method, began})
	}
}

func (l *load) count(r sentRequest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.status != 200 || r.reason != "" {
		l.failed = append(l.failed, r)
		return
	}
	l.served.Add(1)
	l.at[r.endpoint]++
}

func (l *load) answersOf(address string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.at[address]
}

// wait returns when something is so, which is soon.
func wait(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); !is(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not in 30 s", what)
		}
	}
}

// An endpoint is killed under load, and comes back. What fails was on its way to it at
// that moment, and may have been done: what changes nothing is answered by another one.
func TestKilledAndRevived(t *testing.T) {
	for name, secure := range map[string]bool{"HTTP/1.1": false, "HTTP/2 over TLS": true} {
		t.Run(name, func(t *testing.T) { killAndRevive(t, secure) })
	}
}

func killAndRevive(t *testing.T, secure bool) {
	var now clock
	all := []*process{startProcess(t, secure), startProcess(t, secure), startProcess(t, secure)}
	spec := upstream.Spec{Namespace: "shop", Name: "orders", Plaintext: !secure}
	for _, p := range all {
		spec.Endpoints = append(spec.Endpoints, p.address)
	}
	if secure {
		s := serve(t, "", &tls.Config{}) // which has the same certificate
		spec.TLS = &upstream.TLS{CAFile: caFile(t, s)}
	}
	l := &load{upstream: only(newPool(t, anonymous(t), now.now), spec), at: map[string]int{}}
	var workers sync.WaitGroup
	for worker := range 24 {
		workers.Go(func() { l.run(t, worker) })
	}
	lost := 0
	for _, victim := range all {
		wait(t, "requests to all endpoints", func() bool { return l.answersOf(victim.address) > 50 })
		victim.kill()
		killed := time.Now()
		from := l.served.Load()
		wait(t, "requests to the others", func() bool { return l.served.Load() > from+500 })
		if secure {
			// Of the end of a connection over HTTP/2 others are told than who sends: for
			// moments they go on sending, over each connection that there is.
			killed = time.Now()
		}
		lost += l.blame(t, victim.address, killed)
		victim.start()
		before := l.answersOf(victim.address)
		now.advance(31 * time.Second) // its ejection is over
		wait(t, "requests to who is back", func() bool { return l.answersOf(victim.address) > before+50 })
	}
	l.stop.Store(true)
	workers.Wait()
	if len(l.failed) > 0 {
		t.Errorf("without a kill: %+v", l.failed)
	}
	t.Logf("%d requests were answered, and %d lost", l.served.Load(), lost)
}

// blame returns how many requests have failed, all of which have to be on their way to
// who was killed, and not safe. Its connections end one by one, so that a worker may lose
// a few.
func (l *load) blame(t *testing.T, address string, killed time.Time) int {
	const each = 3
	l.mu.Lock()
	defer l.mu.Unlock()
	of := map[int]int{}
	for _, f := range l.failed {
		if of[f.worker]++; of[f.worker] > each {
			t.Errorf("worker %d has lost %d requests", f.worker, of[f.worker])
		}
		if f.method != "POST" || f.endpoint != address || f.began.After(killed) {
			t.Errorf("%s to %s failed, %v after the kill of %s: %s", f.method, f.endpoint, f.began.Sub(killed), address, f.reason)
		}
	}
	lost := len(l.failed)
	l.failed = nil
	return lost
}
