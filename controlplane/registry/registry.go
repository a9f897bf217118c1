// Package registry knows the fleet: which proxies are admitted where, and what
// each of them says that it enforces.
package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
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
	// KeepAcks has what proxies have acknowledged last be kept for Acks.
	KeepAcks bool
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
	sealing   map[storage.ProxyID][]byte // what they gave to seal secrets to
	instances map[string]int             // entries of local, by SPIFFE ID
}

// entry is a proxy of which this replica knows the newest status. Changing it
// is replacing it, but for saved.
type entry struct {
	proxy   *adminv1.Proxy
	session *Session // nil when it has no stream here
	saved   bool     // needs the mutex
	acks    *acks    // of its last stream here; nil before that, and unless they are kept
}

// enrollment is a compiled Enrollment.
type enrollment struct {
	pattern     pattern.SPIFFE
	environment string
	labels      map[string]string
	manual      bool // operators approve each SPIFFE ID
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
		dirty:      make(chan struct{}, 1),
		reading:    make(chan struct{}, 1),
		admissions: make(chan struct{}),
		statuses:   make(chan struct{}),
		local:      map[storage.ProxyID]*entry{},
		sealing:    map[storage.ProxyID][]byte{},
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

func (r *Registry) refresh(ctx context.Context) {
	if r.read == nil {
		if err := r.forgetStreams(ctx); err != nil {
			r.unread(ctx, err)
			return
		}
	}
	versions, err := r.list(ctx)
	if err != nil {
		r.unread(ctx, err)
		return
	}
	read := make(map[resource.Key]snapshot.Digest, len(versions))
	for _, v := range versions {
		read[v.Key] = v.Digest
	}
	if r.read != nil && maps.Equal(r.read, read) {
		return
	}
	r.read = read
	var enrollments []enrollment
	for _, v := range versions {
		e, err := parse(v)
		if err != nil {
			r.log.ErrorContext(ctx, "enrollment was left out", "resource", v.Key.String(), "err", err)
			continue
		}
		enrollments = append(enrollments, e)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.enrollments, r.ready = enrollments, true
	close(r.admissions)
	r.admissions = make(chan struct{})
}

func (r *Registry) unread(ctx context.Context, err error) {
	if ctx.Err() == nil {
		r.log.WarnContext(ctx, "enrollments could not be read", "err", err)
	}
}

// list reads all enrollments, ordered by key.
func (r *Registry) list(ctx context.Context) (all []storage.Version, err error) {
	f := storage.Filter{Kind: resource.KindEnrollment, Limit: page}
	for {
		var versions []storage.Version
		if versions, f.At, err = r.store.List(ctx, f); err != nil {
			return nil, err
		}
		all = append(all, versions...)
		if len(versions) < page {
			return all, nil
		}
		f.After = versions[len(versions)-1].Key
	}
}

// parse understands an enrollment whole, or not at all: what a later build
// added to it may have been meant to keep proxies out.
func parse(v storage.Version) (enrollment, error) {
	parsed, err := resource.ParseDocument(v.Document)
	if err != nil {
		return enrollment{}, err
	}
	spec, ok := parsed.Spec.(*resourcev1.Enrollment)
	if !ok || parsed.Key != v.Key {
		return enrollment{}, fmt.Errorf("the document is of %s", parsed.Key)
	}
	p, err := pattern.ParseSPIFFE(spec.GetSpiffeId())
	if err != nil {
		return enrollment{}, err
	}
	return enrollment{
		pattern: p, environment: spec.GetEnvironment(), labels: spec.GetLabels(),
		manual: spec.GetApproval() == resourcev1.Approval_APPROVAL_MANUAL,
	}, nil
}

// Admission is where an Enrollment puts a proxy.
type Admission struct {
	Environment string
	Labels      map[string]string
	// Changed is closed when enrollments change: ask again.
	Changed <-chan struct{}
}

// Admit returns where a SPIFFE ID belongs. ErrNotAdmitted, with Changed set, if
// no Enrollment matches, if those that do name several environments, or if operators
// keep it out: ErrBarred as well when they have said so.
func (r *Registry) Admit(spiffeID string) (Admission, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.admit(spiffeID)
}

// admit needs the mutex.
func (r *Registry) admit(spiffeID string) (Admission, error) {
	a, manual := Admission{Changed: r.admissions, Labels: map[string]string{}}, false
	for _, e := range r.enrollments {
		if !e.pattern.Match(spiffeID) {
			continue
		}
		if a.Environment != "" && a.Environment != e.environment {
			return Admission{Changed: r.admissions}, fmt.Errorf("%w: enrollments name %s and %s", ErrNotAdmitted, a.Environment, e.environment)
		}
		a.Environment, manual = e.environment, manual || e.manual
		maps.Copy(a.Labels, e.labels)
	}
	if err := r.standing(spiffeID, manual); err != nil {
		return Admission{Changed: r.admissions}, err
	}
	if a.Environment == "" {
		return Admission{Changed: r.admissions}, fmt.Errorf("%w: no enrollment matches it", ErrNotAdmitted)
	}
	return a, nil
}

// forgetStreams marks as lost what this replica's former process held.
func (r *Registry) forgetStreams(ctx context.Context) error {
	var after storage.Proxy
	for {
		records, err := r.store.Proxies(ctx, "", after, page)
		if err != nil {
			return err
		}
		var lost []storage.Proxy
		for _, p := range records {
			if p.Replica == r.replica {
				p.Replica = ""
				lost = append(lost, p)
			}
		}
		if err := r.store.SaveProxies(ctx, lost); err != nil {
			return err
		}
		if len(records) < page {
			return nil
		}
		after = records[len(records)-1]
	}
}

// save writes the records that changed, and reports whether that worked. What
// cannot be written now is written later: memory has the newest of each.
func (r *Registry) save(ctx context.Context, within time.Duration) bool {
	records := r.unsaved(ctx)
	if len(records) == 0 {
		r.evict()
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if err := r.store.SaveProxies(ctx, records); err != nil {
		r.log.WarnContext(ctx, "fleet was not saved", "proxies", len(records), "err", err)
		r.unsave(records)
		if n := r.shed(); n > 0 {
			r.log.WarnContext(ctx, "proxies that are gone were forgotten before they were saved", "proxies", n)
		}
		return false
	}
	r.evict()
	return true
}

// unsave has records be saved again.
func (r *Registry) unsave(records []storage.Proxy) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range records {
		r.local[p.ID].saved = false // nobody but the caller of save evicts
	}
}

// unsaved returns the records that are to be written. They are made without the
// mutex, which acknowledgements wait for: entries do not change.
func (r *Registry) unsaved(ctx context.Context) (records []storage.Proxy) {
	for id, e := range r.unsavedEntries() {
		record, err := r.record(id, e)
		if err != nil {
			r.log.ErrorContext(ctx, "record of proxy was not made", "proxy", id, "err", err)
			continue
		}
		records = append(records, record)
	}
	return records
}

// unsavedEntries returns them as if they were saved.
func (r *Registry) unsavedEntries() map[storage.ProxyID]*entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	unsaved := map[storage.ProxyID]*entry{}
	for id, e := range r.local {
		if !e.saved {
			e.saved, unsaved[id] = true, e
		}
	}
	return unsaved
}

// evict drops from memory what the database has and nobody has heard of for a
// while.
func (r *Registry) evict() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, e := range r.local {
		if e.session != nil || !e.saved || r.now().Sub(e.proxy.GetLastSeenAt().AsTime()) <= LostAfter {
			continue
		}
		r.drop(id)
	}
}

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
	SealingKey      []byte // to which secrets are sealed for it; empty for none
	Cloud, Region   string // where it says that it runs
	StartedAt       time.Time
	AckKey          []byte // with which it signs what it acknowledges; empty for none
}

