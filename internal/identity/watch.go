package identity

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// retryBase is the ceiling of the first wait before the Workload API is tried again.
const retryBase = 100 * time.Millisecond

// Run keeps the Source current until ctx ends and then returns nil. A Workload API
// that is away, answers nonsense or denies us is tried again for ever; it never
// ends Run. Call it once.
func (s *Source) Run(ctx context.Context) error {
	client, err := workloadapi.New(ctx,
		workloadapi.WithAddr(s.cfg.SocketAddr),
		workloadapi.WithBackoffStrategy(fullJitter{ceiling: s.cfg.RetryCap}),
		workloadapi.WithDialOptions(grpc.WithConnectParams(s.connectParams())),
	)
	if err != nil {
		return fmt.Errorf("dial Workload API %s: %w", s.cfg.SocketAddr, err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.watch(ctx, client) })
	g.Go(func() error { return s.alarm(ctx) })
	g.Go(func() error { return s.follow(ctx) })
	if s.cfg.JWTBundles {
		g.Go(func() error { return s.watchJWT(ctx, client) })
	}
	return errors.Join(g.Wait(), client.Close())
}

// connectParams bounds the connection's own backoff as well: gRPC's default lets
// it sleep for two minutes after the Workload API is back.
func (s *Source) connectParams() grpc.ConnectParams {
	return grpc.ConnectParams{Backoff: backoff.Config{
		BaseDelay:  min(retryBase, s.cfg.RetryCap),
		Multiplier: backoff.DefaultConfig.Multiplier,
		Jitter:     backoff.DefaultConfig.Jitter,
		MaxDelay:   s.cfg.RetryCap,
	}}
}

// watch outlives what ends go-spiffe's own watch: an InvalidArgument, and a
// cancellation that came from the server.
func (s *Source) watch(ctx context.Context, client *workloadapi.Client) error {
	w := &watcher{source: s, done: ctx.Done()}
	wait := fullJitter{ceiling: s.cfg.RetryCap}.NewBackoff()
	for {
		// Every error has been through the watcher already.
		_ = client.WatchX509Context(ctx, w)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait.Next()):
		}
	}
}

// watcher receives what the Workload API says, on the goroutine of watch.
type watcher struct {
	source  *Source
	done    <-chan struct{}
	failing bool
}

// OnX509ContextUpdate puts one complete message into service.
func (w *watcher) OnX509ContextUpdate(c *workloadapi.X509Context) {
	svid, err := w.source.own(c.DefaultSVID())
	if err != nil {
		w.OnX509ContextWatchError(err)
		return
	}
	w.failing = false
	w.source.mu.Lock()
	w.source.replace(&material{svid: svid, own: c.Bundles})
	w.source.mu.Unlock()
	w.source.cfg.Log.Info("svid received", "spiffe_id", svid.ID, "expires", svid.Expires)
}

// OnX509ContextWatchError keeps what we have, unless the Workload API says that we
// are entitled to no identity: then ours must not be used any longer (Workload API
// section 5.2.1). The bundles stay, they are about others.
func (w *watcher) OnX509ContextWatchError(err error) {
	select {
	case <-w.done:
		return
	default:
	}
	level := w.source.cfg.Log.Debug
	if !w.failing {
		level = w.source.cfg.Log.Warn
	}
	w.failing = true
	level("workload api gave no svid", "err", err, "expires", w.source.Expiry())
	w.source.mu.Lock()
	defer w.source.mu.Unlock()
	old := w.source.material.Load()
	if status.Code(err) == codes.PermissionDenied && old.svid != nil {
		w.source.replace(&material{own: old.own, cause: err})
		return
	}
	next := *old
	next.cause = err
	w.source.material.Store(&next)
}

// replace completes next and puts it into service. The caller holds mu.
func (s *Source) replace(next *material) {
	next.bundles = s.merged(next.own)
	next.authorities, next.domains = pool(next.bundles), domainsOf(next.bundles)
	next.changed = make(chan struct{})
	old := s.material.Swap(next)
	close(old.changed)
	s.mergeJWT()
}

// own turns the first SVID of a message into ours. go-spiffe has checked already
// that key and leaf belong together and that the leaf is one.
func (s *Source) own(raw *x509svid.SVID) (*SVID, error) {
	id, err := ParseID(raw.ID.String())
	if err != nil {
		return nil, err
	}
	if td := s.cfg.TrustDomain; td != "" && id.TrustDomain() != td {
		return nil, fmt.Errorf("svid %s is not of our trust domain %s", id, td)
	}
	leaf := raw.Certificates[0]
	out := &SVID{
		ID:          id,
		Certificate: &tls.Certificate{PrivateKey: raw.PrivateKey, Leaf: leaf},
		NotBefore:   leaf.NotBefore,
		Expires:     leaf.NotAfter,
	}
	for _, c := range raw.Certificates {
		out.Certificate.Certificate = append(out.Certificate.Certificate, c.Raw)
		if c.NotAfter.Before(out.Expires) {
			out.Expires = c.NotAfter
		}
	}
	return out, nil
}

// alarm says loudly when an SVID was not renewed in time, and when it ran out. An
// SVID is renewed at half of its life; the tenth more is the issuer's grace.
func (s *Source) alarm(ctx context.Context) error {
	for ctx.Err() == nil {
		m := s.material.Load()
		if m.svid == nil {
			await(ctx, m.changed, nil)
			continue
		}
		life := m.svid.Expires.Sub(m.svid.NotBefore)
		if s.until(ctx, m, m.svid.NotBefore.Add(life/2+life/10)) {
			s.cfg.Log.Warn("svid was not renewed", "spiffe_id", m.svid.ID, "expires", m.svid.Expires)
		}
		if s.until(ctx, m, m.svid.Expires) {
			s.cfg.Log.Error("svid expired", "spiffe_id", m.svid.ID, "expires", m.svid.Expires)
		}
		await(ctx, m.changed, nil)
	}
	return nil
}

// until reports whether m is still what we have at the instant at.
func (s *Source) until(ctx context.Context, m *material, at time.Time) bool {
	timer := time.NewTimer(at.Sub(s.cfg.Now()))
	defer timer.Stop()
	return await(ctx, m.changed, timer.C)
}

// await reports whether the timer was first.
func await(ctx context.Context, changed <-chan struct{}, timer <-chan time.Time) bool {
	select {
	case <-ctx.Done():
		return false
	case <-changed:
		return false
	case <-timer:
		return true
	}
}

// fullJitter waits a random time below a ceiling that doubles up to its own: a
// thousand workloads of one node must not come back in step.
type fullJitter struct{ ceiling time.Duration }

// NewBackoff returns a wait that starts small.
func (f fullJitter) NewBackoff() workloadapi.Backoff {
	return &jitter{ceiling: f.ceiling, next: min(retryBase, f.ceiling)}
}

type jitter struct{ ceiling, next time.Duration }

// Next returns how long to wait this time.
func (j *jitter) Next() time.Duration {
	d := rand.N(j.next) + 1 //nolint:gosec // spreads load, hides nothing
	j.next = min(2*j.next, j.ceiling)
	return d
}

// Reset starts small again; go-spiffe calls it when a message came.
func (j *jitter) Reset() { j.next = min(retryBase, j.ceiling) }
