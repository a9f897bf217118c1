// Package registry knows the fleet: which proxies are admitted where, and what
// each of them says that it enforces.
package registry

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/internal/proof"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
)

const (
	// refreshEvery is how often enrollments are read, whatever notifications
	// said.
	refreshEvery = 5 * time.Second
	// saveEvery bounds how often records are written. When that takes long, of
	// thousands of proxies, it is done less often.
	saveEvery = 50 * time.Millisecond
	// saveWithin bounds how long writing them may take.
	saveWithin = 10 * time.Second
	// lastSaveWithin is the same when the replica stops.
	lastSaveWithin = 2 * time.Second
	// LostAfter is how long a proxy that another replica last heard of counts
	// as connected: three heartbeats and a half.
	LostAfter = 35 * time.Second
	// maxInstances bounds how many processes of one SPIFFE ID a replica knows at
	// a time.
	maxInstances = 1000
	// page is how many records and enrollments are read at once.
	page = 1000
)

var (
	// ErrNotAdmitted says that a SPIFFE ID belongs nowhere: what wraps it says why.
	ErrNotAdmitted = errors.New("this SPIFFE ID is not admitted")
	// ErrTooMany says that a SPIFFE ID has registered too many instances.
	ErrTooMany = errors.New("too many instances have registered with this SPIFFE ID")
	// ErrInstance says that the name of an instance is none.
	ErrInstance = errors.New("an instance is named by letters, digits, '.', '_' and '-', at most 253")
)

// Store is the part of the store that the registry needs.
type Store interface {
	storage.Fleet
	storage.Rulings
	List(ctx context.Context, f storage.Filter) ([]storage.Version, snapshot.Revision, error)
	Changed(ctx context.Context) <-chan struct{}
}

// Config is what a Registry needs. The first three fields are required.
type Config struct {
	Store Store
	// Replica names this replica. Records of streams that it held before it
	// was started are lost ones.
	Replica string
	Log     *slog.Logger
	// KeepAcks has what proxies have acknowledged last be kept for Acks, and what binds
	// their keys for Binding.
	KeepAcks bool
	// SVIDs verify what binds keys that edges tell of; when nil, none of these is
	// known to be a proxy's own.
	SVIDs proof.SVIDs
	// ForgetLostAfter is for how long nothing was heard of proxies that ForgetLost
	// forgets; 30 days when zero.
	ForgetLostAfter time.Duration
	Registerer      prometheus.Registerer // takes the metrics; none when nil
	Now             func() time.Time      // time.Now when nil
}

// Registry is safe for concurrent use.
type Registry struct {
	store   Store
	replica string
	log     *slog.Logger
	now     func() time.Time
	keeps   bool // acks
	// maxLocal bounds local while it cannot be saved.
	maxLocal int
	lost     *lost
	drift    *drift
	bonds    *bonds
	dirty    chan struct{} // wakes the writer

	// read belongs to Run: the enrollments that were read last.
	read map[resource.Key]snapshot.Digest
	// reading is held by the one that reads rulings, up to the sequence ruledTo.
	reading chan struct{}
	ruledTo int64

	mu          sync.Mutex
	enrollments []enrollment // ordered by key
	ready       bool         // enrollments were read
	rulings     map[string]storage.Ruling
	ruled       bool          // rulings were read
	admissions  chan struct{} // closed when enrollments change
	statuses    chan struct{} // closed when a status changes
	// local holds those that have a stream here, or were heard of here not long
	// ago. The database has all.
	local     map[storage.ProxyID]*entry
	given     map[storage.ProxyID]given
	instances map[string]int // entries of local, by SPIFFE ID
}

// entry is a proxy of which this replica knows the newest status. Changing it
// is replacing it, but for saved.
type entry struct {
	proxy   *adminv1.Proxy
	session *Session // nil when it has no stream here
	saved   bool     // needs the mutex
	acks    *acks    // of its last stream here; nil before that, and unless they are kept
}

// given is what a process gave when it registered here, besides its status. It is not
// changed.
type given struct {
	sealing []byte              // to which secrets are sealed for it; nil for none
	binding *proxyv1.KeyBinding // nil for none, and unless acks are kept
}

// New returns a registry that admits nobody until Run has read the enrollments, and
// what operators have ruled.
func New(c Config) *Registry {
	now := c.Now
	if now == nil {
		now = time.Now
	}
	r := &Registry{
		store:      c.Store,
		replica:    c.Replica,
		log:        c.Log,
		now:        now,
		keeps:      c.KeepAcks,
		maxLocal:   maxLocal,
		lost:       newLost(c),
		bonds:      newBonds(c),
		dirty:      make(chan struct{}, 1),
		reading:    make(chan struct{}, 1),
		admissions: make(chan struct{}),
		statuses:   make(chan struct{}),
		local:      map[storage.ProxyID]*entry{},
		given:      map[storage.ProxyID]given{},
		instances:  map[string]int{},
	}
	r.drift = newDrift(c, r.drifting)
	return r
}

// Run reads enrollments and rulings as they change and writes records, until ctx
// ends. It outlives every failure of the database: what is known stays in force, and
// is written when it can be.
func (r *Registry) Run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { return r.followRulings(ctx) })
	g.Go(func() error { return r.keep(ctx) })
	return g.Wait()
}

// keep is Run but for rulings.
func (r *Registry) keep(ctx context.Context) error {
	changed := r.store.Changed(ctx)
	refresh, pace := time.NewTicker(refreshEvery), time.NewTimer(0)
	defer refresh.Stop()
	defer pace.Stop()
	var dirty <-chan struct{} // r.dirty when it is time
	saved := true
	r.refresh(ctx)
	for {
		select {
		case <-ctx.Done():
			r.save(context.WithoutCancel(ctx), lastSaveWithin)
			return nil
		case <-changed:
			r.refresh(ctx)
			if !saved { // the database may be back
				saved = r.save(ctx, saveWithin)
			}
		case <-refresh.C:
			r.refresh(ctx)
			saved = r.save(ctx, saveWithin)
		case <-dirty:
			dirty = nil
			began := time.Now()
			if saved { // else the next refresh is soon enough
				saved = r.save(ctx, saveWithin)
			}
			pace.Reset(max(saveEvery, 4*time.Since(began)))
		case <-pace.C:
			dirty = r.dirty
		}
	}
}

// Ready reports whether enrollments and rulings were read.
func (r *Registry) Ready() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ready && r.ruled
}

// put replaces the status of a proxy. It needs the mutex.
func (r *Registry) put(id storage.ProxyID, e *entry) {
	if r.local[id] == nil {
		r.instances[e.proxy.GetSpiffeId()]++
	}
	r.local[id] = e
	close(r.statuses)
	r.statuses = make(chan struct{})
	select {
	case r.dirty <- struct{}{}:
	default:
	}
}

// compareProxies orders listings: by environment, then by ID.
func compareProxies(a, b *adminv1.Proxy) int {
	if c := strings.Compare(a.GetEnvironment(), b.GetEnvironment()); c != 0 {
		return c
	}
	return strings.Compare(a.GetId(), b.GetId())
}
