package policy

import "maps"

// shardCount is how many parts the routes of a Set are divided into. A change of a few
// routes among 100,000 copies the parts that these are in.
const shardCount = 256

type shards [shardCount]*shard

// shard is a part of a Set. It is immutable.
type shard struct {
	routes map[RouteID]*table
	held   []*Policy // those that Decide may read of routes, each once
}

// shard returns the part that a route is in, by what tells names of many routes apart.
func (r RouteID) shard() byte {
	h := uint32(2166136261) // FNV-1a, of the last few bytes
	for _, s := range [...]string{r.Namespace, r.Name} {
		for i := max(0, len(s)-4); i < len(s); i++ {
			h = (h ^ uint32(s[i])) * 16777619
		}
	}
	return byte((h ^ h>>8 ^ h>>16) & 0xff)
}

// table returns the policies of a route, nil if there are none.
func (s *shards) table(route RouteID) *table {
	if of := s[route.shard()]; of != nil {
		return of.routes[route]
	}
	return nil
}

// with returns the set in which routes have other tables.
func (s *Set) with(changed map[RouteID]*table) *Set {
	next := &Set{shards: &shards{}, held: make(map[*Policy]int)}
	if s != nil && s.shards != nil {
		*next.shards, next.held = *s.shards, maps.Clone(s.held)
	}
	var before shards
	copied := make(map[byte]*shard)
	for route, t := range changed {
		at := route.shard()
		if copied[at] == nil {
			before[at] = next.shards[at]
			copied[at] = before[at].copied()
			next.shards[at] = copied[at]
		}
		copied[at].routes[route] = t
	}
	for at, of := range copied {
		of.walk()
		next.hold(of, 1)
		next.hold(before[at], -1)
	}
	return next
}

// copied returns a copy to change and then to walk.
func (s *shard) copied() *shard {
	if s == nil {
		return &shard{routes: make(map[RouteID]*table)}
	}
	return &shard{routes: maps.Clone(s.routes)}
}

// walk finds what the shard holds, in what Decide reads.
func (s *shard) walk() {
	looked := make(map[*table]struct{}, len(s.routes))
	seen := make(map[*Policy]struct{}, len(s.routes))
	for _, t := range s.routes {
		if _, shared := looked[t]; shared {
			continue
		}
		looked[t] = struct{}{}
		for _, p := range t.reachable {
			if _, ok := seen[p]; !ok {
				seen[p] = struct{}{}
				s.held = append(s.held, p)
			}
		}
	}
}

// hold counts what a shard holds, n times. The set is under construction.
func (s *Set) hold(of *shard, n int) {
	if of == nil {
		return
	}
	for _, p := range of.held {
		if s.held[p] += n; s.held[p] == 0 {
			delete(s.held, p)
		}
	}
}
