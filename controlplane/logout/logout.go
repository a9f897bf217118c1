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
	"maps"
	"slices"
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

const (
	// maxWaiting bounds the logouts that wait for their turn.
	maxWaiting = 1024
	// tries is how often one is tried, and wait the time between.
	tries = 5
	wait  = time.Second
)

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
	waiting chan ended

	// known belongs to Run: the providers whose keys the pool keeps.
	known map[authn.ProviderName]provider
	who   *authn.Authenticator
}

// ended is what a proxy says to have ended.
type ended struct {
	environment, by string
	proof           *proxyv1.Logout
}

// provider is one at which people sign in.
type provider struct {
	authn.Provider
	client string
}

// New returns a Logouts that does nothing until Run.
func New(c Config) *Logouts {
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Logouts{Config: c, waiting: make(chan ended, maxWaiting), known: map[authn.ProviderName]provider{}}
}

// Take hands over what a proxy of an environment says. It does not wait.
func (l *Logouts) Take(ctx context.Context, environment, by string, proof *proxyv1.Logout) {
	select {
	case l.waiting <- ended{environment, by, proof}:
	default:
		l.Log.ErrorContext(ctx, "logout was not passed on to the fleet", "proxy", by, "err", "too many wait")
	}
}

// Run makes revocations until ctx ends.
func (l *Logouts) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-l.waiting:
			if err := l.cutOff(ctx, e); err != nil && ctx.Err() == nil {
				l.Log.ErrorContext(ctx, "logout was not passed on to the fleet", "proxy", e.by, "err", err)
			}
		}
	}
}

func (l *Logouts) cutOff(ctx context.Context, e ended) (err error) {
	r, err := l.judge(ctx, e)
	if err != nil {
		return err
	}
	for range tries {
		if err = l.commit(ctx, e.by, r); !errors.Is(err, storage.ErrUnavailable) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
	return err
}

// judge believes a proxy nothing but what a provider has signed, or what is sealed
// with a key of its environment.
func (l *Logouts) judge(ctx context.Context, e ended) (*resourcev1.Revocation, error) {
	now := l.Now()
	r := &resourcev1.Revocation{ExpiresAt: timestamppb.New(now.Add(session.MaxLifetime).Truncate(time.Second))}
	if c := e.proof.GetSession(); c != nil {
		s, err := session.Open(l.Keys.State(e.environment).Ring, c.GetHost(), c.GetValue())
		if err != nil {
			return nil, err
		}
		r.Target, r.Reason = sessionOf(s.Issuer, s.ID), "signed out"
		return r, nil
	}
	out, err := l.verify(ctx, e, now)
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

func sessionOf(issuer, id string) *resourcev1.Revocation_Session {
	return &resourcev1.Revocation_Session{Session: &resourcev1.RevokedSession{Issuer: issuer, Id: id}}
}

// verify verifies a logout token with the keys of the environment's providers.
func (l *Logouts) verify(ctx context.Context, e ended, now time.Time) (*token.Logout, error) {
	raw := e.proof.GetLogoutToken()
	issuer, reason := token.IssuerOf(raw), authn.Reason("no provider has this issuer")
	var candidates []provider
	for _, p := range providersOf(l.States.State(e.environment).Snapshot) {
		if p.Issuer == issuer {
			candidates = append(candidates, p)
		}
	}
	l.learn(candidates)
	for _, p := range candidates {
		out, refused := l.who.LoggedOut(ctx, p.Key(), raw, p.client, now)
		if refused == "" {
			return out, nil
		}
		reason = refused
	}
	return nil, fmt.Errorf("logout token: %s", reason)
}

// learn has the pool keep the keys of providers, from the first logout on.
func (l *Logouts) learn(candidates []provider) {
	for _, p := range candidates {
		l.known[p.Key()] = p
	}
	var all []authn.Provider
	for _, p := range slices.Collect(maps.Values(l.known)) {
		all = append(all, p.Provider)
	}
	l.who = l.Pool.Sync(all)
}

// providersOf returns the providers of a snapshot at which people sign in.
func providersOf(s *snapshot.Snapshot) (found []provider) {
	if s == nil {
		return nil
	}
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

func nameOf(r *resourcev1.Revocation) string {
	of := fmt.Sprintf("session\x00%s\x00%s", r.GetSession().GetIssuer(), r.GetSession().GetId())
	if s := r.GetSubject(); s != nil {
		of = fmt.Sprintf("subject\x00%s\x00%s", s.GetIssuer(), s.GetId())
	}
	sum := sha256.Sum256([]byte(of))
	return "logout-" + hex.EncodeToString(sum[:16])
}
