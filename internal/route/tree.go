package route

import (
	"strings"

	"github.com/sallyport/sallyport/internal/pattern"
	"github.com/sallyport/sallyport/internal/request"
)

const anyHost = "*"

// Identities within a tree. Zero is none.
type (
	entryID   uint32
	nodeID    uint32
	claimsID  uint32
	choicesID uint32
)

// tree holds one tree of segments for every host pattern, flat: a node is an
// index, its first literal child is in the node, and all other ones are in one
// map. Most nodes have one child at most, so a lookup mostly walks neighbours.
type tree struct {
	hosts     map[string]nodeID // by host
	wildcards map[string]nodeID // by what follows "*."
	any       nodeID

	nodes   []node // nodes[0] is none
	edges   map[edge]nodeID
	claims  []claims  // claims[0] is none
	choices []choices // choices[0] is none
}

// edge is a literal segment below a node. A child is always younger than its
// parent, and so has the higher index.
type edge struct {
	parent  nodeID
	segment string
}

// node stands for the segments that lead to it.
type node struct {
	segment   string   // of the first literal child
	first     nodeID   // the first literal child
	one       nodeID   // the child below one segment of any text
	end, rest claimsID // of templates that end here, and end here with "**"
	edges     bool     // whether there are further literal children
}

// claims on one path template of one host pattern.
type claims struct {
	plain   [slotCount]entryID // without conditions, by method
	choices choicesID          // with conditions
}

func newTree(entries int) tree {
	return tree{
		hosts:     map[string]nodeID{},
		wildcards: map[string]nodeID{},
		nodes:     make([]node, 1, entries+1),
		edges:     map[edge]nodeID{},
		claims:    make([]claims, 1, entries+1),
		choices:   make([]choices, 1),
	}
}

func (t *tree) newNode() nodeID {
	t.nodes = append(t.nodes, node{})
	return nodeID(len(t.nodes) - 1) //nolint:gosec // claims are bounded, and so is what they grow
}

// root returns the tree of a host pattern, planted if need be.
func (t *tree) root(host string) nodeID {
	if host == anyHost {
		if t.any == 0 {
			t.any = t.newNode()
		}
		return t.any
	}
	roots := t.hosts
	name, wildcard := strings.CutPrefix(host, "*.")
	if wildcard {
		roots = t.wildcards
	}
	if roots[name] == 0 {
		roots[name] = t.newNode()
	}
	return roots[name]
}

// claim enters id for a path. It returns the entry that holds one of the slots
// already, and leaves that to it; a zero one when there is none.
func (t *tree) claim(at claimsID, slots []slot, id entryID) (taken slot, by entryID) {
	c := &t.claims[at].plain
	for _, s := range slots {
		if c[s] != 0 {
			taken, by = s, c[s]
			continue
		}
		c[s] = id
	}
	return taken, by
}

// grow returns the claims on a path, after adding what leads to them.
func (t *tree) grow(n nodeID, path pattern.Path) claimsID {
	for s := range path.Segments() {
		switch s.Kind {
		case pattern.Literal:
			n = t.growLiteral(n, s.Text)
		case pattern.One:
			if t.nodes[n].one == 0 {
				child := t.newNode()
				t.nodes[n].one = child
			}
			n = t.nodes[n].one
		case pattern.Rest:
			return t.growClaims(&t.nodes[n].rest)
		}
	}
	return t.growClaims(&t.nodes[n].end)
}

func (t *tree) growLiteral(n nodeID, segment string) nodeID {
	if child := t.literal(n, segment); child != 0 {
		return child
	}
	child := t.newNode()
	if here := &t.nodes[n]; here.first == 0 {
		here.segment, here.first = segment, child
	} else {
		here.edges = true
		t.edges[edge{n, segment}] = child
	}
	return child
}

// literal returns the child below a literal segment, or none. Without any child,
// the empty first segment leads to none as well.
func (t *tree) literal(n nodeID, segment string) nodeID {
	here := &t.nodes[n]
	switch {
	case here.segment == segment:
		return here.first
	case here.edges:
		return t.edges[edge{n, segment}]
	}
	return 0
}

func (t *tree) growClaims(id *claimsID) claimsID {
	if *id == 0 {
		t.claims = append(t.claims, claims{})
		*id = claimsID(len(t.claims) - 1) //nolint:gosec // as in newNode
	}
	return *id
}

