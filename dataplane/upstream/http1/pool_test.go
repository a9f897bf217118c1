package http1_test

import (
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/dataplane/upstream/http1"
)

// piped is a client of a server that answers hello, for as long as it is asked, over
// connections that need no network.
type piped struct {
	*http1.Pool
	made    int
	serving sync.WaitGroup
}

func newPiped(t *testing.T, l http1.Limits) *piped {
	t.Helper()
	p, err := http1.NewPool(l, nil)
	must(t, err)
	return &piped{Pool: p}
}

func (p *piped) connect() *http1.Conn {
	near, far := net.Pipe()
	p.made++
	p.serving.Go(func() {
		defer far.Close()
		inTurn(hello, hello, hello, hello, hello, hello)(far)
	})
	socket := http1.NewSocket(near)
	return p.New(socket, socket)
}

// ask sends one request, over a new connection if there is none.
func (p *piped) ask(t *testing.T) {
	t.Helper()
	c := p.Take()
	if c == nil {
		c = p.connect()
	}
	p.over(t, c)
}

func (p *piped) over(t *testing.T, c *http1.Conn) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", "http://a.example/", nil)
	must(t, err)
	res, err := c.RoundTrip(r, nil)
	must(t, err)
	_, err = io.Copy(io.Discard, res.Body)
	must(t, err)
}

func TestConnectionsRestForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPiped(t, limits)
		defer p.serving.Wait()
		defer p.Close()
		p.ask(t)
		<-time.After(limits.Rest - time.Second)
		p.ask(t)
		if p.made != 1 {
			t.Errorf("%d connections, want the first to be used again", p.made)
		}
		<-time.After(3 * limits.Rest)
		if n := p.Idle(); n != 0 {
			t.Errorf("%d connections are kept for ever", n)
		}
		p.ask(t)
		if p.made != 2 {
			t.Errorf("%d connections, want a new one", p.made)
		}
	})
}

func TestConnectionsGrowOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limits
		l.Age = 3 * time.Minute
		p := newPiped(t, l)
		defer p.serving.Wait()
		defer p.Close()
		for range 10 {
			p.ask(t)
			<-time.After(40 * time.Second)
		}
		if p.made != 2 {
			t.Errorf("%d connections in 400 s, want one for each 180 s that are begun with a request", p.made)
		}
	})
}

func TestConnectionsThatAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPiped(t, limits)
		defer p.serving.Wait()
		defer p.Close()
		var all []*http1.Conn
		for range 2 * limits.Idle {
			all = append(all, p.connect())
		}
		for _, c := range all {
			p.over(t, c)
		}
		if n := p.Idle(); n != limits.Idle {
			t.Errorf("%d connections are kept, want %d", n, limits.Idle)
		}
		c := p.Take()
		p.Close()
		p.over(t, c) // what is in use goes on
		if n := p.Idle(); n != 0 || p.Take() != nil {
			t.Errorf("a closed pool keeps %d connections", n)
		}
		p.Close()
	})
}

// Whoever counts connections hears of those that are free, and of each that ends, once.
func TestConnectionsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPiped(t, limits)
		defer p.serving.Wait()
		free, closed := 0, 0
		p.OnFree(func() { free++ })
		var all []*http1.Conn
		for range 3 {
			near, far := net.Pipe()
			p.serving.Go(func() {
				defer far.Close()
				inTurn(hello, hello)(far)
			})
			socket := http1.NewSocket(near)
			socket.OnClose(func() { closed++ })
			all = append(all, p.New(socket, socket))
		}
		for _, c := range all {
			p.over(t, c)
		}
		if free != 3 || closed != 0 {
			t.Errorf("%d are free and %d closed", free, closed)
		}
		if !p.Drop() || closed != 1 || p.Idle() != 2 || p.Take() != all[2] {
			t.Errorf("%d are closed and %d kept, want the one gone that has rested longest", closed, p.Idle())
		}
		p.Close()
		p.over(t, all[2]) // which is not kept any more
		if p.Drop() || closed != 3 || free != 3 {
			t.Errorf("in the end %d are closed, and %d were free", closed, free)
		}
	})
}

func TestLimits(t *testing.T) {
	for name, change := range map[string]func(*http1.Limits){
		"head":     func(l *http1.Limits) { l.Head = 0 },
		"idle":     func(l *http1.Limits) { l.Idle = -1 },
		"rest":     func(l *http1.Limits) { l.Rest = 0 },
		"age":      func(l *http1.Limits) { l.Age = 0 },
		"write":    func(l *http1.Limits) { l.Write = 0 },
		"silence":  func(l *http1.Limits) { l.Silence = -1 },
		"continue": func(l *http1.Limits) { l.Continue = 0 },
	} {
		l := limits
		change(&l)
		if _, err := http1.NewPool(l, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
