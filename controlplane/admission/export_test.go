package admission

import (
	"fmt"
	"slices"
	"strings"
)

// Limit makes less than usual too much.
func (s *State) Limit(documents, bytes, places int) {
	s.testOnlyLimits = load{documents, bytes, places}
}

// Dump says all that a state knows.
func (s *State) Dump() string {
	var lines []string
	for key, it := range s.items {
		lines = append(lines, fmt.Sprintf("%s %s %v", key, it.digest, it.scope))
	}
	lines = append(lines, dump("referrers", s.referrers)...)
	lines = append(lines, dump("claims", s.claims)...)
	lines = append(lines, dump("routes", s.routes)...)
	lines = append(lines, dump("policies", s.policies)...)
	lines = append(lines, dump("listeners", s.listeners)...)
	lines = append(lines, dump("enrollments", s.enrollments)...)
	lines = append(lines, dump("certificates", s.certificates)...)
	for name, d := range s.doors {
		lines = append(lines, fmt.Sprintf("door %q %v", name, d))
	}
	for name, l := range s.loads {
		lines = append(lines, fmt.Sprintf("load %q %v", name, l))
	}
	for is, n := range s.census {
		lines = append(lines, fmt.Sprintf("census %v %d", is, n))
	}
	for kind, n := range s.kinds {
		if n != 0 {
			lines = append(lines, fmt.Sprintf("kind %s %d", kind, n))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func dump[K comparable](name string, x index[K]) []string {
	var lines []string
	for key, s := range x {
		var members []string
		for it := range s.all() {
			members = append(members, it.Key.String()+" "+it.digest.String())
		}
		slices.Sort(members)
		lines = append(lines, fmt.Sprintf("%s %v: %d %v", name, key, s.len(), members))
	}
	return lines
}
