package compile

import (
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// defaultTimeout is that of routes that name none.
const defaultTimeout = 30 * time.Second

// defaultSession is how long sessions are taken by routes that do not say it: a
// day's work.
const defaultSession = 10 * time.Hour

// Compile makes s ready to decide. It never fails: see Table.Rejects. What prev
// has of the same documents is used again, so that a change costs about what it
// touches; prev may be nil, and is not changed.
func Compile(prev *Table, s *snapshot.Snapshot) *Table {
	if t := patch(prev, s); t != nil {
		return t
	}
	return build(prev, s)
}

// build compiles all of s, with what prev has of the same documents.
func build(prev *Table, s *snapshot.Snapshot) *Table {
	t := &Table{
		snapshot:  s,
		documents: make(map[resource.Key]*document, s.Set().Len()),
		byName:    make(map[resource.Key]*document),
		written:   make(map[resource.Key]*document),
		rejected:  make(map[resource.Key]rejection),
		sums:      &atomic.Pointer[sums]{},
	}
	routes := t.read(prev)
	t.arrange()
	t.route(prev, routes)
	t.linkPolicies()
	t.resolvePolicies(maps.Values(t.written))
	t.attach()
	t.list()
	t.summarize()
	return t
}

// same reports whether documents that prev has read read the same in s.
func same(prev *Table, s *snapshot.Snapshot) bool {
	return prev != nil && prev.Head().Environment == s.Head().Environment
}

// read reads every document that prev has not read. It returns the routes in
// the order of the snapshot's set, which is that of their key digests.
func (t *Table) read(prev *Table) (routes []*document) {
	environment := t.snapshot.Head().Environment
	known := func(snapshot.Entry) *document { return nil }
	if same(prev, t.snapshot) {
		known = prev.document
	}
	all := make([]*document, 0, t.snapshot.Set().Len())
	for e := range t.snapshot.Set().All() {
		d := known(e)
		if d == nil {
			d = &document{entry: e}
		}
		all = append(all, d)
	}
	inParallel(len(all), func(i int) {
		if !all[i].isRead() {
			all[i] = read(environment, all[i].entry)
		}
	})
	for _, d := range all {
		key := d.entry.Key
		t.kind(key.Kind)[key] = d
		if key.Kind == resource.KindRoute {
			routes = append(routes, d)
		}
		if d.reject != "" {
			t.reject(d, d.reject)
		}
	}
	return routes
}

// document returns what t has read of e's bytes, nil when it has not.
func (t *Table) document(e snapshot.Entry) *document {
	d := t.kind(e.Key.Kind)[e.Key]
	if d == nil || d.entry.Digest != e.Digest {
		return nil
	}
	return d
}

// kind returns the documents among which those of a kind are.
func (t *Table) kind(kind resource.Kind) map[resource.Key]*document {
	switch {
	case isAttached(kind):
		return t.written
	case isTerm(kind):
		return t.byName
	}
	return t.documents
}

func (d *document) isRead() bool { return d.spec != nil || d.reject != "" }

// inParallel calls do with 0 to n-1, on every processor when it is worth it.
func inParallel(n int, do func(int)) {
	const share = 256
	var wg sync.WaitGroup
	workers := min(runtime.GOMAXPROCS(0), (n+share-1)/share)
	for w := range workers {
		wg.Go(func() {
			for i := n * w / workers; i < n*(w+1)/workers; i++ {
				do(i)
			}
		})
	}
	wg.Wait()
}

// rejection is a document that is not enforced.
type rejection struct {
	document *document
	reason   string
}

// text says in one line what was rejected and why.
func (r rejection) text() string { return r.document.entry.Key.String() + ": " + r.reason }

// before returns which of two is told where one can be, so that equal snapshots
// say the same. The zero rejection comes last.
func (r rejection) before(o rejection) rejection {
	if r.document == nil || o.document.entry.Key.Compare(r.document.entry.Key) < 0 {
		return o
	}
	return r
}

func (t *Table) reject(d *document, reason string) {
	t.rejected[d.entry.Key] = rejection{d, reason}
}

// arrange puts into their places the kinds that stand alone.
func (t *Table) arrange() {
	for _, d := range t.documents {
		if d.reject != "" {
			continue
		}
		switch spec := d.spec.(type) {
		case *resourcev1.Upstream:
			t.upstreams = append(t.upstreams, d.upstream)
		case *resourcev1.IdentityProvider:
			t.providers = append(t.providers, d.provider)
		case *resourcev1.ApiKey:
			t.apiKeys = append(t.apiKeys, d.apiKey)
		case *resourcev1.Schema:
			t.schemas = append(t.schemas, d.schema)
		case *resourcev1.TrustDomain:
			t.domains = append(t.domains, d.domain)
		case *resourcev1.Listener:
			t.listeners = append(t.listeners, &Listener{Key: d.entry.Key, Digest: d.entry.Digest, Spec: spec, document: d})
		case *resourcev1.Environment:
			t.environment = d
		}
	}
	t.name()
	slices.SortFunc(t.upstreams, func(a, b *Upstream) int { return a.Key.Compare(b.Key) })
	slices.SortFunc(t.providers, func(a, b *Provider) int { return a.Key.Compare(b.Key) })
	slices.SortFunc(t.apiKeys, func(a, b *APIKey) int { return a.Key.Compare(b.Key) })
	t.apiKeys = slices.DeleteFunc(t.apiKeys, t.taken())
	slices.SortFunc(t.domains, func(a, b *TrustDomain) int { return a.Key.Compare(b.Key) })
	t.domains = slices.DeleteFunc(t.domains, t.known())
	slices.SortFunc(t.listeners, func(a, b *Listener) int { return a.Key.Compare(b.Key) })
}

// name gathers the terms that are enforced.
func (t *Table) name() {
	t.named = nil
	for _, d := range t.byName {
		if d.reject == "" {
			t.named = append(t.named, d)
		}
	}
}

// taken reports of one ApiKey after the other whether one before has an ID of
// its, and rejects it then: whose key it is must not be in doubt.
func (t *Table) taken() func(*APIKey) bool {
	type secret struct{ namespace, id string }
	owners := make(map[secret]*APIKey)
	return func(k *APIKey) bool {
		for _, s := range k.Spec.GetSecrets() {
			if other := owners[secret{k.Key.Namespace, s.GetId()}]; other != nil {
				t.reject(k.document, "has the ID "+s.GetId()+", as "+other.Key.String())
				return true
			}
		}
		for _, s := range k.Spec.GetSecrets() {
			owners[secret{k.Key.Namespace, s.GetId()}] = k
		}
		return false
	}
}

// known reports of one TrustDomain after the other whether one before is of the
// same trust domain, and rejects it then: two bundles would be the union of two.
func (t *Table) known() func(*TrustDomain) bool {
	first := make(map[string]*TrustDomain)
	return func(d *TrustDomain) bool {
		name := d.Spec.GetTrustDomain()
		if other := first[name]; other != nil {
			t.reject(d.document, "is of "+name+", as "+other.Key.String())
			return true
		}
		first[name] = d
		return false
	}
}

// summarize lists the rejects.
func (t *Table) summarize() {
	for key, r := range t.rejected {
		t.rejects = append(t.rejects, Reject{Key: key, Reason: r.reason})
	}
	slices.SortFunc(t.rejects, func(a, b Reject) int { return a.Key.Compare(b.Key) })
}
