// Package upkeep keeps room in the etcds that snapshots are published to: it gives up
// what nobody needs, and says when they fill up.
package upkeep

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/etcd"
)

const (
	// lookEvery is how often each etcd is asked how it is.
	lookEvery = 15 * time.Second
	// keepEvery is how often the elected replica gives up what is not needed.
	keepEvery = time.Minute

	// An etcd is nearly full when so much of its quota is used up, until it is less.
	nearlyFull, roomAgain = 0.8, 0.7
)

// Place is an etcd with its name.
type Place struct {
	Name  string
	Store *etcd.Store
}

// Config is what an Upkeep needs. All fields but Registerer and Now are required.
type Config struct {
	Places     []Place
	Log        *slog.Logger
	Registerer prometheus.Registerer // takes the metrics; nobody when nil
	Now        func() time.Time      // time.Now when nil
}

// Upkeep runs on every replica: each looks, and shows what it sees as metrics. The
// elected one gives up what is not needed. One that is full is rescued by the elected
// one, or, since nobody can be elected by an etcd that takes nothing, by any that has
// seen it twice.
type Upkeep struct {
	places             []*place
	elected            atomic.Bool
	now                func() time.Time
	lookEvery          time.Duration
	keepEvery          time.Duration
	size, inUse, quota *prometheus.GaugeVec
	full               *prometheus.GaugeVec
}

// place is an etcd that is kept. It belongs to the goroutine of its run.
type place struct {
	Place
	keeper *etcd.Keeper
	log    *slog.Logger
	kept   time.Time // when it was last kept
	full   bool      // when it was last looked at
	nearly bool      // that was said
	failed string    // what was last said to have failed; empty when nothing has
}

// New returns an Upkeep that does nothing until Run.
func New(c Config) *Upkeep {
	u := &Upkeep{now: c.Now, lookEvery: lookEvery, keepEvery: keepEvery}
	if u.now == nil {
		u.now = time.Now
	}
	for _, p := range c.Places {
		u.places = append(u.places, &place{Place: p, keeper: etcd.NewKeeper(p.Store), log: c.Log.With("target", p.Name)})
	}
	vec := func(o prometheus.GaugeOpts, labels ...string) *prometheus.GaugeVec {
		return promauto.With(c.Registerer).NewGaugeVec(o, append([]string{"target"}, labels...))
	}
	u.size = vec(prometheus.GaugeOpts{Name: "sallyport_etcd_size_bytes", Help: "How large the database of the member is on its disk."}, "member")
	u.inUse = vec(prometheus.GaugeOpts{Name: "sallyport_etcd_in_use_bytes", Help: "How much of that holds something."}, "member")
	u.quota = vec(prometheus.GaugeOpts{Name: "sallyport_etcd_quota_bytes", Help: "The size at which it takes nothing any more; 0 where there is none."}, "member")
	u.full = vec(prometheus.GaugeOpts{Name: "sallyport_etcd_full", Help: "1 while the target takes nothing any more, because a quota was reached."})
	return u
}

// Elected is done while this replica is the elected one, until ctx ends.
func (u *Upkeep) Elected(ctx context.Context, _ storage.Term) error {
	u.elected.Store(true)
	defer u.elected.Store(false)
	<-ctx.Done()
	return ctx.Err()
}

// Run looks after each etcd until ctx ends. It outlives every failure of theirs.
func (u *Upkeep) Run(ctx context.Context) error {
	var g sync.WaitGroup
	for _, p := range u.places {
		g.Go(func() { u.run(ctx, p) })
	}
	g.Wait()
	return nil
}

func (u *Upkeep) run(ctx context.Context, p *place) {
	ticker := time.NewTicker(u.lookEvery)
	defer ticker.Stop()
	for {
		if done, err := u.look(ctx, p); done && ctx.Err() == nil {
			p.say(ctx, err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// look asks the members how they are, and does what is to be done, if anything is.
func (u *Upkeep) look(ctx context.Context, p *place) (done bool, err error) {
	members, err := p.Store.Members(ctx)
	was := p.full
	if len(members) > 0 {
		p.full = u.show(p.Name, members)
		p.warn(ctx, members)
	}
	switch elected := u.elected.Load(); {
	case p.full && (elected || was):
		return true, errors.Join(err, p.rescue(ctx))
	case !p.full && elected && u.now().Sub(p.kept) >= u.keepEvery:
		return true, errors.Join(err, p.keep(ctx, u.now()))
	}
	return false, nil // who is elected says what is wrong
}

// show sets the metrics, and reports whether the etcd is full.
func (u *Upkeep) show(name string, members []etcd.Member) (full bool) {
	for _, m := range members {
		u.size.WithLabelValues(name, m.Endpoint).Set(float64(m.Size))
		u.inUse.WithLabelValues(name, m.Endpoint).Set(float64(m.InUse))
		u.quota.WithLabelValues(name, m.Endpoint).Set(float64(m.Quota))
		full = full || m.Full
	}
	u.full.WithLabelValues(name).Set(0)
	if full {
		u.full.WithLabelValues(name).Set(1)
	}
	return full
}

// warn says when a member fills up, once until it has room again.
func (p *place) warn(ctx context.Context, members []etcd.Member) {
	share := 0.0
	for _, m := range members {
		share = max(share, m.Share())
		if m.Share() >= nearlyFull && !p.nearly {
			p.nearly = true
			p.log.ErrorContext(ctx, "etcd is nearly full", "member", m.Endpoint, "bytes", m.Size, "in_use", m.InUse, "quota", m.Quota)
		}
	}
	if share < roomAgain && p.nearly {
		p.nearly = false
		p.log.InfoContext(ctx, "etcd has room again")
	}
}

// keep gives up what is not needed.
func (p *place) keep(ctx context.Context, now time.Time) error {
	p.kept = now
	done, err := p.keeper.Round(ctx, now)
	if done.Collected > 0 {
		p.log.InfoContext(ctx, "chunks that no head names were removed", "items", done.Collected)
	}
	p.tell(ctx, done)
	return err
}

// rescue makes room in one that is full.
func (p *place) rescue(ctx context.Context) error {
	done, err := p.keeper.Rescue(ctx)
	p.tell(ctx, done)
	if err == nil {
		p.full = false
		p.log.WarnContext(ctx, "etcd was full, and takes writes again")
	}
	return err
}

func (p *place) tell(ctx context.Context, done etcd.Kept) {
	for _, member := range done.Defragmented {
		p.log.InfoContext(ctx, "member of etcd was defragmented", "member", member)
	}
}

// say says what has failed, once until it is another thing. One that stays full is
// for somebody to act on.
func (p *place) say(ctx context.Context, err error) {
	if err == nil {
		p.failed = ""
		return
	}
	if p.failed == err.Error() {
		return
	}
	p.failed = err.Error()
	level := slog.LevelWarn
	if errors.Is(err, storage.ErrFull) {
		level = slog.LevelError
	}
	p.log.Log(ctx, level, "etcd was not taken care of", "err", err)
}
