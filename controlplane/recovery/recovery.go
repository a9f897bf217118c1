// Package recovery goes on after the database was set back: it finds out what
// was lost, and begins a new epoch with what is left.
package recovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
)

var (
	// ErrNothingLost says that there is nothing to recover from.
	ErrNothingLost = errors.New("nobody is known to have seen more than the database holds")
	// ErrRevocations says that what was revoked would come alive: it was seen, and
	// neither the database nor what is published has all of it.
	ErrRevocations = errors.New("revocations were lost, and what is published does not have all of them")
	// ErrNotPublished says that what was lost cannot be brought back from what is
	// published.
	ErrNotPublished = errors.New("what was lost is not published any more")
	// ErrKeySets says that key sets are published that the database lacks. A key that
	// was retired since may have made them: who may sign is for rotation.Keys.Adopt,
	// which has all keys named, and before that is done nothing that they may have
	// signed is looked at.
	ErrKeySets = errors.New("key sets are published that the database does not have: name the keys that are to sign first")
)

// Store is the part of the store that recovering needs.
type Store interface {
	storage.History
	Position(ctx context.Context) (snapshot.Position, error)
	Since(ctx context.Context, after snapshot.Revision) ([]storage.Version, snapshot.Revision, error)
	EnvironmentState(ctx context.Context, environment string, at snapshot.Revision) ([]storage.Version, error)
	Security() storage.Resources
	KeySets(ctx context.Context, after snapshot.Generation) ([]*proxyv1.SignedKeySet, error)
}

// Target is where snapshots are published: an etcd.
type Target interface {
	// Heads returns the signed heads that are published.
	Heads(ctx context.Context, v *snapshot.Verifier) ([]snapshot.Head, error)
	// Snapshot returns what is published of an environment; the head alone with
	// the error why its documents cannot be had.
	Snapshot(ctx context.Context, v *snapshot.Verifier, environment string) (snapshot.Head, *snapshot.Snapshot, error)
	// KeySets returns the key sets that are published, unverified.
	KeySets(ctx context.Context) ([]*proxyv1.SignedKeySet, error)
}

// Place is a target with the name of who has seen what is published there.
type Place struct {
	Name string
	Target
}

// Config is what recovering needs. All fields are required.
type Config struct {
	Store Store
	// Targets are all of those where something is published. Each has to be there:
	// one that was not asked may have more than the others.
	Targets []Place
	// Verifier learns of the key sets that are in the database.
	Verifier *snapshot.Verifier
}

// Loss is what was seen, and the database does not hold.
type Loss struct {
	// At is where the fleet is in the database, and Sequence where the security
	// lane is.
	At       snapshot.Position
	Sequence snapshot.Revision
	// Seen says who has seen what, newest first.
	Seen []storage.Sighting
	// KeySets are published, follow from those in the database, and are not there.
	// Where there are any, nothing else was looked at.
	KeySets []snapshot.KeySet
	// Environments are those that were seen later than the database has them,
	// ordered by name; the security lane is one of them.
	Environments []Environment

	newest snapshot.Position        // of the fleet that anybody has seen
	cut    snapshot.Position        // the same of the security lane
	held   map[string]*snapshot.Set // what the database holds, by environment
	state  []storage.Version        // the fleet's part of it
}

// Look compares what is published with the database. What it finds is recorded
// there, as replicas would.
func (c Config) Look(ctx context.Context) (*Loss, error) {
	l := &Loss{}
	if err := l.trust(ctx, c); err != nil {
		return nil, err
	}
	if err := l.locate(ctx, c.Store); err != nil || len(l.KeySets) > 0 {
		return l, err
	}
	for _, p := range c.Targets {
		heads, err := p.Heads(ctx, c.Verifier)
		if err != nil {
			return nil, fmt.Errorf("read what is published at %s: %w", p.Name, err)
		}
		for _, h := range heads {
			if err := c.weigh(ctx, l, p.Name, h); err != nil {
				return nil, fmt.Errorf("look for revision %d of %s: %w", h.Revision, h.Environment, err)
			}
		}
	}
	recorded, err := c.Store.Sightings(ctx)
	if err != nil {
		return nil, fmt.Errorf("read what others have seen: %w", err)
	}
	l.Seen = append(recorded, l.Seen...)
	for _, s := range l.Seen {
		l.saw(s.Environment, snapshot.Position{Epoch: s.Epoch, Revision: s.Revision})
	}
	if err := l.compare(ctx, c); err != nil {
		return nil, err
	}
	return l, nil
}

// Nothing reports whether nothing is known to be lost.
func (l *Loss) Nothing() bool { return len(l.Seen)+len(l.KeySets) == 0 }

