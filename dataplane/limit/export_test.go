package limit

// Size returns how many bytes the entries of t take.
func (t *Table) Size() (size int) {
	for i := range t.shards {
		size += len(t.shards[i].buckets) * bucketSize
	}
	return size
}

// Left returns how many bytes there are.
func (r *Room) Left() int64 { return r.left.Load() }

// Add makes r so many bytes larger.
func (r *Room) Add(bytes int64) { r.left.Add(bytes) }
