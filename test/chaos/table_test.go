package chaos_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/internal/failpoint"
)

// One part after another of a fleet fails, while ten writers go on: what has been
// answered is there at the end, and what each proxy did was one step forward after
// another. docs/failures.md tells which row of it is tested where.
func TestFailureTable(t *testing.T) {
	s := start(t)
	end := s.write(t)
	for _, row := range []struct {
		name string
		test func(*stage, *testing.T)
	}{
		{"postgres stopped", (*stage).postgresStopped},
		{"postgres killed", (*stage).postgresKilled},
		{"one member of etcd killed", (*stage).etcdLosesOne},
		{"two members of etcd killed", (*stage).etcdLosesTwo},
		{"etcd wiped", (*stage).etcdWiped},
		{"etcd restored to an older state", (*stage).etcdRestored},
		{"etcd compacted all the time", (*stage).etcdCompacted},
		{"publisher killed at each step", (*stage).publisherKilled},
		{"publisher and leader of etcd killed together", (*stage).bothKilled},
		{"publisher stopped and deposed", (*stage).publisherStopped},
		{"replica killed", (*stage).replicaKilled},
		{"slow proxy", (*stage).proxyStopped},
		{"control plane gone", (*stage).controlPlaneGone},
	} {
		if !t.Run(row.name, func(t *testing.T) {
			row.test(s, t)
			s.settled(t)
			s.serves(t)
		}) {
			return // what follows would tell nothing
		}
	}
	end()
	s.judged(t)
}

// Without Postgres changes are refused, and everything else goes on.
func (s *stage) postgresStopped(t *testing.T) {
	must(t, s.Postgres.Stop())
	for i, r := range s.Replicas {
		_, err := r.Admin.Apply(t.Context(), policyNamed("refused"), "refused")
		if connect.CodeOf(err) != connect.CodeUnavailable {
			t.Errorf("replica %d answers an Apply with %v", i, err)
		}
	}
	s.serves(t)
	for _, m := range s.Members {
		if connected, err := metric(t.Context(), m.Status, "sallyport_link_connected"); connected != 1 {
			t.Errorf("%s lost its stream: %v", m.Name, err)
		}
	}
	must(t, s.Postgres.Start(t.Context()))
	figure(t, "postgres_stopped", s.converges(t, time.Now()).Seconds(), "s", afterOne)
	if _, there := s.stored(t)["refused"]; there {
		t.Error("what was refused is there")
	}
}

func (s *stage) postgresKilled(t *testing.T) {
	s.killPostgres(t)
	must(t, s.Postgres.Start(t.Context()))
	figure(t, "postgres_killed", s.converges(t, time.Now()).Seconds(), "s", afterOne)
}

func (s *stage) etcdLosesOne(t *testing.T) {
	leads := s.etcd.awaitLeader(t)
	fault := time.Now()
	must(t, s.etcd.processes[leads].Kill())
	figure(t, "etcd_one_killed", s.converges(t, fault).Seconds(), "s", afterOne)
	s.etcd.start(t, leads)
}

// Without a majority changes are taken, and wait.
func (s *stage) etcdLosesTwo(t *testing.T) {
	for _, i := range []int{0, 1} {
		must(t, s.etcd.processes[i].Kill())
	}
	var waits int64
	eventually(t, patience, func(ctx context.Context) (_ bool, answer string) {
		var err error
		waits, err = s.apply(ctx, "waits", "waits for etcd")
		return err == nil, fmt.Sprint("an Apply is refused: ", err)
	})
	s.serves(t)
	for i, m := range s.Members {
		at, err := metric(t.Context(), m.Status, "sallyport_snapshot_revision")
		if err != nil || int64(at) >= waits {
			t.Errorf("proxy %d is at revision %.0f of %d, without etcd (%v)", i, at, waits, err)
		}
	}
	s.etcd.start(t, 0)
	s.etcd.start(t, 1)
	s.etcd.awaitLeader(t)
	figure(t, "etcd_two_killed", s.converges(t, time.Now()).Seconds(), "s", afterOne)
}

func (s *stage) etcdWiped(t *testing.T) {
	s.etcd.stopAll(t)
	s.etcd.data(t, os.RemoveAll)
	s.etcd.startAll(t)
	figure(t, "etcd_wiped", s.converges(t, time.Now()).Seconds(), "s", afterOne)
}

func (s *stage) etcdRestored(t *testing.T) {
	backup := t.TempDir()
	copyOf := func(dir string) string { return filepath.Join(backup, filepath.Base(dir)) }
	s.etcd.stopAll(t)
	s.etcd.data(t, func(dir string) error { return os.CopyFS(copyOf(dir), os.DirFS(dir)) })
	s.etcd.startAll(t)
	for range 3 {
		s.converges(t, time.Now())
	}
	s.etcd.stopAll(t)
	s.etcd.data(t, func(dir string) error { return replaceBy(dir, copyOf(dir)) })
	s.etcd.startAll(t)
	figure(t, "etcd_restored", s.converges(t, time.Now()).Seconds(), "s", afterOne)
}

