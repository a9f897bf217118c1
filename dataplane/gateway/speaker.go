package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/sallyport/sallyport/dataplane/gateway/wire"
	"github.com/sallyport/sallyport/internal/clientip"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/request"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// Bounds of what is read of a client at a time.
const (
	maxStreams          = 250      // of one connection
	maxFrame            = 64 << 10 // bytes
	maxBufferConnection = 1 << 20
	maxBufferStream     = 256 << 10
	maxHeader           = request.MaxHeaderBytes + request.MaxPathLength + request.MaxQueryLength + 16<<10
	pingAfter           = 30 * time.Second // of silence
	pingTimeout         = 15 * time.Second
)

// speaker is how connections are made and served, as one version of a Listener
// says.
type speaker struct {
	gateway      *Gateway
	addresses    clientip.Declaration
	limits       doorLimits
	tls          *tls.Config
	certificates *certificates // nil for our SVID
	http1        *wire.Server
	http2        *http.Server
	queue        *queue // of http2
	start        sync.Once
	ended        chan struct{} // closed when http2 has
}

// newSpeaker returns one without connections.
func (l *listener) newSpeaker(spec *resourcev1.Listener) *speaker {
	s := &speaker{gateway: l.gateway, addresses: clientip.Declare(spec.GetClientIp()), limits: limitsOfDoor(spec.GetConnections()), queue: newQueue(), ended: make(chan struct{})}
	s.tls, s.certificates = l.tlsConfig(spec.GetTls())
	s.http1 = wire.NewServer(wire.Timeouts{Head: headTimeout, Idle: idleTimeout, Write: writeTimeout}, l.gateway.log)
	var protocols http.Protocols
	// TLS ends before the server's connections begin: see package wire.
	protocols.SetUnencryptedHTTP2(true)
	s.http2 = &http.Server{
		Handler:                      l.gateway,
		ConnContext:                  withClient,
		Protocols:                    &protocols,
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            headTimeout,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               maxHeader,
		ErrorLog:                     slog.NewLogLogger(l.gateway.log.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReadFrameSize:              maxFrame,
			MaxReceiveBufferPerConnection: maxBufferConnection,
			MaxReceiveBufferPerStream:     maxBufferStream,
			SendPingTimeout:               pingAfter,
			PingTimeout:                   pingTimeout,
			WriteByteTimeout:              writeTimeout,
		},
	}
	return s
}

// ReasonListenerEnded is the reason of what had not ended when the time was up
// that the end, or a change, of its listener left it.
const ReasonListenerEnded = "listener_ended"

// serve hands a connection, with what is below its TLS, to the server of its protocol.
func (s *speaker) serve(conn *tls.Conn, below *wire.Socket, c *client, g *guest) {
	c.speaker = s
	if c.alpn != "h2" {
		s.http1.Serve(conn, below, c.serveHTTP1)
		return
	}
	s.start.Do(func() {
		go func() {
			defer close(s.ended)
			_ = s.http2.Serve(s.queue) // it ends when shutdown has it end
		}()
	})
	counted := wire.NewHTTP2(conn, g.budget(s.gateway.now()), nil)
	counted.OnFlood(func() {
		s.gateway.metrics.overflow.WithLabelValues(c.listener, overBudget).Inc()
		g.flooded(s.gateway.now())
	})
	c.http2, c.crowd = counted, newCrowd(&s.gateway.pace, g.home, counted.Writing)
	counted.OnWrite(c.crowd.taken)
	s.queue.put(http2Conn{counted, c})
}

// shutdown lets streams end, but not for longer than within.
func (s *speaker) shutdown(within time.Duration) {
	s.queue.stop()
	s.start.Do(func() { close(s.ended) }) // it never served
	<-s.ended                             // now the server knows of all connections that it was handed
	if !s.drain(within) {
		s.gateway.CloseStreams(s.mine, Cause{Reason: ReasonListenerEnded, Status: http.StatusServiceUnavailable})
		s.drain(2 * closePatience)
	}
	s.http1.Close()
	_ = s.http2.Close() // nobody is left to tell
}

// drain reports whether everything has ended in time.
func (s *speaker) drain(within time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	second := make(chan error, 1)
	go func() { second <- s.http2.Shutdown(ctx) }()
	first := s.http1.Shutdown(ctx)
	return errors.Join(first, <-second) == nil
}

func (s *speaker) mine(t *Stream) bool { return t.exchange.from.speaker == s }

// tlsConfig also returns the certificates that it presents, nil for our SVID.
func (l *listener) tlsConfig(spec *resourcev1.ListenerTLS) (*tls.Config, *certificates) {
	var certs *certificates
	var find func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	if !spec.GetWorkloadIdentity() {
		certs = newCertificates(spec.GetCertificates(), l.gateway.log.With("listener", l.name))
		find = certs.find
	}
	cfg := identity.ListenerConfigWith(l.identity, find, l.gateway.vouchers)
	// An answer is written at once, and leaves in as many packets either way.
	cfg.DynamicRecordSizingDisabled = true
	if spec.GetMinVersion() != resourcev1.TLSVersion_TLS_VERSION_1_2 {
		cfg.MinVersion = tls.VersionTLS13
	}
	switch spec.GetClientCertificates() {
	case resourcev1.ClientCertificates_CLIENT_CERTIFICATES_OPTIONAL:
	case resourcev1.ClientCertificates_CLIENT_CERTIFICATES_UNSPECIFIED:
		cfg.ClientAuth = tls.NoClientCert
		cfg.SessionTicketsDisabled = false // nobody is let in by what they resume
	default:
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return cfg, certs
}

// queue hands connections to a server. It is a net.Listener.
type queue struct {
	conns   chan net.Conn
	stopped chan struct{}
	once    sync.Once
}

func newQueue() *queue { return &queue{conns: make(chan net.Conn), stopped: make(chan struct{})} }

// put hands over conn, or closes it if nobody takes it any more.
func (q *queue) put(conn net.Conn) {
	select {
	case q.conns <- conn:
	case <-q.stopped:
		_ = conn.Close() // nothing was read of it
	}
}

func (q *queue) stop() { q.once.Do(func() { close(q.stopped) }) }

// Accept implements net.Listener.
func (q *queue) Accept() (net.Conn, error) {
	select {
	case conn := <-q.conns:
		return conn, nil
	case <-q.stopped:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (q *queue) Close() error {
	q.stop()
	return nil
}

// Addr implements net.Listener.
func (q *queue) Addr() net.Addr { return &net.TCPAddr{} }
