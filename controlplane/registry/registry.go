// Package registry knows the fleet: which proxies are admitted where, and what
// each of them says that it enforces.
package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/internal/pattern"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
	"github.com/sallyport/sallyport/storage"
)

const (
	// refreshEvery is how often enrollments are read, whatever notifications
	// said.
	refreshEvery = 5 * time.Second
	// saveEvery bounds how often records are written.
	saveEvery = 50 * time.Millisecond
	// LostAfter is how long a proxy that another replica last heard of counts
	// as connected: three heartbeats and a half.
	LostAfter = 35 * time.Second
	// maxInstances bounds how many processes one SPIFFE ID may register.
	maxInstances = 1000
)

var (
	// ErrNotAdmitted says that no Enrollment matches a SPIFFE ID.
	ErrNotAdmitted = errors.New("no enrollment matches this SPIFFE ID")
	// ErrTooMany says that a SPIFFE ID has registered too many instances.
	ErrTooMany = errors.New("too many instances have registered with this SPIFFE ID")
)

// Store is the part of the store that the registry needs.
type Store interface {
	storage.Fleet
	Since(ctx context.Context, after snapshot.Revision) ([]storage.Version, snapshot.Revision, error)
	Changed(ctx context.Context) <-chan struct{}
	EnvironmentsAt(ctx context.Context, at snapshot.Revision) (map[string]snapshot.Revision, error)
}

// Config is what a Registry needs. All fields but Now are required.
type Config struct {
	Store Store
	// Replica names this replica. Records of streams that it held before it
	// was started are lost ones.
	Replica string
	Log     *slog.Logger
	Now     func() time.Time // time.Now when nil
}

// Registry is safe for concurrent use.
type Registry struct {
	store   Store
	replica string
	log     *slog.Logger
	now     func() time.Time
	dirty   chan struct{} // wakes the writer

	mu          sync.Mutex
	enrollments []enrollment
	read        snapshot.Revision // up to which enrollments are known
	ready       bool
	admissions  chan struct{}              // closed when enrollments change
	statuses    chan struct{}              // closed when a status changes
	local       map[storage.ProxyID]*entry // those this replica heard of
}

// entry is a proxy of which this replica knows the newest status.
type entry struct {
	proxy   *adminv1.Proxy // replaced, never changed in place
	session *Session       // nil when it has no stream here
	saved   bool
}

// enrollment is a compiled Enrollment.
type enrollment struct {
	key         resource.Key
	pattern     pattern.SPIFFE
	environment string
	labels      map[string]string
}

// New returns a registry that admits nobody until Run has read the enrollments.
func New(c Config) *Registry {
	now := c.Now
	if now == nil {
		now = time.Now
	}
	return &Registry{
		store:      c.Store,
		replica:    c.Replica,
		log:        c.Log,
		now:        now,
		dirty:      make(chan struct{}, 1),
		admissions: make(chan struct{}),
		statuses:   make(chan struct{}),
		local:      map[storage.ProxyID]*entry{},
	}
}

// Run reads enrollments as they change and writes records, until ctx ends. It
// outlives every failure of the database: what is known stays in force.
func (r *Registry) Run(ctx context.Context) error {
	changed := r.store.Changed(ctx)
	refresh := time.NewTicker(refreshEvery)
	defer refresh.Stop()
	r.refresh(ctx)
	for {
		select {
		case <-ctx.Done():
			r.saveLast(ctx)
			return nil
		case <-changed:
			r.refresh(ctx)
		case <-refresh.C:
			r.refresh(ctx)
			r.save(ctx)
		case <-r.dirty:
			r.save(ctx)
			select {
			case <-ctx.Done():
			case <-time.After(saveEvery):
			}
		}
	}
}

// Ready reports whether enrollments were read.
func (r *Registry) Ready() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ready
}

