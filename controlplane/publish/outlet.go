package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/sallyport/sallyport/internal/failpoint"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

// outlet brings what a tenure has signed to one target, at that target's pace. It
// belongs to the goroutine of run; a delivery, to the one that works on it.
type outlet struct {
	*tenure
	Place
	log    *slog.Logger
	news   chan struct{} // receives after something was signed
	survey *survey

	deliveries map[string]*delivery
	// known holds the newest published head of each environment that was found
	// in the database.
	known map[string]snapshot.Digest
	// announced is the newest key set that was seen in the target; nil before the
	// target was looked at.
	announced *snapshot.Digest
	// compared says that all that was published when it was last looked at is part of
	// the history that the database holds: nothing is published before.
	compared bool
	surveyed bool // it has taken part in the survey
	trouble  trouble
	report   report
}

// delivery is what an outlet knows of one environment.
type delivery struct {
	name string
	signed
	// published is what was last seen whole in the target.
	published *snapshot.Snapshot
	// cursor is the revision up to which the database says that was published, once
	// it was read.
	cursor snapshot.Revision
	read   bool
	// confirmed is when the newest freshness statement of this term was issued; zero
	// before the first.
	confirmed time.Time
	trouble   trouble
}

func newOutlet(t *tenure, p Place, s *survey) *outlet {
	return &outlet{
		tenure: t, Place: p, survey: s, log: t.log.With("target", p.Name), news: make(chan struct{}, 1),
		deliveries: map[string]*delivery{}, known: map[string]snapshot.Digest{},
	}
}

// run publishes until the term is over.
func (o *outlet) run(ctx context.Context) error {
	reconcile, fresh := time.NewTicker(o.reconcileEvery), time.NewTicker(o.freshnessEvery)
	defer reconcile.Stop()
	defer fresh.Stop()
	retry := newRetry(o.reconcileEvery)
	defer retry.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-o.news:
	}
	err := o.bring(ctx)
	if err == nil {
		err = o.confirm(ctx)
	}
	for err == nil {
		if err = o.report.tell(ctx, o.tenure, o.Name, o.wrong()); err != nil {
			break
		}
		retry.after(o.failing())
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-o.news:
			err = o.bring(ctx)
		case <-retry.C:
			err = o.bring(ctx)
		case <-reconcile.C:
			err = o.reconcile(ctx)
		case <-fresh.C:
			err = o.confirm(ctx)
		}
	}
	return err
}

// reconcile is bring for everything, including what was already published:
// what has gone from the target is written again.
func (o *outlet) reconcile(ctx context.Context) error {
	o.announced, o.compared = nil, false
	for _, d := range o.deliveries {
		d.published = nil
	}
	return o.bring(ctx)
}

// bring brings the target up to what is signed. It returns what ends the term; any
// other trouble is the target's own, and holds up no other.
func (o *outlet) bring(ctx context.Context) error {
	o.take()
	err := o.enter(ctx)
	if err == nil && o.compared {
		err = o.publishAll(ctx)
	}
	if err != nil && ends(ctx, err) {
		return fmt.Errorf("target %s: %w", o.Name, err)
	}
	o.note(ctx, err)
	return nil
}

// take learns what is signed by now.
func (o *outlet) take() {
	for name, s := range *o.signed.Load() {
		d := o.deliveries[name]
		if d == nil {
			d = &delivery{name: name}
			o.deliveries[name] = d
		}
		d.signed = s
	}
}

// enter is what goes before publishing: the key sets are there, and all that is
// published, here and at every other target that can be reached, is history.
func (o *outlet) enter(ctx context.Context) error {
	err := o.announce(ctx)
	if err == nil && !o.compared {
		err = o.compare(ctx)
	}
	if err != nil && ends(ctx, err) {
		return err // the survey does not pass by this
	}
	if !o.surveyed {
		o.surveyed = true
		o.survey.pass()
	}
	if err != nil {
		return err
	}
	return o.survey.await(ctx, o.surveyWithin)
}

// announce sees to it that the key sets are in the target before anything is that
// was signed with their keys.
func (o *outlet) announce(ctx context.Context) error {
	newest := o.verifier.Newest().Digest()
	if o.announced != nil && *o.announced == newest {
		return nil
	}
	err := o.PublishKeySets(ctx, o.verifier)
	switch {
	case errors.Is(err, storage.ErrAhead) && o.trust(ctx) == nil && o.verifier.Newest().Digest() != newest:
		return fmt.Errorf("%w: it has published more key sets", storage.ErrFenced)
	case err != nil:
		return fmt.Errorf("publish key sets: %w", err)
	}
	o.announced = &newest
	return nil
}

// compare makes sure that all that is published, of either lane, is part of the
// history that the database holds. ErrAhead if not: then the database was set
// back, and whatever were published would fork history.
func (o *outlet) compare(ctx context.Context) error {
	if err := o.store.Settled(ctx); err != nil {
		return fmt.Errorf("look for what others have seen: %w", err)
	}
	published, err := o.Heads(ctx, o.verifier)
	if err != nil {
		return fmt.Errorf("read what is published: %w", err)
	}
	undecided := false
	for _, h := range published {
		if o.known[h.Environment] == h.Digest() {
			continue
		}
		switch err := o.store.Witness(ctx, o.Name, h); {
		case errors.Is(err, storage.ErrNotFound) && (h.Environment == snapshot.SecurityLane) != o.immediate:
			undecided = true // it is for the other lane to sign what there is, and to tell
			continue
		case errors.Is(err, storage.ErrNotFound):
			return fmt.Errorf("%w: environment %s has epoch %d revision %d", storage.ErrAhead, h.Environment, h.Epoch, h.Revision)
		case err != nil:
			return fmt.Errorf("look for revision %d of %s: %w", h.Revision, h.Environment, err)
		}
		o.known[h.Environment] = h.Digest()
	}
	o.compared = !undecided
	return nil
}

