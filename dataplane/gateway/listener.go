package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/dataplane/gateway/wire"
	"github.com/sallyport/sallyport/dataplane/handover"
	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
)

// greetTime is how long handshakes may go on when nobody is let in any more.
const greetTime = 2 * time.Second

// What a client may take its time for.
const (
	handshakeTimeout = 10 * time.Second
	headTimeout      = 10 * time.Second
	writeTimeout     = time.Minute
	idleTimeout      = 2 * time.Minute
)

// listener is one address. Its socket stays open while its address stays the
// same; what is spoken on it may change.
type listener struct {
	gateway  *Gateway
	identity *identity.Source
	listen   func(address string) (net.Listener, error)
	drain    time.Duration
	changed  func() // its status did

	key     resource.Key
	name    string // namespace/name
	address string
	ended   chan struct{} // closed when it is no longer wanted

	// current is what is spoken on new connections. Apply is its only writer.
	current atomic.Pointer[speaker]
	digest  snapshot.Digest // of what current was made from; belongs to Apply

	draining sync.WaitGroup // speakers of the past

	door door

	mu       sync.Mutex
	socket   net.Listener // nil when not bound
	err      error        // why not
	finished bool         // run waits for what drains, and for nothing new
}

// become has l speak as spec says. Connections that were made as said before
// are ended gently: they may not satisfy spec.
func (l *listener) become(spec *compile.Listener) {
	old := l.current.Load()
	if old != nil && l.digest == spec.Digest {
		return
	}
	next := l.newSpeaker(spec.Spec)
	l.digest = spec.Digest
	l.current.Store(next)
	if old == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.finished {
		l.draining.Go(func() { old.shutdown(l.drain) })
	}
}

// bind opens the socket unless it is open, or nobody wants it any more.
func (l *listener) bind() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.socket != nil || l.isEnded() {
		return
	}
	was := l.err
	l.socket, l.err = l.listen(l.address)
	up := 1.0
	if l.err != nil {
		up, l.socket = 0, nil
	}
	l.gateway.metrics.up.WithLabelValues(l.name).Set(up)
	switch {
	case l.err == nil:
		l.gateway.log.Info("listener opened", "listener", l.name, "address", l.socket.Addr().String())
	case was == nil || was.Error() != l.err.Error():
		l.gateway.log.Error("listener cannot be opened", "listener", l.name, "err", l.err)
	default:
		return
	}
	l.changed()
}

func (l *listener) isEnded() bool {
	select {
	case <-l.ended:
		return true
	default:
		return false
	}
}

// end closes the socket for good.
func (l *listener) end() {
	close(l.ended)
	l.unbind()
	l.gateway.metrics.up.DeleteLabelValues(l.name)
	l.gateway.metrics.handshakes.DeleteLabelValues(l.name)
	l.gateway.metrics.unannounced.DeleteLabelValues(l.name)
	l.gateway.metrics.overflow.DeletePartialMatch(prometheus.Labels{"listener": l.name})
}

func (l *listener) unbind() {
	for _, raw := range l.leave() {
		_ = raw.Close() // nothing was said over it
	}
}

// leave closes the socket, if it is open, and returns those who have connected and
// were not let in yet.
func (l *listener) leave() []net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.socket == nil {
		return nil
	}
	waiting := handover.Leave(l.socket)
	l.socket = nil
	return waiting
}

func (l *listener) bound() net.Listener {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.socket
}

func (l *listener) status() ListenerStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := ListenerStatus{Namespace: l.key.Namespace, Name: l.key.Name, Address: l.address}
	var problems []string
	if l.socket != nil {
		s.Address = l.socket.Addr().String()
	}
	s.Open = l.socket != nil
	if l.err != nil {
		problems = append(problems, l.err.Error())
	}
	switch current := l.current.Load(); {
	case current == nil:
		s.Open = false
	case current.certificates != nil:
		s.Open = s.Open && current.certificates.current.Load().first != nil
		problems = append(problems, current.certificates.problems()...)
	default:
		if _, err := l.identity.SVID(); err != nil {
			s.Open, problems = false, append(problems, err.Error())
		}
	}
	s.Error = strings.Join(problems, "; ")
	return s
}

// refresh looks at the certificate files.
func (l *listener) refresh() {
	current := l.current.Load()
	if current.certificates != nil && current.certificates.read() {
		l.changed()
	}
}