func (r *Registry) refresh(ctx context.Context) {
	r.mu.Lock()
	after, first := r.read, !r.ready
	r.mu.Unlock()
	if first {
		if err := r.forgetStreams(ctx); err != nil {
			r.log.WarnContext(ctx, "fleet could not be read", "err", err)
			return
		}
	}
	versions, read, err := r.store.Since(ctx, after)
	if err != nil {
		r.log.WarnContext(ctx, "enrollments could not be read", "err", err)
		return
	}
	changes := map[resource.Key]*enrollment{}
	for _, v := range versions {
		if v.Key.Kind != resource.KindEnrollment {
			continue
		}
		if changes[v.Key], err = parse(v); err != nil {
			r.log.ErrorContext(ctx, "enrollment was left out", "resource", v.Key.String(), "err", err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.read, r.ready = read, true
	if len(changes) == 0 && !first {
		return
	}
	r.enrollments = slices.DeleteFunc(r.enrollments, func(e enrollment) bool {
		_, changed := changes[e.key]
		return changed
	})
	for _, e := range changes {
		if e != nil {
			r.enrollments = append(r.enrollments, *e)
		}
	}
	slices.SortFunc(r.enrollments, func(a, b enrollment) int { return a.key.Compare(b.key) })
	close(r.admissions)
	r.admissions = make(chan struct{})
}

// parse returns nil for a version that is deleted.
func parse(v storage.Version) (*enrollment, error) {
	if v.Deleted {
		return nil, nil //nolint:nilnil // documented
	}
	env, err := resource.ParseEnvelope(v.Document)
	if err != nil {
		return nil, err
	}
	var spec resourcev1.Enrollment
	if err := proto.Unmarshal(env.Document.GetSpec(), &spec); err != nil {
		return nil, fmt.Errorf("parse enrollment: %w", err)
	}
	p, err := pattern.ParseSPIFFE(spec.GetSpiffeId())
	if err != nil {
		return nil, err
	}
	return &enrollment{key: v.Key, pattern: p, environment: spec.GetEnvironment(), labels: spec.GetLabels()}, nil
}

// Admission is where an Enrollment puts a proxy.
type Admission struct {
	Environment string
	Labels      map[string]string
	// Changed is closed when enrollments change: ask again.
	Changed <-chan struct{}
}

// Admit returns where a SPIFFE ID belongs. ErrNotAdmitted, with Changed set, if
// no Enrollment matches, or if those that do name several environments.
func (r *Registry) Admit(spiffeID string) (Admission, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := Admission{Changed: r.admissions, Labels: map[string]string{}}
	for _, e := range r.enrollments {
		if !e.pattern.Match(spiffeID) {
			continue
		}
		if a.Environment != "" && a.Environment != e.environment {
			return Admission{Changed: r.admissions}, fmt.Errorf("%w: it matches %s and %s", ErrNotAdmitted, a.Environment, e.environment)
		}
		a.Environment = e.environment
		maps.Copy(a.Labels, e.labels)
	}
	if a.Environment == "" {
		return Admission{Changed: r.admissions}, ErrNotAdmitted
	}
	return a, nil
}

// forgetStreams marks as lost what this replica's former process held.
func (r *Registry) forgetStreams(ctx context.Context) error {
	var lost []storage.Proxy
	var after storage.Proxy
	for {
		page, err := r.store.Proxies(ctx, "", after, 1000)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			break
		}
		after = page[len(page)-1]
		for _, p := range page {
			if p.Replica == r.replica {
				p.Replica = ""
				lost = append(lost, p)
			}
		}
	}
	return r.store.SaveProxies(ctx, lost)
}

// save writes the records that changed. What cannot be written now is written
// later: memory has the newest of each.
func (r *Registry) save(ctx context.Context) {
	r.mu.Lock()
	var records []storage.Proxy
	for id, e := range r.local {
		if e.saved {
			continue
		}
		record, err := r.record(id, e)
		if err != nil {
			r.log.ErrorContext(ctx, "record of proxy was not made", "proxy", id, "err", err)
			continue
		}
		records = append(records, record)
		e.saved = true
	}
	r.mu.Unlock()
	if len(records) == 0 {
		return
	}
	if err := r.store.SaveProxies(ctx, records); err != nil {
		r.log.WarnContext(ctx, "fleet was not saved", "err", err)
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, p := range records {
			if e := r.local[p.ID]; e != nil {
				e.saved = false
			}
		}
	}
}

// saveLast writes what is left when the replica stops.
func (r *Registry) saveLast(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	r.save(ctx)
}

// record needs the mutex.
func (r *Registry) record(id storage.ProxyID, e *entry) (storage.Proxy, error) {
	status, err := proto.Marshal(e.proxy)
	if err != nil {
		return storage.Proxy{}, fmt.Errorf("marshal status: %w", err)
	}
	record := storage.Proxy{
		ID:           id,
		SPIFFEID:     e.proxy.GetSpiffeId(),
		Instance:     e.proxy.GetInstance(),
		Environment:  e.proxy.GetEnvironment(),
		Status:       status,
		RegisteredAt: e.proxy.GetRegisteredAt().AsTime(),
		LastSeen:     e.proxy.GetLastSeenAt().AsTime(),
	}
	if e.session != nil {
		record.Replica = r.replica
	}
	return record, nil
}

// put replaces the status of a proxy. It needs the mutex.
func (r *Registry) put(id storage.ProxyID, e *entry) {
	e.saved = false
	r.local[id] = e
	close(r.statuses)
	r.statuses = make(chan struct{})
	select {
	case r.dirty <- struct{}{}:
	default:
	}
}

// ProxyID returns the name of a proxy process.
func ProxyID(spiffeID, instance string) storage.ProxyID {
	return storage.ProxyID(spiffeID + "#" + instance)
}

// Registration is what a proxy says of itself.
type Registration struct {
	SPIFFEID        string // from its certificate
	Instance        string
	Build           string
	ProtocolVersion int32
}

// Register records a proxy process. It returns where it is admitted, or
// ErrNotAdmitted: then it stays pending. ErrTooMany.
func (r *Registry) Register(reg Registration) (Admission, error) {
	admission, refused := r.Admit(reg.SPIFFEID)
	id := ProxyID(reg.SPIFFEID, reg.Instance)
	r.mu.Lock()
	defer r.mu.Unlock()
	now := timestamppb.New(r.now())
	p := &adminv1.Proxy{Id: string(id), SpiffeId: reg.SPIFFEID, Instance: reg.Instance, RegisteredAt: now}
	var session *Session
	if e := r.local[id]; e != nil {
		p, session = proto.CloneOf(e.proxy), e.session
	} else if r.instances(reg.SPIFFEID) >= maxInstances {
		return Admission{}, ErrTooMany
	}
	p.Build, p.ProtocolVersion, p.LastSeenAt = reg.Build, reg.ProtocolVersion, now
	p.Environment, p.Labels = admission.Environment, admission.Labels
	if refused != nil && session == nil {
		p.Connection = adminv1.Connection_CONNECTION_PENDING
	}
	r.put(id, &entry{proxy: p, session: session})
	return admission, refused
}

// instances needs the mutex.
func (r *Registry) instances(spiffeID string) (n int) {
	for _, e := range r.local {
		if e.proxy.GetSpiffeId() == spiffeID {
			n++
		}
	}
	return n
}

// compareProxies orders listings: by environment, then by ID.
func compareProxies(a, b *adminv1.Proxy) int {
	if c := strings.Compare(a.GetEnvironment(), b.GetEnvironment()); c != 0 {
		return c
	}
	return strings.Compare(a.GetId(), b.GetId())
}
