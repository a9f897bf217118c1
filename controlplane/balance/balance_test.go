package balance_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/controlplane/balance"
	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/postgres"
	"github.com/sallyport/sallyport/storage/storagetest"
)

func TestMain(m *testing.M) { os.Exit(storagetest.Main(m)) }

func TestSurplus(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		own    int
		others []int
		want   int
	}{
		{0, nil, 0},
		{5000, nil, 0},           // there is nobody else
		{10, []int{0}, 0},        // a difference of few
		{30, []int{0}, 0},        // 15, and four times its root
		{60, []int{0}, 15},       // half of what is beyond 30
		{2500, []int{2500}, 0},   // all is well
		{2740, []int{2260}, 0},   // within a tenth
		{2800, []int{2200}, 150}, // beyond
		{2200, []int{2800}, 0},   // the other's turn
		{1500, []int{1500, 0}, 250},
		{0, []int{1500, 1500}, 0},
		{5000, []int{0, 0, 0, 0}, 2000},
	} {
		if got := balance.Surplus(c.own, c.others); got != c.want {
			t.Errorf("%d beside %v: %d, want %d", c.own, c.others, got, c.want)
		}
	}
}

// Wherever proxies are at first, replicas come to rest with about as many each, and
// then nobody is asked any more: a proxy goes to one of the others at random.
func TestReplicasComeToRest(t *testing.T) {
	t.Parallel()
	chance := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		loads := make([]int, 2+chance.IntN(6))
		total := 0
		for i := range loads {
			if chance.IntN(2) == 0 {
				loads[i] = chance.IntN(3000)
			}
			total += loads[i]
		}
		first := slices.Clone(loads)
		rounds, quiet, moved := 0, 0, 0
		for ; quiet < 20 && rounds < 1000; rounds++ {
			told := slices.Clone(loads) // what they have heard of each other is a round old
			quiet++
			for i := range loads {
				others := slices.Delete(slices.Clone(told), i, i+1)
				for range min(balance.Surplus(told[i], others), 100) {
					to := chance.IntN(len(loads) - 1)
					if to >= i {
						to++
					}
					loads[i]--
					loads[to]++
					moved++
					quiet = 0
				}
			}
		}
		share := total / len(loads)
		if quiet < 20 || slices.Max(loads) > share+share/10+60+4*60 || moved > 2*total {
			t.Fatalf("from %v to %v in %d rounds, with %d moves", first, loads, rounds, moved)
		}
	}
}

// plane is several replicas, with proxies that do as they are asked.
type plane struct {
	*testing.T
	store    *postgres.Store
	replicas []*registry.Registry
	metrics  []*prometheus.Registry
	proxies  sync.WaitGroup
}

const pattern = "spiffe://prod.example/proxy/*"

func newPlane(t *testing.T) *plane {
	t.Helper()
	store, err := postgres.New(postgres.Config{DSN: storagetest.Postgres(t, postgres.Migrate), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	p := &plane{T: t, store: store}
	key := resource.Key{Kind: resource.KindEnrollment, Name: "all"}
	document, err := resource.Encode(resource.Parsed{Key: key, Spec: &resourcev1.Enrollment{SpiffeId: pattern, Environment: "aws"}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.Commit(t.Context(), storage.Commit{Caller: "test", Action: "apply", Changes: []storage.Change{{
		Key: key, Document: document, Digest: snapshot.DocumentDigest(document),
	}}}, func([]storage.Version) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// start has one more replica, which does not balance by itself.
func (p *plane) start() *registry.Registry {
	p.Helper()
	r := registry.New(registry.Config{Store: p.store, Replica: fmt.Sprint(len(p.replicas)), Log: slog.New(slog.DiscardHandler)})
	p.run(r.Run)
	p.eventually("it is ready", r.Ready)
	p.replicas, p.metrics = append(p.replicas, r), append(p.metrics, prometheus.NewRegistry())
	return r
}

func (p *plane) run(part func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(p.Context()))
	done := make(chan error, 1)
	go func() { done <- part(ctx) }()
	p.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			p.Error(err)
		}
	})
}

func (p *plane) eventually(what string, ok func() bool) {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			p.Fatalf("not in time: %s: %v", what, p.streams())
		case <-tick.C:
		}
	}
}

