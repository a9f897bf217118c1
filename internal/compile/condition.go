package compile

import (
	"strings"

	"github.com/sallyport/sallyport/internal/request"
	"github.com/sallyport/sallyport/internal/resource"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// conditionsOf returns the conditions of a route. What this build does not
// understand, of a route that is rejected for it, is taken to hold.
func conditionsOf(r *resourcev1.Route) []request.Condition {
	type about struct {
		where request.Place
		name  string
	}
	seen := make(map[about]bool)
	var all []request.Condition
	add := func(where request.Place, matches []*resourcev1.FieldMatch) {
		for _, m := range matches {
			c := resource.ConditionOf(where, m)
			if len(m.ProtoReflect().GetUnknown()) > 0 || c.Check() != nil || seen[about{where, c.Name}] {
				c.Kind, c.Value = request.Anything, ""
			}
			seen[about{where, c.Name}] = true
			all = append(all, c)
		}
	}
	add(request.InHeader, r.GetHeaders())
	add(request.InQuery, r.GetQuery())
	return all
}

// inWords are conditions in one line, the same for those between which nothing
// could decide.
func inWords(conditions []request.Condition) string {
	words := make([]string, len(conditions))
	for i, c := range request.SortedConditions(conditions) {
		words[i] = c.String()
	}
	return strings.Join(words, ", ")
}
