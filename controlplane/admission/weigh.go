package admission

import (
	"fmt"
	"maps"
	"slices"

	"github.com/sallyport/sallyport/internal/resource"
)

// maxCompared bounds the kinds whose resources are compared with each other, or take
// memory of proxies by themselves.
const maxCompared = 4_000

// weigh reports what would become more than control plane and proxies take.
// Nothing of the request is entered before, or it could take all memory there
// is. What is too much already may become less.
func (c *checker) weigh() {
	after, kinds := maps.Clone(c.state.loads), maps.Clone(c.state.kinds)
	if after == nil {
		after, kinds = make(loads), make(map[resource.Kind]int)
	}
	for i := range c.request.entries {
		e := &c.request.entries[i]
		if !c.changes(e) {
			continue
		}
		if old := c.before[e.key]; old != nil {
			after.remove(old)
			kinds[e.key.Kind]--
		}
		if e.item != nil {
			after.enter(e.item)
			kinds[e.key.Kind]++
		}
	}
	for _, kind := range []resource.Kind{resource.KindListener, resource.KindEnrollment, resource.KindRateLimit} {
		if n := kinds[kind]; n > maxCompared && n > c.state.kinds[kind] {
			c.tooMany("", "there would be %d resources of kind %s: more than %d", n, kind, maxCompared)
		}
	}
	limits := c.state.limits()
	for _, name := range slices.Sorted(maps.Keys(after)) {
		now, before := after[name], c.state.loads[name]
		if name != "" {
			now, before = now.plus(after[""]), before.plus(c.state.loads[""])
		}
		for i, what := range [...]string{"resources", "bytes of resources", "combinations of hosts and paths"} {
			if now[i] > limits[i] && now[i] > before[i] {
				c.tooMany(name, "would hold %d %s: more than %d", now[i], what, limits[i])
			}
		}
	}
}

func (c *checker) tooMany(environment, format string, args ...any) {
	p := resource.Problem{Index: -1, Reason: resource.ReasonTooMany, Message: fmt.Sprintf(format, args...)}
	if environment != "" {
		p.Resource = environmentKey(environment).String()
	}
	c.problems.Add(p)
}
