package postgres_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/storage"
)

var many = flag.Int("decisions", 5_000_000, "how many decisions the benchmark of queries looks among")

// One principal's last 100 denials among millions of records of five days.
func BenchmarkDenialsOfOnePrincipal(b *testing.B) {
	r := openRecords(b)
	fill(b, r, *many)
	alter(b, r.dsn, `analyze`)
	no := false
	p := storage.DecisionPage{DecisionFilter: storage.DecisionFilter{Allow: &no}, Limit: 100}
	var took []time.Duration
	rng := rand.New(rand.NewPCG(1, 2))
	for b.Loop() {
		// Both names that a principal may be kept by.
		p.Principals = []string{user(rng.IntN(users)), "~"}
		began := time.Now()
		found, err := r.Decisions.Decisions(b.Context(), p)
		took = append(took, time.Since(began))
		if err != nil || *many >= 5_000_000 && len(found) != p.Limit {
			b.Fatalf("%d denials, %v", len(found), err)
		}
	}
	slices.Sort(took)
	fmt.Printf("figure decisions_query_ms %.2f ms\n", float64(took[len(took)*99/100].Microseconds())/1000)
}

const users = 1000

func user(n int) string { return fmt.Sprintf("user-%d@shop.example", n) }

// fill adds decisions, of which every twentieth is denied, as proxies do: in batches.
func fill(b *testing.B, r records, n int) {
	b.Helper()
	const batch = 20_000
	record := []byte(strings.Repeat("a record of a decision ", 20))
	rng := rand.New(rand.NewPCG(3, 4))
	step := 5 * 24 * time.Hour / time.Duration(n)
	began := time.Now()
	for first := 0; first < n; first += batch {
		all := make([]storage.Decision, min(batch, n-first))
		for i := range all {
			at := time.Duration(first+i)*step - 5*24*time.Hour
			all[i] = decided(at, func(d *storage.Decision) {
				if d.Principal, d.Record = user(rng.IntN(users)), record; i%20 == 0 {
					denied(d)
				}
				d.ID[14], d.ID[15] = byte(i>>8), byte(i)
			})
		}
		r.save(b, one, int64(first)+1, all...)
	}
	b.Logf("%d decisions were kept at %.0f a second", n, float64(n)/time.Since(began).Seconds())
}
