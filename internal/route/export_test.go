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

// LoseChoice forgets a claim with conditions, of one that has one claim.
func (t *Table[V]) LoseChoice() {
	for i := range t.tree.choices {
		for _, groups := range t.tree.choices[i] {
			for _, g := range groups {
				for key, list := range g.claims {
					if e := &t.entries[list[0].id-1]; e.claims() == 1 {
						delete(g.claims, key)
						return
					}
				}
			}
		}
	}
}