// trust learns of the key sets that the database has, and finds those that follow
// from them and are published alone. Others are nobody's.
func (l *Loss) trust(ctx context.Context, c Config) error {
	held, err := c.Store.KeySets(ctx, 0)
	if err != nil {
		return fmt.Errorf("read key sets: %w", err)
	}
	if _, err := c.Verifier.Extend(held); err != nil {
		return fmt.Errorf("read key sets: %w", err)
	}
	probe := c.Verifier.Past() // they are found, and not believed
	for _, p := range c.Targets {
		published, err := p.KeySets(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
		for _, set := range published {
			if n, err := probe.Extend([]*proxyv1.SignedKeySet{set}); err == nil && n > 0 {
				l.KeySets = append(l.KeySets, probe.Newest())
			}
		}
	}
	return nil
}

// locate reads where the database is, and what it holds.
func (l *Loss) locate(ctx context.Context, s Store) (err error) {
	if l.state, l.At.Revision, err = s.Since(ctx, 0); err != nil {
		return fmt.Errorf("read the fleet: %w", err)
	}
	security, sequence, err := s.Security().Since(ctx, 0)
	if err != nil {
		return fmt.Errorf("read the security lane: %w", err)
	}
	position, err := s.Position(ctx)
	if err != nil {
		return fmt.Errorf("read epoch: %w", err)
	}
	l.At.Epoch, l.Sequence = position.Epoch, sequence
	l.newest, l.cut = l.At, snapshot.Position{Epoch: l.At.Epoch, Revision: sequence}
	l.held, err = hold(l.state, security)
	return err
}

// weigh finds out whether the database holds a head that a witness has. One of a revision that was
// not signed yet is held if the content is the same.
func (c Config) weigh(ctx context.Context, l *Loss, witness string, h snapshot.Head) error {
	l.saw(h.Environment, h.Position())
	err := c.Store.Witness(ctx, witness, h)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		versions, err := c.Store.EnvironmentState(ctx, h.Environment, h.Revision)
		if err != nil {
			return err
		}
		set, err := setOf(versions)
		if err == nil && set.Root() != h.Root {
			l.Seen = append(l.Seen, storage.Sighting{
				Environment: h.Environment, Epoch: h.Epoch, Revision: h.Revision, Head: h.Digest(), Witness: witness,
			})
		}
		return err
	case errors.Is(err, storage.ErrAhead): // it is among the sightings now
		return nil
	}
	return err
}

// saw remembers the newest that was seen of each lane.
func (l *Loss) saw(environment string, at snapshot.Position) {
	newest := &l.newest
	if environment == snapshot.SecurityLane {
		newest = &l.cut
	}
	newest.Epoch, newest.Revision = max(newest.Epoch, at.Epoch), max(newest.Revision, at.Revision)
}

// compare reads what is published of the environments that somebody has seen
// later than the database has them.
func (l *Loss) compare(ctx context.Context, c Config) error {
	seen := map[string]snapshot.Position{}
	for _, s := range l.Seen {
		if at := (snapshot.Position{Epoch: s.Epoch, Revision: s.Revision}); s.Environment != "" && at.After(seen[s.Environment]) {
			seen[s.Environment] = at
		}
	}
	for name, at := range seen {
		e := Environment{Name: name}
		var snap *snapshot.Snapshot
		e.Head, snap, e.Err = c.newest(ctx, name)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case e.Err != nil:
		case e.Head.IsZero() || at.After(e.Head.Position()):
			e.Err = fmt.Errorf("%w: epoch %d revision %d was seen", ErrNotPublished, at.Epoch, at.Revision)
		default:
			e.published = snap.Set()
			e.compare(l.held[name])
		}
		l.Environments = append(l.Environments, e)
	}
	slices.SortFunc(l.Environments, func(a, b Environment) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

// newest returns what is published of an environment at the target that has the
// newest of it, whole if any has that whole.
func (c Config) newest(ctx context.Context, environment string) (head snapshot.Head, snap *snapshot.Snapshot, err error) {
	for _, p := range c.Targets {
		h, s, fault := p.Snapshot(ctx, c.Verifier, environment)
		if ctx.Err() != nil {
			return snapshot.Head{}, nil, ctx.Err()
		}
		switch {
		case h.NewerThan(head), head.IsZero() && fault != nil, s != nil && snap == nil && h.Digest() == head.Digest():
			head, snap, err = h, s, fault
		}
	}
	return head, snap, err
}

// Options say how a new epoch begins.
type Options struct {
	Caller  string // for the audit
	Message string
	// KeepPublished brings back what is published and was lost.
	KeepPublished bool
	// ForgetRevocations begins the epoch although revocations are lost for good.
	ForgetRevocations bool
	// Force begins an epoch although nothing is known to be lost.
	Force bool
}

// Recovery returns how the epoch begins. Revocations and devices that are
// published are brought back in any case. ErrKeySets, whatever the options are,
// ErrNothingLost, ErrRevocations, ErrNotPublished.
func (l *Loss) Recovery(o Options) (storage.Recovery, error) {
	switch {
	case len(l.KeySets) > 0:
		return storage.Recovery{}, ErrKeySets
	case l.Nothing() && !o.Force:
		return storage.Recovery{}, ErrNothingLost
	}
	r := storage.Recovery{
		Caller: o.Caller, Message: o.Message,
		From: l.At.Epoch, Epoch: max(l.newest.Epoch, l.cut.Epoch) + 1,
		Fleet:    storage.Beginning{Base: l.At.Revision, Revision: l.newest.Revision + 1},
		Security: storage.Beginning{Base: l.Sequence, Revision: l.cut.Revision + 1},
	}
	var err error
	if r.Security.Changes, err = l.security(o.ForgetRevocations); err != nil || !o.KeepPublished {
		return r, err
	}
	r.Fleet.Changes, err = l.bringBack()
	return r, err
}

// Begin begins the epoch that Recovery plans. storage.ErrConflict if the database has
// moved on since it was looked at: look again.
func (c Config) Begin(ctx context.Context, r storage.Recovery) error {
	if err := c.Store.BeginEpoch(ctx, r); err != nil {
		return fmt.Errorf("begin epoch %d: %w", r.Epoch, err)
	}
	return nil
}