// publishAll makes what is signed the newest of the target.
func (o *outlet) publishAll(ctx context.Context) error {
	err := o.each(ctx, o.deliveries, o.publish)
	if errors.Is(err, storage.ErrAhead) && o.compare(ctx) == nil {
		// What is published is in the database by now: somebody else was faster.
		return fmt.Errorf("%w: it has published more", storage.ErrFenced)
	}
	return err
}

// each calls f for deliveries, and returns what ends the term, or that the target is
// away or full: the first who finds that spares the others their wait.
func (o *outlet) each(ctx context.Context, some map[string]*delivery, f func(context.Context, *delivery) error) error {
	var closed failure
	err := each(ctx, some, func(ctx context.Context, d *delivery) error {
		if closed.get() != nil {
			return nil
		}
		err := f(ctx, d)
		if errors.Is(err, storage.ErrAway) || errors.Is(err, storage.ErrFull) {
			closed.set(err)
			return nil
		}
		return settle(ctx, o.log, d.name, &d.trouble, err)
	})
	if err == nil {
		err = closed.get()
	}
	return err
}

// publish makes the newest snapshot the newest of the target. Every revision
// of the environment has a head in the database, each holding the digest of
// the one before; the target gets the last.
func (o *outlet) publish(ctx context.Context, d *delivery) error {
	if d.snapshot == nil || d.published == d.snapshot {
		return nil
	}
	head := d.snapshot.Head()
	if err := o.Publish(ctx, o.verifier, d.snapshot); err != nil {
		return fmt.Errorf("publish revision %d: %w", head.Revision, err)
	}
	if err := o.readCursor(ctx, d); err != nil {
		return err
	}
	if d.cursor < head.Revision {
		if err := o.advance(ctx, d); err != nil {
			return err
		}
		d.cursor = head.Revision
		o.log.InfoContext(ctx, "snapshot published", "environment", d.name, "revision", head.Revision,
			"root", head.Root.Short(), "documents", head.Documents)
	}
	d.published = d.snapshot
	return nil
}

func (o *outlet) readCursor(ctx context.Context, d *delivery) (err error) {
	if d.read {
		return nil
	}
	if d.cursor, err = o.store.Cursor(ctx, o.Name, d.name); err != nil {
		return fmt.Errorf("read cursor: %w", err)
	}
	d.read = true
	return nil
}

// confirm issues a freshness statement for every environment of which all that
// was committed is published.
func (o *outlet) confirm(ctx context.Context) error {
	o.take()
	if !o.compared {
		return nil
	}
	current := map[string]*delivery{}
	for name, d := range o.deliveries {
		if d.current() {
			current[name] = d
		}
	}
	err := o.each(ctx, current, o.confirmOne)
	switch {
	case err != nil && ends(ctx, err):
		return fmt.Errorf("target %s: %w", o.Name, err)
	case err != nil:
		o.note(ctx, err)
	case !o.failing() && len(current) == len(o.deliveries):
		o.confirmed.WithLabelValues(o.Name, o.lane()).SetToCurrentTime()
	}
	return nil
}

// current reports whether what is published is all that was committed.
func (d *delivery) current() bool {
	return d.newest && d.snapshot != nil && d.published == d.snapshot && d.trouble.failures == 0
}

// advance records that the newest head is published. The first of a term is confirmed
// with it, and each of the security lane. Any other is when its time comes: until then
// the statement before it confirms it as well, and a fleet of thousands that takes a
// change has something better to do.
func (o *outlet) advance(ctx context.Context, d *delivery) error {
	if o.immediate || o.now().Sub(d.confirmed) >= o.freshnessEvery {
		return o.confirmOne(ctx, d)
	}
	return o.record(ctx, d)
}

// record has the database know what is published. Once it has accepted that, no later
// term had begun by when it was asked.
func (o *outlet) record(ctx context.Context, d *delivery) error {
	if err := o.store.AdvanceCursor(ctx, o.term, o.Name, d.name, d.snapshot.Head().Revision); err != nil {
		return fmt.Errorf("advance cursor: %w", err)
	}
	failpoint.Hit("publish.cursor")
	return nil
}

// confirmOne says that the published head was the newest when it was issued.
func (o *outlet) confirmOne(ctx context.Context, d *delivery) error {
	head, at := d.snapshot.Head(), o.now()
	if err := o.record(ctx, d); err != nil {
		return err
	}
	signed, err := o.signer.SignFreshness(snapshot.Freshness{
		Epoch:       head.Epoch,
		Environment: d.name,
		Revision:    head.Revision,
		HeadDigest:  head.Digest(),
		IssuedAt:    at,
	})
	if err != nil {
		return err
	}
	if err := o.PublishFreshness(ctx, d.name, signed); err != nil {
		return fmt.Errorf("confirm revision %d: %w", head.Revision, err)
	}
	d.confirmed = at
	return nil
}

// failing reports whether something has to be tried again.
func (o *outlet) failing() bool { return !o.compared || o.wrong() != "" }

// wrong says in words why the target does not get what there is; empty when it does.
func (o *outlet) wrong() string {
	if o.trouble.failures > 0 {
		return o.trouble.last
	}
	return worst(o.deliveries, func(d *delivery) trouble { return d.trouble })
}
