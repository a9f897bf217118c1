// Package logout cuts off, in the whole fleet, sessions that have ended at one
// proxy.
package logout

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/controlplane/keyring"
	"github.com/sallyport/sallyport/controlplane/stream"
	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/internal/token"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
	"github.com/sallyport/sallyport/storage"
)

// maxCommits bounds the connections to the database that logouts take at one time.
const maxCommits = 2

// Config is what a Logouts needs. All fields but Now are required.
type Config struct {
	// States are the environments, in which providers are found.
	States interface {
		State(environment string) stream.State
	}
	// Keys open the cookies of an environment.
	Keys interface {
		State(environment string) keyring.State
	}
	// Pool has no other user.
	Pool *authn.Pool
	// Security is the history of the security lane.
	Security storage.Resources
	Log      *slog.Logger
	Now      func() time.Time // time.Now when nil
}

// Logouts makes revocations of logouts. It is safe for concurrent use.
type Logouts struct {
	Config
	// committing holds a token for each commit that is under way.
	committing chan struct{}

	mu sync.Mutex
	// known are the providers whose keys the pool keeps.
	known map[authn.ProviderName]provider
}

// provider is one at which people sign in.
type provider struct {
	authn.Provider
	client string
}

// New returns a Logouts.
func New(c Config) *Logouts {
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Logouts{Config: c, committing: make(chan struct{}, maxCommits), known: map[authn.ProviderName]provider{}}
}

// CutOff has what a proxy of an environment says to have ended be cut off. When it
// returns nil, the revocation survives the death of every process. The error is
// stream.ErrProof when trying again is of no use; nothing is committed then.
func (l *Logouts) CutOff(ctx context.Context, environment, by string, proof *proxyv1.LogoutRequest) error {
	r, err := l.judge(ctx, environment, proof)
	if err != nil {
		return err
	}
	select {
	case l.committing <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("wait for other logouts: %w", ctx.Err())
	}
	defer func() { <-l.committing }()
	return l.commit(ctx, by, r)
}

// judge believes a proxy nothing but what a provider has signed, or what is sealed
// with a key of its environment.
func (l *Logouts) judge(ctx context.Context, environment string, proof *proxyv1.LogoutRequest) (*resourcev1.Revocation, error) {
	now := l.Now()
	r := &resourcev1.Revocation{ExpiresAt: timestamppb.New(now.Add(session.MaxLifetime).Truncate(time.Second))}
	if c := proof.GetSession(); c != nil {
		s, err := l.open(environment, c)
		if err != nil {
			return nil, err
		}
		r.Target, r.Reason = sessionOf(s.Issuer, s.ID), "signed out"
		return r, nil
	}
	out, err := l.verify(ctx, environment, proof.GetLogoutToken(), now)
	if err != nil {
		return nil, err
	}
	r.Reason = "signed out at the provider"
	if out.Session != "" {
		r.Target = sessionOf(out.Issuer, out.Session)
		return r, nil
	}
	r.Target = &resourcev1.Revocation_Subject{Subject: &resourcev1.RevokedSubject{Issuer: out.Issuer, Id: out.Subject}}
	r.IssuedBefore = timestamppb.New(out.IssuedAt.Add(time.Second)) // sessions tell whole seconds
	return r, nil
}

func (l *Logouts) open(environment string, c *proxyv1.SessionCookie) (*session.Session, error) {
	ring := l.Keys.State(environment).Ring
	if ring == nil {
		return nil, errors.New("the cookie keys of the environment are not known yet")
	}
	s, err := session.Open(ring, c.GetHost(), c.GetValue())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", stream.ErrProof, err)
	}
	return s, nil
}

func sessionOf(issuer, id string) *resourcev1.Revocation_Session {
	return &resourcev1.Revocation_Session{Session: &resourcev1.RevokedSession{Issuer: issuer, Id: id}}
}

// verify verifies a logout token with the keys of the environment's providers.
func (l *Logouts) verify(ctx context.Context, environment, raw string, now time.Time) (*token.Logout, error) {
	current := l.States.State(environment).Snapshot
	if current == nil {
		return nil, errors.New("the providers of the environment are not known yet")
	}
	issuer, reason := token.IssuerOf(raw), authn.Reason("no provider has this issuer")
	var candidates []provider
	for _, p := range providersOf(current) {
		if p.Issuer == issuer {
			candidates = append(candidates, p)
		}
	}
	who := l.learn(candidates)
	for _, p := range candidates {
		out, refused := who.LoggedOut(ctx, p.Key(), raw, p.client, now)
		if refused == "" {
			return out, nil
		}
		if reason != authn.KeysUnavailable {
			reason = refused
		}
	}
	if reason == authn.KeysUnavailable {
		return nil, fmt.Errorf("logout token: %s", reason)
	}
	return nil, fmt.Errorf("%w: logout token: %s", stream.ErrProof, reason)
}

