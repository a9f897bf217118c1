package balance_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/sallyport/sallyport/dataplane/upstream/balance"
)

// A choice takes no memory of the heap, however it is made.
func TestChoicesDoNotAllocate(t *testing.T) {
	for _, m := range []balance.Method{balance.RoundRobin, balance.LeastRequest, balance.Hash} {
		c := newClock()
		cfg := usual(m, c)
		cfg.SlowStart = time.Hour
		b, all := newBalancer(cfg, 20)
		fail(b, all[0], 5)
		c.advance(time.Minute)
		first(b, 0)
		if n := testing.AllocsPerRun(100, func() {
			choice := b.Choose(balance.KeyOf("somebody", "else"))
			for e := choice.Next(); e != nil; e = choice.Next() {
				e.Begin()
				b.Succeeded(e)
				e.End()
			}
		}); n != 0 {
			t.Errorf("method %d: %v allocations", m, n)
		}
	}
}

func BenchmarkChoice(b *testing.B) {
	for name, m := range map[string]balance.Method{"turns": balance.RoundRobin, "least": balance.LeastRequest, "hash": balance.Hash} {
		for _, n := range []int{3, 16, 256} {
			b.Run(fmt.Sprint(name, "/", n), func(b *testing.B) {
				balancer, _ := newBalancer(usual(m, newClock()), n)
				b.ReportAllocs()
				for i := range b.N {
					first(balancer, balance.Key(i+1))
				}
			})
		}
	}
}