// run serves until ctx ends or the listener does, and as long after that as
// requests may take to end.
func (l *listener) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	greeting, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	defer hangUp()
	stop := context.AfterFunc(ctx, l.retire)
	defer stop()
	var handshakes sync.WaitGroup
	const first, longest = 250 * time.Millisecond, 5 * time.Second
	for wait := first; ctx.Err() == nil && !l.isEnded(); wait = min(2*wait, longest) {
		if socket := l.bound(); socket != nil {
			l.accept(ctx, greeting, socket, &handshakes)
			wait = first
			for _, raw := range l.leave() {
				l.welcome(greeting, raw, &handshakes)
			}
		}
		select {
		case <-ctx.Done():
		case <-l.ended:
		case <-time.After(wait):
			l.bind()
		}
	}
	cancel()
	l.unbind()
	late := time.AfterFunc(greetTime, hangUp)
	defer late.Stop()
	handshakes.Wait()
	l.mu.Lock()
	l.finished = true
	l.mu.Unlock()
	l.current.Load().shutdown(l.drain)
	l.draining.Wait()
}

// retire ends accept, which leaves the socket open for those who have connected.
func (l *listener) retire() {
	socket, ok := l.bound().(interface{ SetDeadline(time.Time) error })
	if !ok || socket.SetDeadline(time.Unix(1, 0)) != nil {
		l.unbind()
	}
}

// welcome counts a connection, and makes its handshake in a goroutine.
func (l *listener) welcome(greeting context.Context, raw net.Conn, handshakes *sync.WaitGroup) {
	c := l.door.enter(raw, l.current.Load().limits)
	if c == nil {
		l.refuse(raw, overTotal)
		return
	}
	boundUnsent(raw)
	handshakes.Go(func() { l.greet(greeting, c) })
}

// accept takes connections until the socket is closed or retired, or beyond hope.
// Their handshakes are under way until greeting ends.
func (l *listener) accept(ctx, greeting context.Context, socket net.Listener, handshakes *sync.WaitGroup) {
	const first, longest = 5 * time.Millisecond, time.Second
	wait := first
	for {
		raw, err := socket.Accept()
		var temporary interface{ Temporary() bool }
		switch {
		case err == nil:
			wait = first
			l.welcome(greeting, raw, handshakes)
			continue
		case errors.Is(err, os.ErrDeadlineExceeded), !errors.As(err, &temporary) || !temporary.Temporary():
			return
		}
		l.gateway.log.Warn("connection could not be accepted", "listener", l.name, "err", err)
		select { // too many open files, most likely
		case <-ctx.Done():
			return
		case <-time.After(wait):
			wait = min(2*wait, longest)
		}
	}
}

// greet makes the handshake and hands the connection to the server.
func (l *listener) greet(ctx context.Context, raw *guest) {
	s := l.current.Load()
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	peer := peerOf(raw)
	carried, address, err := announce(ctx, raw, peer, &s.addresses)
	if err != nil {
		l.turnAway(raw, l.gateway.metrics.unannounced, err)
		return
	}
	if over := l.door.admit(raw, s.addresses.ClientOf(address), s.limits, l.gateway.now()); over != "" {
		l.refuse(raw, over)
		return
	}
	greeting := &greeting{Conn: carried, turns: &l.gateway.turns, ctx: ctx}
	below := wire.NewSocket(greeting)
	conn := tls.Server(below, s.tls)
	err = conn.HandshakeContext(ctx)
	greeting.give()
	if greeting.over {
		l.refuse(raw, overTurns)
		return
	}
	below.Conn = carried
	if err == nil {
		state := conn.ConnectionState()
		var c *client
		if c, err = newClient(l.name, &state); err == nil {
			c.remote, c.address = peer, address
			if address.IP.IsValid() {
				c.text = address.IP.String()
			}
			s.serve(conn, below, c, raw)
			return
		}
	}
	l.turnAway(raw, l.gateway.metrics.handshakes, err)
}

// turnAway closes a connection of which nobody was let in, and counts it.
func (l *listener) turnAway(raw net.Conn, count *prometheus.CounterVec, err error) {
	count.WithLabelValues(l.name).Inc()
	l.gateway.log.Debug("handshake failed", "listener", l.name, "client_ip", raw.RemoteAddr().String(), "err", err)
	_ = raw.Close() // nothing was said over it
}