// learn has the pool keep the keys of providers, from the first logout on.
func (l *Logouts) learn(candidates []provider) *authn.Authenticator {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range candidates {
		l.known[p.Key()] = p
	}
	var all []authn.Provider
	for _, p := range l.known {
		all = append(all, p.Provider)
	}
	return l.Pool.Sync(all)
}

// providersOf returns the providers of a snapshot at which people sign in.
func providersOf(s *snapshot.Snapshot) (found []provider) {
	for e := range s.Set().All() {
		if e.Key.Kind != resource.KindIdentityProvider {
			continue
		}
		p, err := resource.ParseDocument(e.Document)
		spec, ok := p.Spec.(*resourcev1.IdentityProvider)
		if err != nil || !ok || spec.GetSignIn() == nil {
			continue
		}
		found = append(found, provider{authn.Provider{
			Namespace: e.Key.Namespace, Name: e.Key.Name, Digest: e.Digest, Issuer: spec.GetIssuer(),
			JWKSURL: spec.GetJwksUrl(), Discovery: spec.GetDiscovery(), JWKS: spec.GetJwks(), Audiences: spec.GetAudiences(),
			Leeway: spec.GetLeeway().AsDuration(), AllowPrivateAddresses: spec.GetAllowPrivateAddresses(),
		}, spec.GetSignIn().GetClientId()})
	}
	return found
}

// commit puts a revocation into the security lane, under a name that says what it
// is of: a second one takes the place of the first.
func (l *Logouts) commit(ctx context.Context, by string, r *resourcev1.Revocation) error {
	p := resource.Parsed{Key: resource.Key{Kind: resource.KindRevocation, Name: nameOf(r)}, Spec: r}
	document, err := resource.Encode(p)
	if err != nil {
		return err
	}
	if done, err := l.done(ctx, p.Key, r); done || err != nil {
		return err
	}
	position, err := l.Security.Position(ctx)
	if err != nil {
		return err
	}
	made, err := l.Security.Commit(ctx, storage.Commit{
		Caller: by, Action: "logout", Message: r.GetReason(), Base: position.Revision,
		Changes: []storage.Change{{
			Key: p.Key, Scope: storage.Scope{All: true}, Document: document, Digest: snapshot.DocumentDigest(document),
		}},
	}, func([]storage.Version) error { return nil })
	if err != nil {
		return err
	}
	l.Log.InfoContext(ctx, "security lane changed", "sequence", made.Revision, "caller", by, "changes", 1)
	return nil
}

// done reports whether a revocation is committed that cuts off as much: proxies and
// providers try again.
func (l *Logouts) done(ctx context.Context, key resource.Key, r *resourcev1.Revocation) (bool, error) {
	v, err := l.Security.Resource(ctx, key, 0)
	if errors.Is(err, storage.ErrNotFound) || err == nil && v.Deleted {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	p, err := resource.ParseDocument(v.Document)
	old, ok := p.Spec.(*resourcev1.Revocation)
	if err != nil || !ok {
		return false, nil // written by another build: it is replaced
	}
	return covers(old, r), nil
}

// sameFor is for how much less time a revocation may last than another to count as
// the same.
const sameFor = time.Hour

// covers reports whether old, of that name, cuts off what r does.
func covers(old, r *resourcev1.Revocation) bool {
	switch {
	case nameOf(old) != nameOf(r):
		return false
	case old.GetExpiresAt() != nil && old.GetExpiresAt().AsTime().Before(r.GetExpiresAt().AsTime().Add(-sameFor)):
		return false
	case old.GetIssuedBefore() == nil || r.GetIssuedBefore() == nil:
		return old.GetIssuedBefore() == nil
	}
	return !old.GetIssuedBefore().AsTime().Before(r.GetIssuedBefore().AsTime())
}

func nameOf(r *resourcev1.Revocation) string {
	of := fmt.Sprintf("session\x00%s\x00%s", r.GetSession().GetIssuer(), r.GetSession().GetId())
	if s := r.GetSubject(); s != nil {
		of = fmt.Sprintf("subject\x00%s\x00%s", s.GetIssuer(), s.GetId())
	}
	sum := sha256.Sum256([]byte(of))
	return "logout-" + hex.EncodeToString(sum[:16])
}