// claim is where the process says that it is; nil if nowhere.
func (r Registration) claim() *adminv1.Place {
	cloud, region := clip(r.Cloud, maxLabel), clip(r.Region, maxLabel)
	if cloud == "" && region == "" {
		return nil
	}
	return &adminv1.Place{Cloud: cloud, Region: region, Claimed: true}
}

// startedAt is when the process says that it began; nil if it does not.
func (r Registration) startedAt() *timestamppb.Timestamp {
	if r.StartedAt.IsZero() {
		return nil
	}
	return timestamppb.New(r.StartedAt)
}

// same reports whether it is the process that is known.
func (r Registration) same(p *adminv1.Proxy) bool {
	return bytes.Equal(r.AckKey, p.GetAckKey()) && proto.Equal(r.startedAt(), p.GetStartedAt())
}

// Register records a proxy process. It returns where it is admitted, or
// ErrNotAdmitted: then it stays pending, unless it is ErrBarred: then nothing that it
// says is recorded. ErrTooMany, ErrInstance.
func (r *Registry) Register(reg Registration) (Admission, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	admission, refused := r.admit(reg.SPIFFEID)
	if errors.Is(refused, ErrBarred) {
		return admission, refused
	}
	id, old, err := r.known(reg)
	if err != nil {
		return Admission{}, err
	}
	p := proto.CloneOf(old.proxy)
	p.Build, p.ProtocolVersion, p.LastSeenAt = clip(reg.Build, maxBuild), reg.ProtocolVersion, timestamppb.New(r.now())
	p.Lacks = snapshot.Protocol(reg.ProtocolVersion).Lacks()
	p.Environment, p.Labels = admission.Environment, admission.Labels
	said := old.acks
	if !reg.same(p) {
		p.Proofs, p.SecurityProof, said = nil, nil, nil // they are of another process
	}
	p.Place, p.StartedAt, p.AckKey = reg.claim(), reg.startedAt(), reg.AckKey
	switch pending := p.GetConnection() == adminv1.Connection_CONNECTION_PENDING; {
	case old.session != nil: // its stream says what it is
	case refused != nil && !pending:
		p.Connection = adminv1.Connection_CONNECTION_PENDING
		r.log.Info("proxy is pending", "proxy", string(id), "err", refused)
	case refused == nil && pending:
		p.Connection = adminv1.Connection_CONNECTION_UNSPECIFIED
	}
	r.sealing[id] = reg.SealingKey
	r.put(id, &entry{proxy: p, session: old.session, acks: said})
	return admission, refused
}

