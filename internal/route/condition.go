package route

import (
	"fmt"

	"github.com/sallyport/sallyport/internal/request"
)

// MaxConditions bounds the conditions of one entry.
const MaxConditions = 8

// twice returns the first name that two of the sorted conditions are about, if they
// are understood.
func twice(sorted []request.Condition) string {
	for i := 1; i < len(sorted); i++ {
		a, b := &sorted[i-1], &sorted[i]
		if a.Place == b.Place && a.Name == b.Name && a.Kind != request.Anything && b.Kind != request.Anything {
			return a.Name
		}
	}
	return ""
}

func (b *builder[V]) conditions(e *Entry[V]) []request.Condition {
	if len(e.Conditions) > MaxConditions {
		b.problem(e, "conditions", fmt.Sprintf("there are more than %d", MaxConditions))
	}
	for i := range e.Conditions {
		if err := e.Conditions[i].Check(); err != nil {
			b.problem(e, "conditions", err.Error())
		}
	}
	sorted := request.SortedConditions(e.Conditions)
	if name := twice(sorted); name != "" {
		b.problem(e, "conditions", name+" is named twice")
	}
	return sorted
}