// Replicas that were asleep find that what they would read next is gone.
func (s *stage) etcdCompacted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var compacting sync.WaitGroup
	var times atomic.Int64
	compacting.Go(func() { s.etcd.compact(ctx, &times) })
	for _, r := range s.Replicas {
		must(t, syscall.Kill(r.PID(), syscall.SIGSTOP))
		s.changes(t)
		before := times.Load()
		eventually(t, patience, func(context.Context) (bool, string) { return times.Load() > before, "etcd is not compacted" })
		must(t, syscall.Kill(r.PID(), syscall.SIGCONT))
	}
	figure(t, "etcd_compacted", s.converges(t, time.Now()).Seconds(), "s", afterOne)
	cancel()
	compacting.Wait()
	figure(t, "compactions", float64(times.Load()), "compactions", 0)
}

// points are the steps of publishing, and of giving it to proxies.
var points = []string{
	"publish.signed", "publish.recorded", "publish.chunks", "publish.head", "publish.cursor", "stream.pushed", "stream.acked",
}

// A publisher dies at a step while another replica stands by.
func (s *stage) publisherKilled(t *testing.T) {
	worst, steps := 0.0, points
	if !*judge {
		steps = []string{"publish.recorded", "publish.head"} // half written each
	}
	for _, point := range steps {
		dies, takesOver := s.Replicas[0], s.Replicas[1]
		must(t, dies.Stop())
		must(t, dies.Start(failpoint.Variable+"="+point))
		_ = s.ReplicaReady(t.Context(), dies) // it may be dead by now
		// It publishes from when the other gives that up, and has proxies.
		must(t, takesOver.Stop())
		must(t, takesOver.Start())
		select {
		case <-dies.Done():
		case <-time.After(patience):
			t.Fatalf("%s was not reached", point)
		}
		took := s.converges(t, time.Now()).Seconds()
		t.Logf("%s: %.2f s", point, took)
		worst = max(worst, took)
		must(t, dies.Start())
		must(t, s.ReplicaReady(t.Context(), dies))
	}
	log, err := os.ReadFile(s.Replicas[0].Log)
	must(t, err)
	for _, point := range steps {
		if !bytes.Contains(log, []byte("failpoint "+point+"\n")) {
			t.Errorf("nobody died at %s", point)
		}
	}
	figure(t, "publisher_killed", worst, "s", afterOne)
}

func (s *stage) bothKilled(t *testing.T) {
	publisher, leads := s.awaitPublisher(t), s.etcd.awaitLeader(t)
	fault := time.Now()
	must(t, publisher.Kill())
	must(t, s.etcd.processes[leads].Kill())
	figure(t, "both_killed", s.converges(t, fault).Seconds(), "s", afterBoth)
	must(t, publisher.Start())
	s.etcd.start(t, leads)
}

// A publisher that is asleep for longer than its lease finds, when it wakes, that
// another one has gone on.
func (s *stage) publisherStopped(t *testing.T) {
	publisher := s.awaitPublisher(t)
	must(t, syscall.Kill(publisher.PID(), syscall.SIGSTOP))
	eventually(t, patience, func(ctx context.Context) (bool, string) {
		return s.publisher(ctx) == s.other(publisher), "nobody takes over"
	})
	s.changes(t)
	woken := time.Now()
	must(t, syscall.Kill(publisher.PID(), syscall.SIGCONT))
	figure(t, "publisher_deposed", s.converges(t, woken).Seconds(), "s", afterOne)
}

// The proxies of a replica that dies go to another one.
func (s *stage) replicaKilled(t *testing.T) {
	for _, r := range s.Replicas {
		fault := time.Now()
		must(t, r.Kill())
		figure(t, "replica_killed", s.converges(t, fault).Seconds(), "s", afterOne)
		must(t, r.Start())
		must(t, s.ReplicaReady(t.Context(), r))
	}
}

// Nobody waits for a proxy that is asleep, and it goes on when it wakes.
func (s *stage) proxyStopped(t *testing.T) {
	slow, other := s.Members[0], s.Members[1]
	must(t, syscall.Kill(slow.PID(), syscall.SIGSTOP))
	began := time.Now()
	s.reaches(t, other, s.changes(t))
	figure(t, "beside_a_slow_proxy", time.Since(began).Seconds(), "s", afterOne)
	must(t, syscall.Kill(slow.PID(), syscall.SIGCONT))
	figure(t, "slow_proxy", s.converges(t, time.Now()).Seconds(), "s", afterOne)
}

// Proxies are killed while there is no control plane, and serve again from what is
// on disk.
func (s *stage) controlPlaneGone(t *testing.T) {
	for _, r := range s.Replicas {
		must(t, r.Kill())
	}
	s.etcd.stopAll(t)
	s.killPostgres(t)
	for _, m := range s.Members {
		must(t, m.Kill())
		must(t, m.Start())
	}
	for _, m := range s.Members {
		must(t, s.MemberReady(t.Context(), m))
	}
	s.serves(t)
	must(t, s.Postgres.Start(t.Context()))
	s.etcd.startAll(t)
	for _, r := range s.Replicas {
		must(t, r.Start())
	}
	figure(t, "control_plane_gone", s.converges(t, time.Now()).Seconds(), "s", 0)
}
