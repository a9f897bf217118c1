package chaos_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
)

// victim is a process that is killed, and started again.
type victim struct {
	name        string
	kill, start func(t *testing.T)
}

// victims are all processes of the fleet.
func (s *stage) victims() (all []victim) {
	own := func(p *fleet.Process) victim {
		return victim{p.Label,
			func(t *testing.T) { t.Helper(); must(t, p.Kill()) },
			func(t *testing.T) { t.Helper(); must(t, p.Start()) },
		}
	}
	for _, r := range s.Replicas {
		all = append(all, own(r.Process))
	}
	for _, m := range s.Members {
		all = append(all, own(m.Process))
	}
	for i, p := range s.etcd.processes {
		all = append(all, victim{p.Label,
			func(t *testing.T) { t.Helper(); must(t, p.Kill()) },
			func(t *testing.T) { t.Helper(); s.etcd.start(t, i) },
		})
	}
	return append(all, victim{"postgres", s.killPostgres, func(t *testing.T) { t.Helper(); must(t, s.Postgres.Start(t.Context())) }})
}

// Any process of a fleet is killed at any instant, also two at once, while ten
// writers go on: nothing that was answered is lost, and proxies only go forward.
func TestRandomKills(t *testing.T) {
	s := start(t)
	end := s.write(t)
	pace := *lasting / time.Duration(*kills)
	killed := map[string]int{}
	for n := 0; n < *kills; {
		victims := s.victims()
		rand.Shuffle(len(victims), func(i, j int) { victims[i], victims[j] = victims[j], victims[i] })
		struck := victims[:1+rand.N(2)]
		for _, v := range struck {
			v.kill(t)
			killed[v.name]++
			n++
		}
		down := rand.N(pace)
		<-time.After(down)
		for _, v := range struck {
			v.start(t)
		}
		<-time.After(time.Duration(len(struck))*pace - down)
	}
	t.Logf("killed were %v", killed)
	figure(t, "kills", float64(*kills), "kills", 0)
	figure(t, "after_all_kills", s.converges(t, time.Now()).Seconds(), "s", afterBoth)
	end()
	s.judged(t)
}
