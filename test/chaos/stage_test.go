package chaos_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
)

const (
	// What is promised, in seconds: of one fault, and of the leader of etcd and
	// the publisher dying together.
	afterOne, afterBoth = 5, 12
	// patience is how long anything may take at all: who is not judged waits.
	patience = 90 * time.Second
)

// stage is a fleet with two replicas, on an etcd of three members.
type stage struct {
	*fleet.Fleet
	etcd     *cluster
	journal  *journal
	database string // the folder of Postgres' data
	markers  int    // how many changes were made to see whether they arrive
}

func start(t *testing.T) *stage {
	t.Helper()
	dir := folder(t)
	s := &stage{etcd: startCluster(t, dir), journal: newJournal()}
	var err error
	s.Fleet, err = fleet.Start(t.Context(), fleet.Config{
		Dir: dir, Bin: bin, Log: slog.New(slog.DiscardHandler), Etcd: s.etcd.endpoints(), Replicas: 2,
	})
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	must(t, err)
	conn, err := pgx.Connect(t.Context(), s.Postgres.DSN(fleet.Database))
	must(t, err)
	must(t, conn.QueryRow(t.Context(), `show data_directory`).Scan(&s.database))
	must(t, conn.Close(t.Context()))
	return s
}

// killPostgres kills the server, as a crash would.
func (s *stage) killPostgres(t *testing.T) {
	t.Helper()
	b, err := os.ReadFile(s.database + "/postmaster.pid")
	must(t, err)
	first, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(first)
	must(t, err)
	must(t, syscall.Kill(pid, syscall.SIGKILL))
	_ = s.Postgres.Stop() // it says how it ended
}

// apply applies a policy through whatever replica takes it, and returns the
// revision.
func (s *stage) apply(ctx context.Context, name, message string) (int64, error) {
	var errs []error
	for _, i := range rand.Perm(len(s.Replicas)) {
		one, cancel := context.WithTimeout(ctx, 5*time.Second)
		revision, err := s.Replicas[i].Admin.Apply(one, policyNamed(name), message)
		cancel()
		if err == nil {
			s.journal.note(revision, name, message)
			return revision, nil
		}
		errs = append(errs, err)
	}
	return 0, errors.Join(errs...)
}

func policyNamed(name string) string {
	return `apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: ` + name + `}
spec:
  routes: {names: [orders]}
  effect: DENY
  principals: [{group: ` + name + strconv.Itoa(rand.IntN(1e9)) + `}]
`
}

// changes makes a change as soon as anybody takes it, and returns its revision.
func (s *stage) changes(t *testing.T) (revision int64) {
	t.Helper()
	s.markers++
	name := fmt.Sprintf("marker-%d", s.markers)
	eventually(t, patience, func(ctx context.Context) (_ bool, answer string) {
		var err error
		revision, err = s.apply(ctx, name, name)
		return err == nil, fmt.Sprint("nobody takes a change: ", err)
	})
	return revision
}

// converges makes a change, waits until all proxies enforce it, and returns the
// time since a fault.
func (s *stage) converges(t *testing.T, fault time.Time) time.Duration {
	t.Helper()
	revision := s.changes(t)
	for _, m := range s.Members {
		s.reaches(t, m, revision)
	}
	return time.Since(fault)
}

// reaches waits until a proxy enforces a revision.
func (s *stage) reaches(t *testing.T, m *fleet.Member, revision int64) {
	t.Helper()
	eventually(t, patience, func(ctx context.Context) (bool, string) {
		at, err := metric(ctx, m.Status, "sallyport_snapshot_revision")
		return err == nil && int64(at) >= revision, fmt.Sprintf("%s is at revision %.0f, not at %d (%v)", m.Name, at, revision, err)
	})
}

// settled waits until all replicas and proxies are as they should be.
func (s *stage) settled(t *testing.T) {
	t.Helper()
	for _, r := range s.Replicas {
		must(t, s.ReplicaReady(t.Context(), r))
	}
	for _, m := range s.Members {
		must(t, s.MemberReady(t.Context(), m))
		eventually(t, patience, func(ctx context.Context) (bool, string) {
			connected, err := metric(ctx, m.Status, "sallyport_link_connected")
			return connected == 1, fmt.Sprint(m.Name, " is not connected ", err)
		})
	}
}

// serves checks that each proxy lets a request through.
func (s *stage) serves(t *testing.T) {
	t.Helper()
	for _, m := range s.Members {
		token, err := s.Sign(fleet.TokenRequest{Subject: "alice", Groups: []string{"shop"}, Audience: "orders", ExpiresIn: time.Minute})
		must(t, err)
		eventually(t, patience, func(ctx context.Context) (bool, string) {
			answer, err := s.Send(ctx, m, fleet.Request{Method: http.MethodGet, Path: "/v1/inventory/7", Token: token})
			return err == nil && answer.Status == http.StatusOK, fmt.Sprint(m.Name, " answers ", answer.Status, string(answer.Body), err)
		})
	}
}

// publisher returns the replica that publishes, by the key of the election.
func (s *stage) publisher(ctx context.Context) *fleet.Replica {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	r, err := s.etcd.client.Get(ctx, "/sallyport/v1/leader/", clientv3.WithFirstCreate()...)
	if err != nil || len(r.Kvs) == 0 {
		return nil
	}
	for _, replica := range s.Replicas {
		if string(r.Kvs[0].Value) == replica.Name {
			return replica
		}
	}
	return nil
}

func (s *stage) awaitPublisher(t *testing.T) *fleet.Replica {
	t.Helper()
	var found *fleet.Replica
	eventually(t, patience, func(ctx context.Context) (bool, string) {
		found = s.publisher(ctx)
		return found != nil, "nobody publishes"
	})
	return found
}

// other returns the replica that is not r.
func (s *stage) other(r *fleet.Replica) *fleet.Replica {
	if r == s.Replicas[0] {
		return s.Replicas[1]
	}
	return s.Replicas[0]
}

// metric returns what a process says of itself, the sum over all labels.
func metric(ctx context.Context, status, name string) (sum float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, status+"/metrics", http.NoBody)
	if err != nil {
		return 0, err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	found := false
	lines := bufio.NewScanner(io.LimitReader(res.Body, 16<<20))
	for lines.Scan() {
		series, value, _ := strings.Cut(lines.Text(), " ")
		if base, _, _ := strings.Cut(series, "{"); base == name {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return 0, err
			}
			found, sum = true, sum+n
		}
	}
	if !found {
		err = fmt.Errorf("there is no %s", name)
	}
	return sum, cmp.Or(lines.Err(), err)
}
