package e2e_test

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// BenchmarkAttacks measures what requests of others take beside each attack, against what
// they take without, in turns, so that what else the machine does meets both alike. Proxy,
// upstream and clients share this machine: what attacks would be elsewhere, and leaves the
// processors to the rest of us (nice 19).
//
// A ratio is of the p99 of a turn of each, two seconds long. The median of five ratios is
// the figure of an attack.
func BenchmarkAttacks(b *testing.B) {
	const ratios = 5
	s := besiege(b)
	worst, most := "", 0.0
	for i := range attacks {
		b.Run(attacks[i].name, func(b *testing.B) {
			of, alone, beside := make([]float64, ratios), make([]float64, ratios), make([]float64, ratios)
			for n := range ratios {
				alone[n] = p99(s.others.ask(b, 2*perSecond))
				beside[n] = p99(s.beside(b, &attacks[i]))
				of[n] = beside[n] / alone[n]
			}
			ratio := median(of)
			if ratio > most {
				worst, most = attacks[i].name, ratio
			}
			fmt.Printf("\n%s: p99 of others %.2f ms, without %.2f ms\n", attacks[i].name, median(beside), median(alone))
			fmt.Printf("figure attack_p99_ratio_%s %.2f ratio\n", attacks[i].name, ratio)
		})
	}
	fmt.Printf("figure attack_p99_ratio %.2f ratio, of %s\n", most, worst)
}

// beside is a turn with an attack.
func (s *siege) beside(b *testing.B, a *attack) []time.Duration {
	b.Helper()
	o := s.order(a)
	o.For = 2 * time.Second
	s.attacker.begin(b, o)
	defer s.attacker.end(b)
	return s.others.ask(b, 2*perSecond)
}

// p99 is in milliseconds. It sorts.
func p99(took []time.Duration) float64 {
	slices.Sort(took)
	return float64(took[len(took)*99/100].Microseconds()) / 1000
}

// median sorts.
func median(of []float64) float64 {
	slices.Sort(of)
	return of[len(of)/2]
}
