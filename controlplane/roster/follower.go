package roster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/snapshot"
	distributionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/distribution/v1"
)

const (
	// lookEvery is how often what is published is looked at, whatever is told: what it
	// is signed with may have become known since.
	lookEvery = time.Second
	// maxSkew is how far ahead of our clock that of the publisher may be.
	maxSkew = 2 * time.Minute
	// brokenFor is for how many looks a body may not fit its statement: they do not
	// arrive together.
	brokenFor = 5
)

// Keys tells which there are in an etcd. It is an *etcd.Store.
type Keys interface {
	Has(ctx context.Context, key string) (bool, error)
}

// ErrElection says that a roster is of no use where it lies.
var ErrElection = errors.New("this etcd elects the publisher: an edge needs another one")

// errUnknown says that it could not be found out which etcd this is.
var errUnknown = errors.New("etcd does not answer")

// Feed tells what is published. Nothing of it is verified. It is an *etcd.Feed.
type Feed interface {
	Roster() (*distributionv1.SignedRoster, []byte)
	RosterChanged() <-chan struct{}
}

// FollowerConfig is what a Follower needs. All fields but Now are required.
type FollowerConfig struct {
	Feed     Feed
	Keys     Keys               // of the etcd that the feed is of
	Verifier *snapshot.Verifier // learns of key sets from somebody else
	Log      *slog.Logger
	Now      func() time.Time // time.Now when nil
}

// Follower knows the newest roster that is published and verified. It is safe for
// concurrent use.
type Follower struct {
	FollowerConfig
	refused atomic.Int64

	// What was looked at last, what was wrong with it, and how often in a row it was
	// not whole; they belong to Run.
	seen   *distributionv1.SignedRoster
	fault  string
	broken int

	mu      sync.Mutex
	current *Roster       // nil until there is one
	changed chan struct{} // closed when current is another one
}

// NewFollower returns a follower that knows nothing until Run.
func NewFollower(c FollowerConfig) *Follower {
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Follower{FollowerConfig: c, changed: make(chan struct{})}
}

// Refused returns how many statements and bodies were refused.
func (f *Follower) Refused() int64 { return f.refused.Load() }

// Current returns the newest roster, nil while there is none, and what is closed when
// there is another. Its IssuedAt is when it was last confirmed.
func (f *Follower) Current() (*Roster, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current, f.changed
}

// Run follows the feed until ctx ends. What was taken stays, whatever becomes of the
// feed.
func (f *Follower) Run(ctx context.Context) error {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		f.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-f.Feed.RosterChanged():
		case <-ticker.C:
		}
	}
}

// look takes what is published, if it is verified and not older than what is known.
// What is refused is counted once, however often it is looked at.
func (f *Follower) look(ctx context.Context) {
	signed, body := f.Feed.Roster()
	if signed == nil || signed == f.seen && f.fault == "" {
		return
	}
	err := f.take(ctx, signed, body)
	if errors.Is(err, errDigest) || errors.Is(err, errUnknown) {
		f.broken++
	} else {
		f.broken = 0
	}
	fault := ""
	switch {
	case err == nil, f.broken > 0 && f.broken != brokenFor:
	case signed != f.seen, f.fault != err.Error(), f.broken > 0:
		f.refused.Add(1)
		f.Log.ErrorContext(ctx, "roster in etcd was refused", "err", err)
	}
	if err != nil {
		fault = err.Error()
	}
	f.seen, f.fault = signed, fault
}

// take makes what is published current, unless that was confirmed later already.
func (f *Follower) take(ctx context.Context, signed *distributionv1.SignedRoster, body []byte) error {
	st, err := f.Verifier.VerifyRoster(signed)
	if err != nil {
		return err
	}
	if st.IssuedAt.Sub(f.Now()) > maxSkew { // it would keep out all that come before it
		return fmt.Errorf("it is from the future: %s", st.IssuedAt)
	}
	current, _ := f.Current()
	if current == nil {
		current = &Roster{}
	}
	switch {
	case current.NewerThan(st):
		return fmt.Errorf("it is of epoch %d sequence %d, older than %d, %d", st.Epoch, st.Sequence, current.Epoch, current.Sequence)
	case !st.NewerThan(current.Roster) && st.Digest != current.Digest:
		return fmt.Errorf("it is another one of epoch %d sequence %d", st.Epoch, st.Sequence)
	case st.Digest == current.Digest: // it is confirmed
		if st.NewerThan(current.Roster) || st.IssuedAt.After(current.IssuedAt) {
			again := *current
			again.Roster = st
			f.put(&again, false)
		}
		return nil
	}
	next, err := open(st, body)
	if err != nil {
		return err
	}
	if err := f.apart(ctx, next); err != nil {
		return err
	}
	f.put(next, true)
	f.Log.InfoContext(ctx, "roster taken", "sequence", st.Sequence, "enrollments", len(next.Enrollments))
	return nil
}

// apart returns an error if the roster was read where the publisher is elected: who may
// read an etcd can revoke its leases, and an edge stands where less is trusted.
func (f *Follower) apart(ctx context.Context, r *Roster) error {
	elects, err := f.Keys.Has(ctx, r.Election)
	switch {
	case r.Election == "":
		return errors.New("it does not say where the publisher is elected")
	case err != nil:
		return fmt.Errorf("%w: %w", errUnknown, err)
	case elects:
		return ErrElection
	}
	return nil
}

func (f *Follower) put(next *Roster, another bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.current = next
	if another {
		close(f.changed)
		f.changed = make(chan struct{})
	}
}
