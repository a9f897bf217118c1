package identity

import (
	"context"
	"maps"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/sallyport/sallyport/internal/token"
)

// JWTBundles are the keys that JWT-SVIDs are verified with, as they were at one
// moment. They are never changed; a nil JWTBundles has none.
type JWTBundles struct{ keys map[TrustDomain]*token.KeySet }

// Keys returns the keys of a trust domain, nil when it is not trusted.
func (b *JWTBundles) Keys(td TrustDomain) *token.KeySet {
	if b == nil {
		return nil
	}
	return b.keys[td]
}

// JWTBundles returns the keys of the moment, those of Federate among them; nil
// before the Workload API has sent any, or when Config.JWTBundles did not ask for
// them.
func (s *Source) JWTBundles() *JWTBundles { return s.jwt.Load() }

// watchJWT keeps the keys current. They outlive a Workload API that is away.
func (s *Source) watchJWT(ctx context.Context, client *workloadapi.Client) error {
	w := &jwtWatcher{source: s, done: ctx.Done()}
	wait := fullJitter{ceiling: s.cfg.RetryCap}.NewBackoff()
	for {
		_ = client.WatchJWTBundles(ctx, w) // every error has been through the watcher
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait.Next()):
		}
	}
}

// jwtWatcher receives what the Workload API says, on the goroutine of watchJWT.
type jwtWatcher struct {
	source  *Source
	done    <-chan struct{}
	failing bool
}

// OnJWTBundlesUpdate puts all bundles of a message into service. One that cannot
// be used is of nobody.
func (w *jwtWatcher) OnJWTBundlesUpdate(set *jwtbundle.Set) {
	w.failing = false
	keys := make(map[TrustDomain]*token.KeySet)
	for _, b := range set.Bundles() {
		name := TrustDomain(b.TrustDomain().Name())
		var err error
		if keys[name], err = jwtKeys(b); err != nil {
			w.source.cfg.Log.Error("jwt bundle cannot be used", "trust_domain", name, "err", err)
		}
	}
	w.source.mu.Lock()
	w.source.ownJWT = keys
	w.source.mergeJWT()
	w.source.mu.Unlock()
	w.source.cfg.Log.Debug("jwt bundles received", "documents", len(keys))
}

// mergeJWT puts into service the keys that the Workload API has sent, with those of
// the trust domains that it says nothing of. Equal keys keep their identity, on
// which verified tokens depend. The caller holds mu.
func (s *Source) mergeJWT() {
	if s.ownJWT == nil {
		return
	}
	keys, own := maps.Clone(s.ownJWT), s.material.Load().own
	for _, f := range s.federated {
		if f.bundle == nil || f.bundle.keys == nil || own.Has(f.bundle.x509.TrustDomain()) {
			continue
		}
		if _, said := keys[f.spec.TrustDomain]; !said {
			keys[f.spec.TrustDomain] = f.bundle.keys
		}
	}
	if last := s.jwt.Load(); last == nil || !maps.Equal(last.keys, keys) {
		s.jwt.Store(&JWTBundles{keys})
	}
}

// OnJWTBundlesWatchError keeps what we have.
func (w *jwtWatcher) OnJWTBundlesWatchError(err error) {
	select {
	case <-w.done:
		return
	default:
	}
	if !w.failing {
		w.source.cfg.Log.Warn("workload api gave no jwt bundles", "err", err)
	}
	w.failing = true
}
