package link

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/proof"
	"github.com/sallyport/sallyport/internal/snapshot"
)

// lane is one of the two histories that a proxy follows: that of its
// environment, and that of what is cut off at once.
type lane struct {
	lore
	enforcer Enforcer
	cfg      *Config
	log      *slog.Logger
	metrics  laneMetrics
	signs    *proof.Key
	tell     func() // after said, or what is on disk, has changed

	// taking is held by who accepts something: the goroutine of follow, and that of
	// the bundle until there is something in force. It guards what follows, after
	// restore.
	taking sync.Mutex
	// current is the newest snapshot that was accepted, nil before the first,
	// and marks are what nothing accepted may lie before.
	current *snapshot.Snapshot
	marks   marks
	clock   clock // its age is for everybody, without taking
	// said is what the proxy says that it enforces, nil before the first. It is
	// made by enforce alone, after the swap.
	said atomic.Pointer[statement]

	keeper *keeper
}

// lore is what one lane has and the other has not.
type lore struct {
	name   string // in logs and metrics
	prefix string // of files
	// of is the environment that its snapshots are of; empty when that is the
	// one which Register names.
	of string
	// strict lanes have no previous generation, and take nothing from the disk
	// that lies before the mark: what has changed since would be undone.
	strict bool
}

var (
	policyLore   = lore{name: "policy"}
	securityLore = lore{name: "security", prefix: "security-", of: snapshot.SecurityLane, strict: true}
)

func newLane(of lore, e Enforcer, c *Config, m laneMetrics, tell func()) *lane {
	l := &lane{lore: of, enforcer: e, cfg: c, log: c.Log.With("lane", of.name), metrics: m, tell: tell, marks: marks{}}
	l.keeper = newKeeper(l)
	return l
}

func (l *lane) age() (time.Duration, bool) { return l.clock.age(l.cfg.Now()) }

// head returns that of what was accepted.
func (l *lane) head() snapshot.Head {
	l.taking.Lock()
	defer l.taking.Unlock()
	return l.current.Head()
}

// run keeps the lane on the disk until ctx ends.
func (l *lane) run(ctx context.Context, d *disk) error { return l.keeper.run(ctx, d) }

// restore puts the last good snapshot in force, before anybody is asked.
func (l *lane) restore(ctx context.Context, d *disk) {
	l.marks = l.readMarks(ctx, d)
	last := l.readLastGood(ctx, d)
	if last == nil {
		return
	}
	head := last.Head()
	if mark := l.marks[head.Environment]; mark.Position().After(head.Position()) {
		if l.strict {
			l.log.ErrorContext(ctx, "last-good snapshot is older than what was enforced and is not used",
				"revision", head.Revision, "high_water_mark", mark.Revision)
			return
		}
		l.log.WarnContext(ctx, "last-good snapshot is older than what was enforced",
			"revision", head.Revision, "high_water_mark", mark.Revision)
	}
	l.keeper.restored(head)
	l.enforce(last)
	if f, err := d.readFreshness(l.cfg.Verifier.Past()); err == nil {
		l.clock.take(f, head)
	} else if !notThere(err) {
		l.log.WarnContext(ctx, "last freshness statement cannot be used", "err", err)
	}
	l.log.InfoContext(ctx, "last-good snapshot enforced", "environment", head.Environment, "revision", head.Revision)
}

// readMarks goes on without what cannot be read: whoever can damage the file
// can remove it as well, and then it is that of a new proxy.
func (l *lane) readMarks(ctx context.Context, d *disk) marks {
	m, err := d.readMarks()
	if err != nil && !notThere(err) {
		l.log.ErrorContext(ctx, "high-water mark is unreadable: older snapshots would be accepted up to that of last-good", "err", err)
	}
	return m
}

// readLastGood returns the newest generation that verifies; nil if none does.
func (l *lane) readLastGood(ctx context.Context, d *disk) *snapshot.Snapshot {
	generations := []string{lastGoodFile, previousFile}
	if l.strict {
		generations = generations[:1]
	}
	for _, name := range generations {
		s, err := l.read(d, name)
		switch {
		case err == nil && name == previousFile:
			l.log.ErrorContext(ctx, "previous generation of the last-good snapshot is used", "revision", s.Head().Revision)
			return s
		case err == nil:
			return s
		case !notThere(err):
			l.metrics.damaged.Inc()
			l.log.ErrorContext(ctx, "last-good snapshot cannot be used", "file", d.prefix+name, "err", err)
		}
	}
	return nil
}

// read reads a generation, which has to be of this lane. It may be signed with a key
// that was retired since it was verified: that is no reason to enforce nothing.
func (l *lane) read(d *disk, name string) (*snapshot.Snapshot, error) {
	b, err := d.readBundle(name, l.cfg.Verifier.Past())
	if err != nil {
		return nil, err
	}
	s := b.Policy
	if l.of == snapshot.SecurityLane {
		s = b.Security
	}
	if s == nil {
		return nil, errEnvironment
	}
	return s, nil
}