// match searches the trees that fit the host, the most specific first.
func (s *search) match() entryID {
	host, rest := s.request.Host, s.request.Path[1:]
	if root := s.tree.hosts[host]; root != 0 {
		if id := s.below(root, rest, true); id != 0 {
			return id
		}
	}
	if label, name, _ := strings.Cut(host, "."); label != "" {
		if root := s.tree.wildcards[name]; root != 0 {
			if id := s.below(root, rest, true); id != 0 {
				return id
			}
		}
	}
	if s.tree.any != 0 {
		return s.below(s.tree.any, rest, true)
	}
	return 0
}

// search is one lookup.
type search struct {
	tree    *tree
	request *request.Canonical
	method  slot

	allow   methods // of the claims that fit but for the method
	unclear *field  // that a condition looks at and that has no one value

	// all, when not nil, is where every claim that fits is noted, and the search
	// goes on.
	all *[]entryID
}

// take ends the search with a claim, unless it is one for all.
func (s *search) take(id entryID) entryID {
	if s.all == nil {
		return id
	}
	*s.all = append(*s.all, id)
	return 0
}

// below looks for the first claim below a node. It goes back when a more
// specific branch leads nowhere, so it visits a node at most once for each
// template that shares its beginning with the path.
func (s *search) below(n nodeID, rest string, more bool) entryID {
	here := &s.tree.nodes[n]
	if !more {
		if id := s.among(here.end); id != 0 {
			return id
		}
		return s.among(here.rest)
	}
	segment, tail, more := strings.Cut(rest, "/")
	if child := s.tree.literal(n, segment); child != 0 {
		if id := s.below(child, tail, more); id != 0 {
			return id
		}
	}
	if here.one != 0 && segment != "" {
		if id := s.below(here.one, tail, more); id != 0 {
			return id
		}
	}
	return s.among(here.rest)
}

// among picks the claim on the method, or remembers which there were.
func (s *search) among(id claimsID) entryID {
	if id == 0 {
		return 0
	}
	c := &s.tree.claims[id]
	for _, slot := range [...]slot{s.method, everyMethod} {
		if c.choices != 0 {
			if id := s.choose(s.tree.choices[c.choices][slot]); id != 0 {
				return id
			}
		}
		if c.plain[slot] != 0 {
			if id := s.take(c.plain[slot]); id != 0 {
				return id
			}
		}
	}
	s.note(c)
	return 0
}

// note remembers the methods of claims that fit otherwise.
func (s *search) note(c *claims) {
	for slot, claimed := range c.plain {
		if claimed != 0 {
			s.allow |= 1 << slot
		}
	}
	if c.choices == 0 {
		return
	}
	other := search{tree: s.tree, request: s.request}
	for slot, groups := range s.tree.choices[c.choices] {
		if len(groups) > 0 && other.choose(groups) != 0 {
			s.allow |= 1 << slot
		}
	}
}

// reach counts, for each of so many entries, the claims that a search can get
// to. Children have higher indexes than their parents, so one pass in order
// tells which nodes hang on a root.
func (t *tree) reach(entries int) []int {
	parents := make([]nodeID, len(t.nodes))
	for e, child := range t.edges {
		if t.nodes[e.parent].edges {
			parents[child] = e.parent
		}
	}
	for i, n := range t.nodes {
		for _, child := range [...]nodeID{n.first, n.one} {
			if child != 0 {
				parents[child] = nodeID(i)
			}
		}
	}
	reached, counts := t.roots(), make([]int, entries)
	for i := range t.nodes {
		reached[i] = reached[i] || parents[i] != 0 && reached[parents[i]]
		if !reached[i] {
			continue
		}
		for _, id := range [...]claimsID{t.nodes[i].end, t.nodes[i].rest} {
			t.count(&t.claims[id], counts)
		}
	}
	return counts
}

// count counts claims by entry.
func (t *tree) count(c *claims, counts []int) {
	for _, id := range c.plain {
		if id != 0 {
			counts[id-1]++
		}
	}
	for _, groups := range t.choices[c.choices] {
		for _, g := range groups {
			for _, list := range g.claims {
				for _, c := range list {
					counts[c.id-1]++
				}
			}
		}
	}
}

// roots marks the nodes at which a search starts.
func (t *tree) roots() []bool {
	marks := make([]bool, len(t.nodes))
	for _, n := range t.hosts {
		marks[n] = true
	}
	for _, n := range t.wildcards {
		marks[n] = true
	}
	if t.any != 0 {
		marks[t.any] = true
	}
	return marks
}