func (p *plane) streams() (all []int) {
	for _, r := range p.replicas {
		all = append(all, r.Streams()["aws"])
	}
	return all
}

// proxy has its stream at a replica, and goes to another when it is asked.
func (p *plane) proxy(ctx context.Context, i, at int, stays bool) {
	p.proxies.Go(func() {
		for ctx.Err() == nil {
			r := p.replicas[at]
			id := "spiffe://prod.example/proxy/" + fmt.Sprint(i)
			a, err := r.Admit(id)
			if err != nil {
				p.Error(err)
				return
			}
			s, err := r.Open(registry.Registration{SPIFFEID: id, Instance: "i"}, a)
			if err != nil {
				p.Error(err)
				return
			}
			select {
			case <-s.Moved():
			case <-ctx.Done():
			}
			s.Close()
			if !stays {
				at = (at + 1) % len(p.replicas)
			}
		}
	})
}

func (p *plane) balance(i int, stay bool) {
	p.run(balance.New(balance.Config{
		Replica: fmt.Sprint(i), Store: settled{p.store}, Streams: p.replicas[i], Log: slog.New(slog.DiscardHandler),
		Every: 50 * time.Millisecond, Registerer: p.metrics[i], Stay: stay,
	}).Run)
}

// settled are replicas that are all there for an hour longer than they are.
type settled struct{ storage.Replicas }

func (s settled) Present(ctx context.Context, name string, streams int, within time.Duration) ([]storage.Replica, error) {
	all, err := s.Replicas.Present(ctx, name, streams, within)
	for i := range all {
		all[i].For += time.Hour
	}
	return all, err
}

// A replica that joins gets its share of those that two others have, and then nobody
// is asked any more.
func TestReplicaJoins(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	for range 3 {
		p.start()
	}
	ctx, end := context.WithCancel(context.WithoutCancel(t.Context()))
	defer p.proxies.Wait()
	defer end()
	const proxies = 300
	for i := range proxies {
		p.proxy(ctx, i, i%2, false)
	}
	p.eventually("all have connected", func() bool { return p.streams()[0] == proxies/2 && p.streams()[1] == proxies/2 })
	for i := range p.replicas {
		p.balance(i, false)
	}
	const most = 100 + 40 // four times the root of the share
	p.eventually("all have their share", func() bool {
		all := p.streams()
		return all[0] <= most && all[1] <= most && all[2] >= 20 && all[0]+all[1]+all[2] == proxies
	})
	moves := func() (n float64) {
		for _, m := range p.metrics {
			n += counted(t, m)
		}
		return n
	}
	before, rounds := moves(), 0
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for last := before; rounds < 10; rounds++ { // until nothing has happened for ten rounds
		<-tick.C
		if now := moves(); now != last {
			last, rounds = now, 0
		}
	}
	if n := moves(); n > proxies {
		t.Errorf("%d proxies were asked to go %v times", proxies, n)
	}
}

func counted(t *testing.T, m *prometheus.Registry) (n float64) {
	t.Helper()
	families, err := m.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, one := range f.GetMetric() {
			n += one.GetCounter().GetValue()
		}
	}
	return n
}

// Proxies that know one replica alone are asked once, and then left alone; a replica
// that is to keep its proxies asks none.
func TestProxiesThatStay(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	p.start()
	p.start()
	ctx, end := context.WithCancel(context.WithoutCancel(t.Context()))
	defer p.proxies.Wait()
	defer end()
	const proxies = 60
	for i := range proxies {
		p.proxy(ctx, i, 0, true)
	}
	p.eventually("all have connected", func() bool { return p.streams()[0] == proxies })
	p.balance(1, true)
	p.balance(0, false)
	p.eventually("all were asked", func() bool { return counted(t, p.metrics[0]) == proxies })
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for range 10 {
		<-tick.C
	}
	if n := counted(t, p.metrics[0]); n != proxies {
		t.Errorf("%d proxies were asked %v times", proxies, n)
	}
}
