package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/proto/gen/sallyport/replica/v1/replicav1connect"
)

const (
	// How long one replica may take for what is handed on.
	reportWithin = 8 * time.Second
	pushWithin   = 20 * time.Second
	logoutWithin = 4 * time.Second

	dialWithin = 3 * time.Second
	// A connection on which nothing comes is tried after pingAfter, and given up after
	// pingWithin more.
	pingAfter  = 5 * time.Second
	pingWithin = 3 * time.Second
	// maxAnswer bounds what a replica answers, in bytes.
	maxAnswer = 4 << 20
)

type client = replicav1connect.ReplicaServiceClient

// upstream is where an edge hands things on to: the replicas with a database, in turn.
// It is safe for concurrent use.
type upstream struct {
	urls      []string
	id        identity.ID
	source    *identity.Source
	log       *slog.Logger
	forwarded *prometheus.CounterVec

	mu        sync.Mutex
	at        int // of urls: the one that has answered last
	transport *http.Transport
	presents  *tls.Certificate // by transport, on connections that it opens
	failing   bool
}

func newUpstream(c Config) (*upstream, error) {
	u := &upstream{
		urls: c.Full, id: c.FullID, source: c.Identity, log: c.Log,
		forwarded: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_edge_forwarded_total",
			Help: "What this edge has handed on to replicas with a database, by what it is and what came of it.",
		}, []string{"what", "result"}),
	}
	for _, what := range []string{"report", "records", "logout", "inspection"} {
		u.forwarded.WithLabelValues(what, "failed") // it can be seen to rise
	}
	if c.Registerer == nil {
		return u, nil
	}
	return u, c.Registerer.Register(u.forwarded)
}

// call calls do with one replica after the other, beginning with the one that answered
// last, until one answers what another one would answer as well. Each has as long as
// within. It returns the last error.
func (u *upstream) call(ctx context.Context, what string, within time.Duration, do func(context.Context, client) error) error {
	var err error
	for range u.urls {
		at, c := u.current()
		err = u.try(ctx, within, c, do)
		if err == nil || settled(err) {
			u.forwarded.WithLabelValues(what, "arrived").Inc()
			u.reached(ctx)
			return err
		}
		if ctx.Err() != nil {
			break
		}
		u.next(at)
	}
	u.forwarded.WithLabelValues(what, "failed").Inc()
	u.cutOff(ctx, err)
	return err
}

func (u *upstream) try(ctx context.Context, within time.Duration, c client, do func(context.Context, client) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	return do(ctx, c)
}

// settled reports whether a replica has judged what it was sent, so that there is no
// use in asking another one.
func settled(err error) bool {
	return connect.IsWireError(err) && connect.CodeOf(err) == connect.CodeInvalidArgument
}

// current returns the replica that answered last. A connection lives no longer than
// the certificate that it was opened with is our newest.
func (u *upstream) current() (int, client) {
	u.mu.Lock()
	defer u.mu.Unlock()
	svid, err := u.source.SVID()
	if u.transport == nil || err == nil && svid.Certificate != u.presents {
		if u.transport != nil {
			u.transport.CloseIdleConnections()
		}
		u.transport, u.presents = u.open(), svid.Certificate
	}
	web := &http.Client{Transport: u.transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return errors.New("control planes do not redirect")
	}}
	return u.at, replicav1connect.NewReplicaServiceClient(web, u.urls[u.at], connect.WithReadMaxBytes(maxAnswer))
}

func (u *upstream) open() *http.Transport {
	var http2 http.Protocols
	http2.SetHTTP2(true)
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialWithin}).DialContext,
		TLSClientConfig:     identity.ClientConfig(u.source, identity.Only(u.id)),
		TLSHandshakeTimeout: dialWithin,
		Protocols:           &http2,
		DisableCompression:  true,
		IdleConnTimeout:     time.Minute,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingWithin},
	}
}

// next goes on to another replica, unless somebody has done so since.
func (u *upstream) next(from int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.at == from {
		u.at = (u.at + 1) % len(u.urls)
		u.transport.CloseIdleConnections()
	}
}

// reached and cutOff say so when it is news.
func (u *upstream) reached(ctx context.Context) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.failing {
		u.failing = false
		u.log.InfoContext(ctx, "a replica with a database is reached again", "url", u.urls[u.at])
	}
}

func (u *upstream) cutOff(ctx context.Context, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.failing {
		u.failing = true
		u.log.WarnContext(ctx, "no replica with a database is reached", "err", fmt.Errorf("the last of %d: %w", len(u.urls), err))
	}
}
