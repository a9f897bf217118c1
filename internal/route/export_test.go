package route

// Lose cuts every edge of a literal segment, as a faulty build might.
func (t *Table[V]) Lose(segment string) {
	for e := range t.tree.edges {
		if e.segment == segment {
			delete(t.tree.edges, e)
		}
	}
	for i := range t.tree.nodes {
		if n := &t.tree.nodes[i]; n.segment == segment {
			n.first = 0
		}
	}
}
