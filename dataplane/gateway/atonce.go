package gateway

import (
	"sync"

	"github.com/sallyport/sallyport/dataplane/limit"
	"github.com/sallyport/sallyport/internal/policy"
)

// atOnce counts the requests of each key that are under way. It has no more keys than
// there are requests.
type atOnce struct {
	mu sync.Mutex
	of map[limit.Hash]uint32
}

// enter counts a request, unless there are so many.
func (a *atOnce) enter(key limit.Hash, most uint32) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.of[key] >= most {
		return false
	}
	if a.of == nil {
		a.of = make(map[limit.Hash]uint32)
	}
	a.of[key]++
	return true
}

func (a *atOnce) leave(key limit.Hash) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.of[key]--; a.of[key] == 0 {
		delete(a.of, key)
	}
}

// held is where a request is counted until it has ended.
type held struct {
	in  *atOnce
	key limit.Hash
}

// holds are those of a request.
type holds []held

func (h *holds) release() {
	for _, one := range *h {
		one.in.leave(one.key)
	}
	*h = nil
}

// hold counts a request that is under way; false when there are too many of its key.
func (l *limiter) hold(q *question, in *policy.Input) bool {
	most := l.of.Spec.GetConcurrent()
	if most == 0 || l.of.Shadow() || !l.applies(in) {
		return true
	}
	var room [keyRoom]byte
	key := limit.HashOf(l.of.Parts.Append(room[:0], in))
	if !l.atOnce.enter(key, most) {
		return false
	}
	q.exchange.holds = append(q.exchange.holds, held{l.atOnce, key})
	return true
}

// underWay returns what is under way of a limit, which goes on from table to table.
func (g *Gateway) underWay(limit string) *atOnce {
	if g.under[limit] == nil {
		if g.under == nil {
			g.under = make(map[string]*atOnce)
		}
		g.under[limit] = &atOnce{}
	}
	return g.under[limit]
}
