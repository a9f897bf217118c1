package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sallyport/sallyport/storage/storagetest"
)

// reign leads until the returned function is called. Leading is received as
// soon as it has begun.
func (l *lab) reign(holder string) (leading chan context.Context, resign func(), left chan error) {
	l.Helper()
	s := l.store()
	leading, left = make(chan context.Context, 1), make(chan error, 1)
	ctx, cancel := context.WithCancel(l.Context())
	var reigning sync.WaitGroup
	l.Cleanup(func() { cancel(); reigning.Wait() }) // giving up an election takes a call to etcd
	reigning.Go(func() {
		left <- s.Lead(ctx, holder, func(ctx context.Context) error {
			leading <- ctx
			<-ctx.Done()
			return ctx.Err()
		})
	})
	return leading, cancel, left
}

func await[T any](t testing.TB, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("it never came to: %s", what)
	}
	return v
}

func TestLeadIsForOne(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	const replicas, each = 4, 5
	var leading, reigns atomic.Int32
	left := make(chan error)
	for i := range replicas {
		s := l.store()
		go func() {
			var err error
			for range each {
				err = errors.Join(err, s.Lead(t.Context(), fmt.Sprint("replica-", i), func(context.Context) error {
					if leading.Add(1) > 1 {
						return errors.New("two lead at once")
					}
					defer leading.Add(-1)
					reigns.Add(1)
					_, err := l.raw.Get(t.Context(), "something that takes a while")
					return err
				}))
			}
			left <- err
		}()
	}
	for range replicas {
		if err := await(t, "everyone has led", left); err != nil {
			t.Error(err)
		}
	}
	if reigns.Load() != replicas*each {
		t.Errorf("there were %d reigns", reigns.Load())
	}
}

func TestLeadResigns(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	first, resign, left := l.reign("first")
	await(t, "the first leads", first)
	r, err := l.raw.Get(t.Context(), l.prefix+"/leader", clientv3.WithFirstCreate()...)
	if err != nil || len(r.Kvs) != 1 {
		t.Fatalf("election: %v, %v", r, err)
	}
	second, _, _ := l.reign("second")
	resign()
	if err := await(t, "the first has left", left); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	// Else it had to expire, which takes three seconds.
	if lease, err := l.raw.TimeToLive(t.Context(), clientv3.LeaseID(r.Kvs[0].Lease)); err != nil || lease.TTL > 0 {
		t.Errorf("the lease of the first is left: %v, %v", lease, err)
	}
	await(t, "the second leads", second)
}

func TestLeadReturnsWhatLeadReturned(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	want := errors.New("enough")
	if err := l.store().Lead(t.Context(), "a", func(context.Context) error { return want }); !errors.Is(err, want) {
		t.Errorf("got %v", err)
	}
	if left := l.all(l.prefix + "/leader"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestLeadEndsWithItsLease(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	first, _, left := l.reign("first")
	reign := await(t, "the first leads", first)
	r, err := l.raw.Get(t.Context(), l.prefix+"/leader", clientv3.WithPrefix())
	if err != nil || len(r.Kvs) != 1 {
		t.Fatalf("election: %v, %v", r, err)
	}
	if string(r.Kvs[0].Value) != "first" {
		t.Errorf("leader is %q", r.Kvs[0].Value)
	}
	if _, err := l.raw.Revoke(t.Context(), clientv3.LeaseID(r.Kvs[0].Lease)); err != nil {
		t.Fatal(err)
	}
	await(t, "lead's context ends", reign.Done())
	if err := await(t, "the first has left", left); err == nil || t.Context().Err() != nil {
		t.Errorf("got %v", err)
	}
}

func TestLeadEndsWithoutEtcd(t *testing.T) {
	t.Parallel()
	server := storagetest.NewEtcd(t)
	l := labAt(t, server.Endpoints())
	first, _, left := l.reign("first")
	reign := await(t, "the first leads", first)
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	await(t, "lead's context ends", reign.Done())
	began := time.Now()
	err := await(t, "the first has left", left)
	// Else it had tried to give the election up, for two seconds.
	if took := time.Since(began); err == nil || took > 1900*time.Millisecond {
		t.Errorf("got %v after %s", err, took)
	}
	// Nobody who waits for an etcd that is away does so for ever.
	if err := l.store().Lead(t.Context(), "second", func(context.Context) error { return nil }); err == nil {
		t.Error("elected without etcd")
	}
	if err := os.RemoveAll(server.DataDir()); err != nil {
		t.Fatal(err)
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	third, _, _ := l.reign("third")
	await(t, "somebody leads again", third)
}

// Who waits for the election must not wait for ever when etcd forgets it.
func TestCampaignEndsWhenEtcdIsWiped(t *testing.T) {
	t.Parallel()
	server := storagetest.NewEtcd(t)
	l := labAt(t, server.Endpoints())
	first, _, _ := l.reign("first")
	await(t, "the first leads", first)
	_, _, left := l.reign("second")
	eventually(t, "the second is a candidate", func() bool { return len(l.all(l.prefix+"/leader")) == 2 })
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(server.DataDir()); err != nil {
		t.Fatal(err)
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := await(t, "the second gives up", left); err == nil {
		t.Error("elected by an etcd that knew nothing of it")
	}
}
