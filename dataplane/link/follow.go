package link

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1/proxyv1connect"
)

const (
	// registerWithin bounds a registration, with its connection.
	registerWithin = 10 * time.Second
	// dialWithin bounds a connection by TCP. Where packets are dropped it is tried
	// anew, and not left to the kernel, which waits for twice as long each time.
	dialWithin = 2 * time.Second
	// When nothing has come for pingAfter, an answer has to come within pingWithin.
	// Both together are less than what a line that was cut, and is whole again,
	// would wait for TCP to send again.
	pingAfter  = 4 * time.Second
	pingWithin = 4 * time.Second

	// Bounds of the wait before the next attempt.
	firstRetry   = 50 * time.Millisecond
	longestRetry = 3 * time.Second
	// healthyAfter is how long a stream lasts that makes the wait short again.
	healthyAfter = 10 * time.Second

	// Bounds of what the control plane may tell a proxy to wait.
	shortestTold = 100 * time.Millisecond
	longestTold  = time.Minute
)

var (
	// errNotAdmitted says that the control plane has nothing for this proxy yet.
	errNotAdmitted = errors.New("no enrollment matches this proxy yet, or an operator has to approve it")
	// errRefused says that it will have nothing.
	errRefused = errors.New("an operator has refused or quarantined this proxy")
	// errProtocol says that it did not keep to what this build can speak.
	errProtocol = errors.New("the control plane speaks a later protocol than this proxy said that it does")
)

// outcome is how an attempt to be kept current by one replica ended.
type outcome struct {
	err     error
	result  string        // for the metric
	told    bool          // by the control plane, how long to wait
	wait    time.Duration // when told
	healthy bool
}

// follow goes from replica to replica until ctx ends.
func (l *Link) follow(ctx context.Context) error {
	var urls []string
	var retry backoff
	for l.awaitIdentity(ctx); ctx.Err() == nil; l.awaitIdentity(ctx) {
		if len(urls) == 0 {
			urls = shuffled(l.cfg.ControlPlanes)
		}
		o := l.visit(ctx, urls[0])
		urls = urls[1:]
		if ctx.Err() != nil {
			break
		}
		l.ended(ctx, o)
		if o.healthy || o.told {
			retry = backoff{}
		}
		if !o.told {
			o.wait = retry.next()
		}
		pause(ctx, o.wait)
	}
	return nil
}

// awaitIdentity waits until there is one: without, no handshake can succeed.
func (l *Link) awaitIdentity(ctx context.Context) {
	if l.cfg.Identity.Ready() {
		return
	}
	_, err := l.cfg.Identity.SVID()
	l.log.InfoContext(ctx, "waiting for an identity before connecting", "err", err)
	_ = l.cfg.Identity.Wait(ctx) // its only error is that ctx has ended
}

// ended says once in a row that the control plane is away.
func (l *Link) ended(ctx context.Context, o outcome) {
	l.metrics.attempts.WithLabelValues(o.result).Inc()
	switch {
	case o.result == resultEnded && (o.healthy || o.told):
		l.log.InfoContext(ctx, "stream of the control plane ended", "err", o.err)
	case !l.failing:
		l.failing = true
		l.log.WarnContext(ctx, "control plane does not keep this proxy current", "err", o.err)
	default:
		l.log.DebugContext(ctx, "control plane does not keep this proxy current", "err", o.err)
	}
}

// Results of an attempt.
const (
	resultPending = "pending"
	resultRefused = "refused"
	resultFailed  = "failed"
	resultEnded   = "ended"
)

// visit registers with a replica and follows its stream until that ends. The
// connection is one of its own, so that nothing of a broken one is used again.
func (l *Link) visit(ctx context.Context, url string) outcome {
	c := newConnection(l.cfg.Identity, l.cfg.ControlPlaneID)
	defer c.close()
	client := proxyv1connect.NewProxyServiceClient(c.client(), url,
		connect.WithReadMaxBytes(snapshot.MaxPart+64<<10),
	)
	environment, o := l.register(ctx, client)
	if o.err != nil {
		o.err = fmt.Errorf("register with %s: %w", url, o.err)
		return o
	}
	l.replica.set(client)
	defer l.replica.set(nil)
	return newSession(l, environment, url).run(ctx, c, client)
}

func (l *Link) register(ctx context.Context, client proxyv1connect.ProxyServiceClient) (string, outcome) {
	ctx, cancel := context.WithTimeout(ctx, registerWithin)
	defer cancel()
	res, err := l.introduce(ctx, client)
	if err != nil {
		return "", outcome{err: err, result: resultFailed}
	}
	environment := res.Msg.GetEnvironment()
	switch {
	case res.Msg.GetProtocolVersion() > int32(snapshot.NewestProtocol):
		return "", outcome{err: fmt.Errorf("%w: %d", errProtocol, res.Msg.GetProtocolVersion()), result: resultFailed}
	case res.Msg.GetAdmission() == proxyv1.Admission_ADMISSION_PENDING:
		return "", outcome{err: errNotAdmitted, result: resultPending, told: true, wait: spread(res.Msg.GetRetryAfter().AsDuration())}
	case res.Msg.GetAdmission() == proxyv1.Admission_ADMISSION_REFUSED:
		return "", outcome{err: errRefused, result: resultRefused, told: true, wait: spread(res.Msg.GetRetryAfter().AsDuration())}
	case res.Msg.GetAdmission() != proxyv1.Admission_ADMISSION_ADMITTED, environment == "", environment == snapshot.SecurityLane:
		return "", outcome{err: fmt.Errorf("unknown answer %v", res.Msg.GetAdmission()), result: resultFailed}
	}
	if in := l.policy.head().Environment; in != "" && in != environment {
		l.log.WarnContext(ctx, "proxy moves to another environment; the snapshot of the former stays in force until there is one", "from", in, "environment", environment)
	}
	return environment, outcome{}
}

// spread returns a wait of about the time that was told, within bounds.
func spread(told time.Duration) time.Duration {
	told = min(max(told, shortestTold), longestTold)
	return told/2 + rand.N(told) //nolint:gosec // spreads load, hides nothing
}

// connection is an HTTP/2 connection to one replica.
type connection struct {
	transport *http.Transport

	mu   sync.Mutex
	open []net.Conn
}

func newConnection(src *identity.Source, expected identity.ID) *connection {
	c := &connection{}
	var http2 http.Protocols
	http2.SetHTTP2(true)
	c.transport = &http.Transport{
		DialContext:         c.dial,
		TLSClientConfig:     identity.ClientConfig(src, identity.Only(expected)),
		TLSHandshakeTimeout: registerWithin,
		Protocols:           &http2,
		DisableCompression:  true,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingWithin},
	}
	return c
}

func (c *connection) client() *http.Client {
	return &http.Client{
		Transport: c.transport,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("control planes do not redirect")
		},
	}
}

func (c *connection) dial(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: dialWithin}
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = append(c.open, conn)
	return conn, nil
}

// close cuts whatever is open.
func (c *connection) close() {
	c.transport.CloseIdleConnections()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.open {
		_ = conn.Close() // HTTP/2 may have closed it already
	}
}

// backoff is an exponential wait with full jitter. The zero value starts small.
type backoff struct{ ceiling time.Duration }

func (b *backoff) next() time.Duration {
	b.ceiling = min(max(2*b.ceiling, firstRetry), longestRetry)
	return rand.N(b.ceiling) //nolint:gosec // spreads load, hides nothing
}

func shuffled(urls []string) []string {
	out := slices.Clone(urls)
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] }) //nolint:gosec // spreads load, hides nothing
	return out
}

// pause waits, but not beyond ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
