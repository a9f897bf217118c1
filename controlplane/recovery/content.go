package recovery

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

// Environment is one that was seen later than the database has it.
type Environment struct {
	Name string
	// Head is what is published; the zero Head when nothing is.
	Head snapshot.Head
	// Err is why what is published cannot be brought back; nil when it can.
	Err error
	// Differences are ordered by key; none when Err is not nil.
	Differences []Difference

	published *snapshot.Set
	upserts   []snapshot.Entry
	removed   []resource.Key
}

// Difference is a resource that is published in another way than the database
// has it: by one of both alone, or by both and not the same.
type Difference struct {
	Key             resource.Key
	Published, Held bool
}

// hold sorts what the database holds by environment.
func hold(fleet, security []storage.Version) (map[string]*snapshot.Set, error) {
	byName := map[string][]storage.Version{snapshot.SecurityLane: security}
	for _, v := range fleet {
		if v.Key.Kind == resource.KindEnvironment {
			byName[v.Key.Name] = nil
		}
	}
	for name := range byName {
		for _, v := range fleet {
			if name != snapshot.SecurityLane && v.Scope.Includes(name) {
				byName[name] = append(byName[name], v)
			}
		}
	}
	all := map[string]*snapshot.Set{}
	for name, versions := range byName {
		set, err := setOf(versions)
		if err != nil {
			return nil, err
		}
		all[name] = set
	}
	return all, nil
}

func setOf(versions []storage.Version) (*snapshot.Set, error) {
	entries := make([]snapshot.Entry, 0, len(versions))
	for _, v := range versions {
		e, err := snapshot.NewEntry(v.Document)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", v.Key, err)
		}
		entries = append(entries, e)
	}
	return snapshot.NewSet(entries...), nil
}

// compare finds what differs from what the database holds.
func (e *Environment) compare(held *snapshot.Set) {
	e.upserts, e.removed = held.Changes(e.published)
	for _, u := range e.upserts {
		_, there := held.Lookup(u.Key)
		e.Differences = append(e.Differences, Difference{Key: u.Key, Published: true, Held: there})
	}
	for _, k := range e.removed {
		e.Differences = append(e.Differences, Difference{Key: k, Held: true})
	}
	slices.SortFunc(e.Differences, func(a, b Difference) int { return a.Key.Compare(b.Key) })
}

// change makes a published document what the database holds.
func change(e snapshot.Entry) (storage.Change, error) {
	p, err := resource.ParseDocument(e.Document)
	if err != nil {
		return storage.Change{}, fmt.Errorf("read what is published of %s: %w", e.Key, err)
	}
	all, environments := p.Scope()
	return storage.Change{
		Key: e.Key, Scope: storage.Scope{All: all, Environments: environments}, Document: e.Document, Digest: e.Digest,
	}, nil
}

// security returns what brings the security lane to what is published. What was
// revoked stays so, even if that was taken back in what was lost: nobody can
// tell that from what was revoked since. Facts of devices are those that are
// published, since they may be what lets somebody in.
func (l *Loss) security(forget bool) ([]storage.Change, error) {
	i := slices.IndexFunc(l.Environments, func(e Environment) bool { return e.Name == snapshot.SecurityLane })
	if i < 0 {
		return nil, nil
	}
	lane := l.Environments[i]
	if lane.Err != nil && !forget {
		return nil, fmt.Errorf("%w: %w", ErrRevocations, lane.Err)
	}
	var changes []storage.Change
	for _, e := range lane.upserts {
		c, err := change(e)
		if err != nil {
			return nil, err
		}
		changes = append(changes, c)
	}
	for _, k := range lane.removed {
		if k.Kind != resource.KindRevocation {
			changes = append(changes, storage.Change{Key: k, Delete: true})
		}
	}
	return changes, nil
}

// bringBack returns what makes the fleet what is published. Where environments
// have different versions of a resource, the latest counts.
func (l *Loss) bringBack() ([]storage.Change, error) {
	var later []Environment
	for _, e := range l.Environments {
		switch {
		case e.Name == snapshot.SecurityLane:
		case e.Err != nil:
			return nil, fmt.Errorf("environment %s: %w", e.Name, e.Err)
		default:
			later = append(later, e)
		}
	}
	slices.SortStableFunc(later, func(a, b Environment) int { return cmp.Compare(a.Head.Revision, b.Head.Revision) })
	back := map[resource.Key]storage.Change{}
	for _, e := range later {
		for _, u := range e.upserts {
			c, err := change(u)
			if err != nil {
				return nil, err
			}
			back[u.Key] = c
		}
	}
	for _, v := range l.state {
		if _, there := back[v.Key]; !there && l.gone(v, later) {
			back[v.Key] = storage.Change{Key: v.Key, Delete: true}
		}
	}
	return slices.SortedFunc(maps.Values(back), func(a, b storage.Change) int { return a.Key.Compare(b.Key) }), nil
}

// gone reports whether a resource was deleted in what was lost: it has gone from
// every environment that it is in. Environments stay.
func (l *Loss) gone(v storage.Version, later []Environment) bool {
	if v.Key.Kind == resource.KindEnvironment {
		return false
	}
	in, from := 0, 0
	for name := range l.held {
		if name != snapshot.SecurityLane && v.Scope.Includes(name) {
			in++
		}
	}
	for _, e := range later {
		if _, there := e.published.Lookup(v.Key); !there && v.Scope.Includes(e.Name) {
			from++
		}
	}
	return in > 0 && from >= in
}
