package compile

import (
	"iter"
	"slices"
	"sort"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
)

// sums are the digests over what a table enforces, with what they were made of. They
// are immutable.
type sums struct {
	*snapshot.Sums
	matcher *matcher
	routes  []*Route
	live    *live
}

// live is what is enforced of the routes, by their bucket, and of what limits these.
type live struct {
	routes snapshot.Spread
	limits [snapshot.BucketCount][]*RateLimit // each once in a bucket
}

// EnforcedRoot returns the root over what is enforced: the snapshot's root when
// nothing was rejected, else that of its set without the rejects. It is read
// off the structures that requests meet and not off the snapshot, so that what
// got lost on the way there is missing in it.
func (t *Table) EnforcedRoot() snapshot.Digest {
	if t == nil || t.sums == nil {
		return snapshot.RootOf(nil)
	}
	before := t.sums.Load()
	if before == nil {
		before = &sums{}
	}
	next := &sums{matcher: t.matcher, routes: t.routes, live: t.live(before)}
	others := &snapshot.Spread{}
	for e := range t.besides(next.live) {
		others.Add(e)
	}
	next.Sums = snapshot.Sum(before.Sums, &next.live.routes, others)
	t.sums.Store(next)
	return next.Root()
}

// Live yields the digests of all that is enforced, as EnforcedRoot finds them.
func (t *Table) Live() iter.Seq2[resource.Key, snapshot.Digest] {
	return func(yield func(resource.Key, snapshot.Digest) bool) {
		if t == nil {
			return
		}
		live := t.live(&sums{})
		for _, in := range &live.routes {
			for _, e := range in {
				if !yield(e.Key, e.Digest) {
					return
				}
			}
		}
		for e := range t.besides(live) {
			if !yield(e.Key, e.Digest) {
				return
			}
		}
	}
}

// live finds what is enforced of the routes. Where the very routes are in their places
// that before was made of, it is the same.
func (t *Table) live(before *sums) *live {
	found := &live{}
	if t.matcher == nil {
		return found
	}
	for i, at := range t.matcher.buckets() {
		if before.matcher == t.matcher && slices.Equal(before.routes[at.from:at.to], t.routes[at.from:at.to]) {
			found.routes[i], found.limits[i] = before.live.routes[i], before.live.limits[i]
			continue
		}
		found.routes[i], found.limits[i] = t.liveAt(at)
	}
	return found
}

// liveAt does so for the slots of a bucket.
func (t *Table) liveAt(at span) (routes []*snapshot.Entry, limits []*RateLimit) {
	reached := t.matcher.reached()
	n := sort.Search(len(reached), func(n int) bool { return int(reached[n].slot) >= at.from })
	for ; n < len(reached) && int(reached[n].slot) < at.to; n++ {
		if r := t.routes[reached[n].slot]; !r.rejected && r.Digest == reached[n].digest {
			routes = append(routes, &r.document.entry)
		}
	}
	for l := range limiting(t.routes[at.from:at.to]) {
		limits = append(limits, l)
	}
	return routes, limits
}

// besides yields what is enforced and is no route.
func (t *Table) besides(routes *live) iter.Seq[*snapshot.Entry] {
	return func(yield func(*snapshot.Entry) bool) {
		for e := range t.controls() {
			if !yield(e) {
				return
			}
		}
		for d := range t.alone(routes) {
			if !yield(&d.entry) {
				return
			}
		}
	}
}

// controls yields policies.
func (t *Table) controls() iter.Seq[*snapshot.Entry] {
	return func(yield func(*snapshot.Entry) bool) {
		for p := range t.policies.Policies() {
			if e, known := p.Source().(*snapshot.Entry); known && !yield(e) {
				return
			}
		}
	}
}

// alone yields the documents of everything else.
func (t *Table) alone(routes *live) iter.Seq[*document] {
	var all []*document
	for l := range t.withUnbound(limitsOf(routes)) {
		all = append(all, l.document)
	}
	for _, u := range t.upstreams {
		all = append(all, u.document)
	}
	for _, p := range t.providers {
		all = append(all, p.document)
	}
	for _, k := range t.apiKeys {
		all = append(all, k.document)
	}
	for _, d := range t.domains {
		all = append(all, d.document)
	}
	for _, s := range t.schemas {
		all = append(all, s.document)
	}
	for _, l := range t.listeners {
		all = append(all, l.document)
	}
	all = append(all, t.named...)
	if t.environment != nil {
		all = append(all, t.environment)
	}
	return slices.Values(all)
}

func limitsOf(routes *live) map[*RateLimit]bool {
	found := make(map[*RateLimit]bool)
	for _, in := range &routes.limits {
		for _, l := range in {
			found[l] = true
		}
	}
	return found
}