// known returns the entry of a process, or a new one. It needs the mutex.
func (r *Registry) known(reg Registration) (storage.ProxyID, *entry, error) {
	id := ProxyID(reg.SPIFFEID, reg.Instance)
	if e := r.local[id]; e != nil {
		return id, e, nil
	}
	switch {
	case !isInstance(reg.Instance):
		return "", nil, ErrInstance
	case r.instances[reg.SPIFFEID] >= maxInstances:
		return "", nil, ErrTooMany
	}
	return id, &entry{proxy: &adminv1.Proxy{
		Id: string(id), SpiffeId: reg.SPIFFEID, Instance: reg.Instance, RegisteredAt: timestamppb.New(r.now()),
	}}, nil
}

// isInstance is the rule of proxy.proto: it keeps what a process calls itself
// from passing for something else in logs, listings and keys.
func isInstance(s string) bool {
	alphanumeric := func(c byte) bool { return '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' }
	for i := range len(s) {
		if !alphanumeric(s[i]) && !strings.ContainsRune("._-", rune(s[i])) {
			return false
		}
	}
	return s != "" && len(s) <= 253 && alphanumeric(s[0]) && alphanumeric(s[len(s)-1])
}

// compareProxies orders listings: by environment, then by ID.
func compareProxies(a, b *adminv1.Proxy) int {
	if c := strings.Compare(a.GetEnvironment(), b.GetEnvironment()); c != 0 {
		return c
	}
	return strings.Compare(a.GetId(), b.GetId())
}
