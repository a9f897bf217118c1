package admission

import (
	"fmt"
	"iter"
	"maps"
	"runtime"
	"sync"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
	"github.com/sallyport/sallyport/storage"
)

// State is what the fleet holds at a revision, indexed so that the check of a
// change costs about what the change touches. The zero State is the fleet
// before its first revision. It is not safe for concurrent use.
type State struct {
	revision snapshot.Revision
	items    map[resource.Key]*item

	referrers   index[resource.Key]  // by what they refer to
	claims      index[compile.Claim] // routes, by host, path and conditions
	routes      index[selection]     // by the selections that they are in
	policies    index[selection]     // by their selector
	listeners   index[string]        // by port
	enrollments index[string]        // by trust domain
	secrets     index[string]        // API keys, by ID
	domains     index[string]        // by trust domain
	addresses   index[resource.Kind] // see item.addresses
	devices     index[string]        // by what they are known by

	certificates index[resource.Kind] // what client certificates are taken by
	doors        doors

	kinds  map[resource.Kind]int
	loads  loads
	census census

	testOnlyLimits load
}

// Revision returns the revision of the state.
func (s *State) Revision() snapshot.Revision { return s.revision }

// Versions are stored versions that were read, ready to advance a State.
type Versions struct {
	versions []storage.Version
	items    []*item // nil where deleted
	to       snapshot.Revision
}

// ReadVersions reads the versions that lead to a revision: the newest of each
// key that changed after some revision before it.
func ReadVersions(versions []storage.Version, to snapshot.Revision) (Versions, error) {
	v := Versions{versions: versions, items: make([]*item, len(versions)), to: to}
	errs := make([]error, len(versions))
	inParallel(len(versions), func(i int) {
		if !versions[i].Deleted {
			v.items[i], errs[i] = read(versions[i])
		}
	})
	for i, err := range errs {
		if err != nil {
			return Versions{}, fmt.Errorf("revision %d: %w", versions[i].Revision, err)
		}
	}
	return v, nil
}

// Advance brings the state to the revision of the versions, which begin at its
// own revision or before. A state that is there already stays as it is.
func (s *State) Advance(v Versions) {
	for i, version := range v.versions {
		if version.Revision > s.revision {
			s.put(version.Key, v.items[i])
		}
	}
	s.revision = max(s.revision, v.to)
}

// put replaces a resource, nil removing it.
func (s *State) put(key resource.Key, it *item) {
	if s.items == nil {
		s.begin()
	}
	if old := s.items[key]; old != nil {
		s.index(old, false)
		s.loads.remove(old)
		s.census.change(old, -1)
		s.kinds[key.Kind]--
		delete(s.items, key)
	}
	if it != nil {
		s.items[key] = it
		s.index(it, true)
		s.loads.enter(it)
		s.census.change(it, 1)
		s.kinds[key.Kind]++
	}
}

func (s *State) begin() {
	s.items = make(map[resource.Key]*item)
	s.referrers = make(index[resource.Key])
	s.claims = make(index[compile.Claim])
	s.routes, s.policies = make(index[selection]), make(index[selection])
	s.listeners, s.enrollments = make(index[string]), make(index[string])
	s.secrets, s.domains = make(index[string]), make(index[string])
	s.addresses = make(index[resource.Kind])
	s.devices = make(index[string])
	s.certificates, s.doors = make(index[resource.Kind]), make(doors)
	s.kinds, s.loads, s.census = make(map[resource.Kind]int), make(loads), make(census)
}

// index enters a resource into every index that has its kind, or removes it.
func (s *State) index(it *item, enter bool) {
	for _, to := range it.references() {
		s.referrers.set(to, it, enter)
	}
	for _, c := range it.claims() {
		s.claims.set(c, it, enter)
	}
	for in := range it.isIn() {
		s.routes.set(in, it, enter)
	}
	if selector, ok := it.selector(); ok {
		s.policies.set(selector, it, enter)
	}
	for _, id := range it.secrets() {
		s.secrets.set(id, it, enter)
	}
	if it.addresses {
		s.addresses.set(it.Key.Kind, it, enter)
	}
	for known := range it.knownBy() {
		s.devices.set(known, it, enter)
	}
	if wantsCertificates(it) {
		s.certificates.set(it.Key.Kind, it, enter)
	}
	switch it.Key.Kind {
	case resource.KindListener:
		s.listeners.set(it.listen.port, it, enter)
		s.doors.change(it, sign(enter))
	case resource.KindTrustDomain:
		s.domains.set(it.trustDomain(), it, enter)
	case resource.KindEnrollment:
		s.enrollments.set(it.proxy.TrustDomain(), it, enter)
	}
}

func sign(plus bool) int {
	if plus {
		return 1
	}
	return -1
}

// load is how much an environment holds: resources, their bytes, and the
// combinations of hosts and paths of its routes.
type load [3]int

// limits are what proxies take; of combinations they hold each.
func (s *State) limits() load {
	if s.testOnlyLimits != (load{}) {
		return s.testOnlyLimits
	}
	return load{snapshot.MaxDocuments, snapshot.MaxBytes, 1_000_000}
}

func (l load) plus(o load) load { return load{l[0] + o[0], l[1] + o[1], l[2] + o[2]} }

func (l load) minus(o load) load { return load{l[0] - o[0], l[1] - o[1], l[2] - o[2]} }

// load is what the resource adds to each environment that it is in.
func (it *item) load() load {
	l := load{1, it.size, 0}
	if spec, ok := it.Spec.(*resourcev1.Route); ok {
		l[2] = len(spec.GetHosts()) * max(1, len(spec.GetPaths()))
	}
	return l
}

// loads are what environments hold, by name; "" is what every one holds.
type loads map[string]load

func (l loads) enter(it *item)  { l.change(it, load.plus) }
func (l loads) remove(it *item) { l.change(it, load.minus) }

func (l loads) change(it *item, by func(load, load) load) {
	names := it.scope.Environments
	if it.scope.All {
		names = []string{""}
	}
	for _, name := range names {
		if l[name] = by(l[name], it.load()); l[name] == (load{}) {
			delete(l, name)
		}
	}
}

// index finds resources by something that they have in common.
type index[K comparable] map[K]set

// set is a set of resources. Most have one member, and no map.
type set struct {
	one  *item
	more map[*item]struct{} // instead of one
}

func (x index[K]) set(key K, it *item, enter bool) {
	s, has := x[key]
	switch {
	case enter && !has:
		x[key] = set{one: it}
	case enter:
		if s.more == nil {
			x[key] = set{more: map[*item]struct{}{s.one: {}, it: {}}}
			return
		}
		s.more[it] = struct{}{}
	case len(s.more) > 1:
		delete(s.more, it)
	default:
		delete(x, key)
	}
}

func (s set) len() int {
	if s.one != nil {
		return 1
	}
	return len(s.more)
}

// all yields the members, in no order.
func (s set) all() iter.Seq[*item] {
	if s.more != nil {
		return maps.Keys(s.more)
	}
	return func(yield func(*item) bool) {
		if s.one != nil {
			yield(s.one)
		}
	}
}

// inParallel calls do with 0 to n-1, on every processor when it is worth it.
func inParallel(n int, do func(int)) {
	const share = 64
	var wg sync.WaitGroup
	workers := min(runtime.GOMAXPROCS(0), (n+share-1)/share)
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				do(i)
			}
		})
	}
	wg.Wait()
}
