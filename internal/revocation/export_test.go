package revocation

// The methods below return a copy of s as a faulty build might have made it.

// Lose drops the revocation of a name on the way into the indexes.
func (s *Set) Lose(name string) *Set {
	lost := *s
	b := &builder{set: &lost, shards: make(map[*shard]bool)}
	for _, bucket := range s.buckets {
		if bucket == nil {
			continue
		}
		for _, r := range bucket.documents {
			if r.entry.Key.Name == name {
				b.edit(r, without)
			}
		}
	}
	b.finish()
	return &lost
}

// LosePlace drops the document of a name on the way into one of its places.
func (s *Set) LosePlace(name string, n int) *Set {
	lost := *s
	b := &builder{set: &lost, shards: make(map[*shard]bool)}
	for _, bucket := range s.buckets {
		if bucket == nil {
			continue
		}
		for _, r := range bucket.documents {
			if r.entry.Key.Name == name {
				lists := b.lists(r.places[n])
				lists[r.places[n].subject] = without(lists[r.places[n].subject], r)
			}
		}
	}
	b.finish()
	return &lost
}

// KeepIndexes leaves the revocations of an older set in force.
func (s *Set) KeepIndexes(older *Set) *Set {
	kept := *s
	kept.indexes = older.indexes
	return &kept
}
