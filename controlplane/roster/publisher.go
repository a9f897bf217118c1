package roster

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/sallyport/sallyport/internal/snapshot"
	distributionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/distribution/v1"
	"github.com/sallyport/sallyport/storage"
)

const (
	// confirmEvery is how often the roster is confirmed to be the newest.
	confirmEvery = 10 * time.Second
	// retryEvery is when it is tried again to publish it.
	retryEvery = time.Second
)

// Store is the part of the store that publishing a roster needs.
type Store interface {
	storage.Rosters
	Settled(ctx context.Context) error
	Changed(ctx context.Context) <-chan struct{}
}

// Target is where a roster is published. It is an *etcd.Store.
type Target interface {
	PublishRoster(ctx context.Context, v *snapshot.Verifier, signed *distributionv1.SignedRoster, body []byte) error
}

// Election is what elects the publisher. It is an *etcd.Store.
type Election interface {
	// LeaderKey returns the key by which the publisher is elected.
	LeaderKey(ctx context.Context) (string, error)
}

// PublisherConfig is what a Publisher needs. All fields but Now are required.
type PublisherConfig struct {
	Store    Store
	Target   Target
	Election Election
	Signer   *snapshot.Signer
	Verifier *snapshot.Verifier // knows the newest key set
	Log      *slog.Logger
	Now      func() time.Time // time.Now when nil
}

// Publisher publishes who is admitted.
//
// It needs no term: a roster is made of nothing but what the database held after a
// certain entry of the audit, so that two publishers make the same of it, and who has
// seen a later one takes no earlier one.
type Publisher struct {
	PublisherConfig
	confirmEvery, retryEvery time.Duration

	// What was published last, and when; they belong to Run.
	body  [sha256.Size]byte
	at    time.Time
	fault string // of the last attempt
}

// NewPublisher returns a publisher that does nothing until Run.
func NewPublisher(c PublisherConfig) *Publisher {
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Publisher{PublisherConfig: c, confirmEvery: confirmEvery, retryEvery: retryEvery}
}

// Run publishes the roster as it changes, and confirms it every ten seconds, until
// ctx ends; it returns ctx's error. One replica at a time is to call it, and several
// are not in each other's way. It outlives every failure of the database and of etcd.
func (p *Publisher) Run(ctx context.Context) error {
	changed := p.Store.Changed(ctx)
	p.at = time.Time{} // another replica may have published since
	for {
		wait := p.confirmEvery
		if err := p.publish(ctx); err != nil {
			wait = p.retryEvery
			p.complain(ctx, err)
		} else {
			p.fault = ""
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-changed:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// publish publishes the roster if it is another one, or was not confirmed for a while.
func (p *Publisher) publish(ctx context.Context) error {
	if err := p.Store.Settled(ctx); err != nil {
		return err
	}
	now := p.Now()
	r, err := p.Store.Roster(ctx)
	if err != nil {
		return fmt.Errorf("read who is admitted: %w", err)
	}
	election, err := p.Election.LeaderKey(ctx)
	if err != nil {
		return err
	}
	body, err := encode(r, election)
	if err != nil {
		return err
	}
	digest := sha256.Sum256(body)
	if r.Sequence < 1 || digest == p.body && now.Sub(p.at) < p.confirmEvery {
		return nil
	}
	signed, err := p.Signer.SignRoster(snapshot.Roster{Epoch: r.Epoch, Sequence: r.Sequence, Digest: digest, IssuedAt: now})
	if err != nil {
		return err
	}
	if err := p.Target.PublishRoster(ctx, p.Verifier, signed, body); err != nil {
		return err
	}
	if digest != p.body {
		p.Log.InfoContext(ctx, "roster published", "sequence", r.Sequence, "enrollments", len(r.Enrollments))
	}
	p.body, p.at = digest, now
	return nil
}

// complain says what is news of an error: for someone to act, where trying again is
// of no use.
func (p *Publisher) complain(ctx context.Context, err error) {
	if ctx.Err() != nil || p.fault == err.Error() {
		return
	}
	p.fault = err.Error()
	level := slog.LevelWarn
	if errors.Is(err, ErrTooLarge) || errors.Is(err, storage.ErrAhead) || errors.Is(err, snapshot.ErrSigning) {
		level = slog.LevelError
	}
	p.Log.Log(ctx, level, "roster was not published", "err", err)
}
