package e2e_test

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// turn is how long others are asked, in seconds.
const turn = 2

// BenchmarkAttacks measures what requests of others take beside each attack, against what
// they take without, in turns, so that what else the machine does meets both alike. Proxy,
// upstream and clients share this machine: what attacks would be elsewhere, and leaves the
// processors to the rest of us (nice 19).
//
// A ratio is of the p99 of a turn of each, two seconds long. The median of five ratios is
// the figure of an attack. What the proxy itself takes of the processors is told as well:
// it is the attack's doing alone, and does not depend on what else the machine does.
func BenchmarkAttacks(b *testing.B) {
	const ratios = 5
	s := besiege(b)
	worst, most := "", 0.0
	for i := range attacks {
		b.Run(attacks[i].name, func(b *testing.B) {
			of, alone, beside := make([]float64, ratios), make([]float64, ratios), make([]float64, ratios)
			var quiet, busy [ratios]float64
			for n := range ratios {
				at := s.processors(b)
				alone[n] = p99(s.others.ask(b, turn*perSecond))
				quiet[n] = s.processors(b) - at
				beside[n] = p99(s.beside(b, &attacks[i]))
				busy[n] = s.processors(b) - at - quiet[n] // with what it takes to clear up
				of[n] = beside[n] / alone[n]
			}
			ratio := median(of)
			if ratio > most {
				worst, most = attacks[i].name, ratio
			}
			fmt.Printf("\n%s: p99 of others %.2f ms, without %.2f ms\n", attacks[i].name, median(beside), median(alone))
			fmt.Printf("figure attack_p99_ratio_%s %.2f ratio\n", attacks[i].name, ratio)
			fmt.Printf("figure attack_processors_%s %.2f of a processor, without %.2f\n", attacks[i].name, median(busy[:])/turn, median(quiet[:])/turn)
		})
	}
	fmt.Printf("figure attack_p99_ratio %.2f ratio, of %s\n", most, worst)
}

// beside is a turn with an attack.
func (s *siege) beside(b *testing.B, a *attack) []time.Duration {
	b.Helper()
	o := s.order(a)
	o.For = turn * time.Second
	s.attacker.begin(b, o)
	took := s.others.ask(b, turn*perSecond)
	s.attacker.end(b)
	s.calm(b)
	return took
}

// calm waits until the proxy has cleared up behind an attack: the next turn is without.
func (s *siege) calm(b *testing.B) {
	b.Helper()
	const look, little = 100 * time.Millisecond, 0.02 // of which it takes so many seconds
	for at := s.processors(b) - 1; ; {
		now := s.processors(b)
		if now-at < little {
			return
		}
		at = now
		<-time.After(look)
	}
}

// processors returns the time that the proxy has had of them so far, in seconds.
func (s *siege) processors(b *testing.B) float64 {
	b.Helper()
	stat, err := os.ReadFile(s.proc("stat"))
	if err != nil {
		b.Fatal(err)
	}
	const user, system, ticks = 11, 12, 100 // proc(5), behind the name; ticks in a second
	fields, sum := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])), 0.0
	for _, at := range []int{user, system} {
		n, err := strconv.Atoi(fields[at])
		if err != nil {
			b.Fatal(err)
		}
		sum += float64(n)
	}
	return sum / ticks
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
