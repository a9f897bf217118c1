package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
	"github.com/sallyport/sallyport/dataplane/link"
	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/revocation"
	"github.com/sallyport/sallyport/internal/snapshot"
)

// environment is that of everything simulated.
const environment = "herd"

// herd are simulated proxies: the link of a real one each, with an identity, a
// connection and a state directory of its own. What they receive is verified by
// each of them, and compiled once for all, since what compiling takes would be
// taken from the machine that the control plane is on.
type herd struct {
	all []*proxy
	dir string

	tables tables
	marks  marks
}

// proxy is a simulated one.
type proxy struct {
	link  *link.Link
	live  atomic.Pointer[table]
	index int
	herd  *herd
}

// newHerd makes n proxies that know replicas at the urls, and starts none. The
// first of them reaches these through the relays that there are instead.
func newHerd(t *testing.T, s *stage, n int, urls, relayed []string) *herd {
	t.Helper()
	h := &herd{all: make([]*proxy, n), dir: memory(t), marks: marks{n: n, news: make(chan struct{}, 1)}}
	key, err := s.RootPublicKey()
	must(t, err)
	verifier := snapshot.NewVerifier(key)
	g, ctx := errgroup.WithContext(t.Context())
	g.SetLimit(4)
	for i := range h.all {
		g.Go(func() error {
			name := fmt.Sprint("herd-", i)
			source, err := s.ids.source(ctx, identity.ID(fmt.Sprint("spiffe://", fleet.TrustDomain, "/herd/", i)), name)
			if err != nil {
				return err
			}
			p := &proxy{index: i, herd: h}
			c := link.Config{
				ControlPlanes: urls, ControlPlaneID: fleet.ControlPlaneID, Identity: source, Instance: name, Build: "simulated",
				Verifier: verifier, Directory: filepath.Join(h.dir, name), Policy: p, Security: &security{}, Listeners: none{}, Log: quiet(),
			}
			if i == 0 {
				c.ControlPlanes = relayed
			}
			p.link, err = link.New(c)
			h.all[i] = p
			return err
		})
	}
	must(t, g.Wait())
	return h
}

// memory returns a folder in memory where there is such: thousands of proxies have
// thousands of disks, and not the one that is here.
func memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sallyport-fleet-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// start starts all of them at once.
func (h *herd) start(t *testing.T) {
	t.Helper()
	background(t, func(ctx context.Context) error {
		var g errgroup.Group
		for _, p := range h.all {
			g.Go(func() error { return p.link.Run(ctx) })
		}
		return g.Wait()
	})
}

// Enforce implements link.Enforcer.
func (p *proxy) Enforce(s *snapshot.Snapshot) {
	p.live.Store(p.herd.tables.of(s))
	p.herd.marks.mark(s.Head().Revision, p.index, time.Now())
}

// Enforced implements link.Enforcer.
func (p *proxy) Enforced() link.Enforced {
	return p.live.Load().enforced
}

// security is the lane of what is cut off.
type security struct {
	live atomic.Pointer[revocation.Set]
}

// Enforce implements link.Enforcer.
func (s *security) Enforce(next *snapshot.Snapshot) {
	s.live.Store(revocation.Compile(s.live.Load(), next))
}

// Enforced implements link.Enforcer.
func (s *security) Enforced() link.Enforced {
	live := s.live.Load()
	return link.Enforced{Root: live.EnforcedRoot(), Rejects: live.Rejects()}
}

// none are the listeners of whoever has no clients.
type none struct{}

func (none) Listeners() []link.Listener { return nil }
func (none) Changed() <-chan struct{}   { return nil }

// table is a compiled snapshot, and what it says that it enforces.
type table struct {
	*compile.Table
	enforced link.Enforced
}

// tables compiles each snapshot once, for whoever has it.
type tables struct {
	mu     sync.Mutex
	newest *table
	made   map[snapshot.Digest]func() *table
}

// kept is how many tables are remembered: who is behind compiles its own again.
const kept = 16

func (t *tables) of(s *snapshot.Snapshot) *table {
	made := t.make(s)()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.newest == nil || made.Head().NewerThan(t.newest.Head()) {
		t.newest = made
	}
	return made
}

// make returns what makes the table of s, the first time that it is called.
func (t *tables) make(s *snapshot.Snapshot) func() *table {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := s.Head().Digest()
	if t.made[key] != nil {
		return t.made[key]
	}
	if t.made == nil || len(t.made) == kept {
		t.made = map[snapshot.Digest]func() *table{}
	}
	var before *compile.Table
	if t.newest != nil {
		before = t.newest.Table
	}
	t.made[key] = sync.OnceValue(func() *table {
		c := compile.Compile(before, s)
		return &table{c, link.Enforced{Root: c.EnforcedRoot(), Rejects: c.Rejects()}}
	})
	return t.made[key]
}

// marks are the moments at which revisions came into force.
type marks struct {
	n    int // proxies
	news chan struct{}

	mu sync.Mutex
	at map[snapshot.Revision]*moments
}

// moments are those of one revision, by proxy; zero where it is not in force yet.
type moments struct {
	by   []time.Time
	left int
}

// of needs the mutex.
func (m *marks) of(r snapshot.Revision) *moments {
	if m.at == nil {
		m.at = map[snapshot.Revision]*moments{}
	}
	if m.at[r] == nil {
		m.at[r] = &moments{make([]time.Time, m.n), m.n}
	}
	return m.at[r]
}

func (m *marks) mark(r snapshot.Revision, proxy int, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	of := m.of(r)
	if !of.by[proxy].IsZero() {
		return
	}
	of.by[proxy] = now
	if of.left--; of.left > 0 {
		return
	}
	select {
	case m.news <- struct{}{}:
	default:
	}
}

// await returns the moment at which each proxy had r in force, once all have. It
// is for one goroutine at a time, and once for a revision.
func (m *marks) await(ctx context.Context, r snapshot.Revision) ([]time.Time, error) {
	for {
		m.mu.Lock()
		of := m.of(r)
		if of.left == 0 {
			delete(m.at, r)
		}
		left, by := of.left, of.by
		m.mu.Unlock()
		if left == 0 {
			return by, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("%d of %d proxies do not enforce revision %d", left, m.n, r), ctx.Err())
		case <-m.news:
		}
	}
}
