//go:build peers

package peers_test

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"
)

// What is measured, and for how long.
const (
	rounds      = 5 // of all proxies, in turns
	turn        = 2 * time.Second
	connections = 32
)

// Cores of what is measured, and of everything else.
const (
	proxyCore = "0"
	otherCore = "1"
)

// work is what all proxies are given to do.
type work struct {
	name string
	load load
	of   func(p *peer) bool // whether p does it; nil: all do
}

func works(token string) []work {
	small, large := load{Path: "/1kib", Connections: connections, For: turn}, load{Path: "/1mib", Connections: 8, For: turn}
	h2, fresh, secured := small, small, small
	h2.HTTP2, h2.Connections, h2.Streams = true, 4, 8
	fresh.Connections, fresh.Fresh = 4, true
	secured.Path, secured.Token = "/secured/1kib", token
	return []work{
		{name: "plain", load: small},
		{name: "h2", load: h2},
		{name: "1mib", load: large},
		{name: "new_connections", load: fresh},
		{name: "secured", load: secured, of: func(p *peer) bool { return p.secures }},
	}
}

// result is what came out of one turn.
type result struct {
	cpu, p50, p99 time.Duration // cpu is of a request
	perSecond     float64
}

// results are those of all turns, by work and peer.
type results map[string]map[string][]result

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case roleLoad:
		beLoad()
	case roleUpstream:
		beUpstream()
	case roleVerifier:
		beVerifier()
	default:
		os.Exit(m.Run())
	}
}

// BenchmarkPeers needs root's taskset and at least two of nginx, HAProxy and
// Caddy. Proxies take turns, so that what else the machine does meets all
// alike; what is compared is the median of ratios of turns that are neighbours.
func BenchmarkPeers(b *testing.B) {
	pin(b)
	s := begin(b)
	s.startOthers(b)
	all := make(results)
	for round := range rounds {
		for _, w := range works(s.token) {
			s.round(b, w, round, all)
		}
	}
	all.print(s.peers)
	for _, p := range s.peers {
		fmt.Printf("%d idle connections %-10s %6.1f KiB each\n", s.idle, p.name, s.idleMemory(b, p))
	}
	all.figures()
}

// round has each proxy do w once. Who begins changes from round to round.
func (s *stage) round(b *testing.B, w work, round int, all results) {
	b.Helper()
	if all[w.name] == nil {
		all[w.name] = make(map[string][]result)
	}
	for i := range s.peers {
		p := s.peers[(i+round)%len(s.peers)]
		if w.of == nil || w.of(p) {
			all[w.name][p.name] = append(all[w.name][p.name], s.measure(b, p, w.load))
		}
	}
}

func (s *stage) measure(b *testing.B, p *peer, l load) result {
	b.Helper()
	l.Address, l.CA = p.address, s.ca
	warm := l
	warm.For = 200 * time.Millisecond
	s.load.ask(b, warm)
	before := p.cpu(b)
	got := s.load.ask(b, l)
	spent := p.cpu(b) - before
	if got.Failed != "" || got.Requests == 0 {
		b.Fatalf("%s, %s: %d requests, %s", p.name, l.Path, got.Requests, got.Failed)
	}
	return result{
		cpu: spent / time.Duration(got.Requests), p50: got.P50, p99: got.P99,
		perSecond: float64(got.Requests) / got.Took.Seconds(),
	}
}

func (s *stage) idleMemory(b *testing.B, p *peer) float64 {
	b.Helper()
	before := p.memory(b)
	s.load.ask(b, load{Address: p.address, CA: s.ca, Path: "/1kib", Connections: s.idle, Idle: true})
	defer s.load.ask(b, load{Release: true})
	kib := float64(p.memory(b)-before) / float64(s.idle)
	if p.name == us {
		fmt.Printf("figure idle_conn_kib %.1f KiB\n", kib)
	}
	return kib
}

func (r results) print(peers []*peer) {
	for _, w := range works("") {
		for _, p := range peers {
			turns := r[w.name][p.name]
			if len(turns) == 0 {
				continue
			}
			fmt.Printf("%-16s %-10s CPU %8.1f us  %8.0f/s  p50 %7.2f ms  p99 %7.2f ms\n", w.name, p.name,
				middle(turns, func(t result) float64 { return micro(t.cpu) }), middle(turns, func(t result) float64 { return t.perSecond }),
				middle(turns, func(t result) float64 { return micro(t.p50) / 1000 }), middle(turns, func(t result) float64 { return micro(t.p99) / 1000 }))
		}
	}
}

// figures prints ratios of CPU per request, ours to another's.
func (r results) figures() {
	for _, f := range []struct{ name, ours, theirs, peer string }{
		{"cpu_plain_vs_nginx", "plain", "plain", nginx},
		{"cpu_plain_vs_haproxy", "plain", "plain", haproxy},
		{"cpu_plain_vs_caddy", "plain", "plain", caddy},
		{"cpu_h2_vs_nginx", "h2", "h2", nginx},
		{"cpu_1mib_vs_nginx", "1mib", "1mib", nginx},
		{"cpu_new_connections_vs_nginx", "new_connections", "new_connections", nginx},
		{"cpu_secured_vs_caddy_plain", "secured", "plain", caddy},
		{"cpu_secured_vs_nginx_plain", "secured", "plain", nginx},
		{"cpu_secured_vs_haproxy_jwt", "secured", "secured", haproxy},
		{"cpu_secured_vs_nginx_auth_request", "secured", "secured", nginx},
	} {
		ours, theirs := r[f.ours][us], r[f.theirs][f.peer]
		if len(ours) == 0 || len(theirs) == 0 {
			continue
		}
		ratios := make([]float64, len(ours))
		for i := range ours {
			ratios[i] = float64(ours[i].cpu) / float64(theirs[i].cpu)
		}
		fmt.Printf("figure %s %.2f ratio\n", f.name, median(ratios))
	}
}

func middle(turns []result, of func(result) float64) float64 {
	all := make([]float64, len(turns))
	for i, t := range turns {
		all[i] = of(t)
	}
	return median(all)
}

// median sorts.
func median(of []float64) float64 {
	slices.Sort(of)
	return of[len(of)/2]
}

func micro(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
