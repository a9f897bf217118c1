package upkeep_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/sallyport/sallyport/controlplane/upkeep"
	"github.com/sallyport/sallyport/storage/etcd"
	"github.com/sallyport/sallyport/storage/local"
	"github.com/sallyport/sallyport/storage/storagetest"
)

func TestMain(m *testing.M) {
	code := storagetest.Main(m)
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// quota is that of a lab's etcd.
const quota = 16 << 20

// lab is an etcd with a small quota.
type lab struct {
	testing.TB
	server *local.Etcd
	raw    *clientv3.Client
	prefix string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	server, err := local.NewEtcd(local.EtcdConfig{Quota: quota, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	raw, err := clientv3.New(clientv3.Config{Endpoints: server.Endpoints(), Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.Close() })
	return &lab{TB: t, server: server, raw: raw, prefix: "/" + strings.ToLower(rand.Text())}
}

// replica is an Upkeep with what it says and shows.
type replica struct {
	*upkeep.Upkeep
	log     *lines
	metrics *prometheus.Registry
	minutes atomic.Int64 // that have passed
}

// passes has a minute pass.
func (r *replica) passes() { r.minutes.Add(1) }

// replica makes one that looks all the time, and runs it.
func (l *lab) replica() *replica {
	l.Helper()
	s, err := etcd.New(etcd.Config{Endpoints: l.server.Endpoints(), Prefix: l.prefix, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = s.Close() })
	r := &replica{log: &lines{}, metrics: prometheus.NewRegistry()}
	began := time.Date(2026, time.November, 26, 12, 0, 0, 0, time.UTC)
	r.Upkeep = upkeep.New(upkeep.Config{
		Places: []upkeep.Place{{Name: "gcp", Store: s}}, Log: slog.New(slog.NewTextHandler(r.log, nil)), Registerer: r.metrics,
		Now: func() time.Time { return began.Add(time.Duration(r.minutes.Load()) * time.Minute) },
	})
	r.Every(20*time.Millisecond, time.Minute)
	run(l, r.Run)
	return r
}

// elect has the replica be the elected one until it is deposed.
func (r *replica) elect(t testing.TB) (depose func()) {
	t.Helper()
	return run(t, func(ctx context.Context) error {
		if err := r.Elected(ctx, 1); !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
}

// metric returns the value of a gauge that has one label or a member besides.
func (r *replica) metric(t testing.TB, name string) float64 {
	t.Helper()
	all, err := r.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	return -1
}

// overwrite writes one key over and over until etcd takes nothing any more.
func (l *lab) overwrite() {
	l.Helper()
	for i := 0; ; i++ {
		_, err := l.raw.Put(l.Context(), "/a", strings.Repeat(fmt.Sprint(i%10), 512<<10))
		if errors.Is(err, rpctypes.ErrNoSpace) {
			return
		}
		if err != nil {
			l.Fatal(err)
		}
	}
}

// grow makes etcd's database larger, by little.
func (l *lab) grow() (size int64) {
	l.Helper()
	before := l.size()
	eventually(l, "it has grown", func() bool {
		if _, err := l.raw.Put(l.Context(), "/a", strings.Repeat("x", 32<<10)); err != nil {
			l.Fatal(err)
		}
		size = l.size()
		return size > before
	})
	return size
}

func (l *lab) size() int64 {
	l.Helper()
	s, err := l.raw.Status(l.Context(), l.server.Endpoints()[0])
	if err != nil {
		l.Fatal(err)
	}
	return s.DbSize
}

func (l *lab) takesWrites() bool {
	_, err := l.raw.Put(l.Context(), "/b", "x")
	return err == nil
}

// Every replica sees how an etcd fills up, and only the elected one does something
// about it.
func TestFillingUp(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	r := l.replica()
	for l.grow() < quota*13/16 {
	}
	eventually(t, "it is said", func() bool { return r.log.count(`level=ERROR msg="etcd is nearly full" target=gcp`) == 1 })
	if used, of := r.metric(t, "sallyport_etcd_size_bytes"), r.metric(t, "sallyport_etcd_quota_bytes"); of != quota || used < 0.8*quota {
		t.Errorf("size %v, quota %v", used, of)
	}
	for range 10 {
		r.passes()
	}
	size := r.metric(t, "sallyport_etcd_size_bytes")
	l.grow()
	eventually(t, "it is looked at again", func() bool { return r.metric(t, "sallyport_etcd_size_bytes") > size })
	if r.log.count("defragmented") > 0 {
		t.Error("a replica that is not elected has defragmented a member")
	}
	depose := r.elect(t)
	eventually(t, "it is defragmented", func() bool { r.passes(); return r.log.count("member of etcd was defragmented") == 1 })
	eventually(t, "that is said", func() bool { return r.log.count("etcd has room again") == 1 })
	eventually(t, "that is shown", func() bool { return r.metric(t, "sallyport_etcd_size_bytes") < quota/4 })
	if n := r.log.count("etcd is nearly full"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
	depose()
}

// One that is full is rescued by the elected replica, at once.
func TestFull(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	r := l.replica()
	r.elect(t)
	l.overwrite()
	eventually(t, "it takes writes again", l.takesWrites)
	eventually(t, "that is said", func() bool { return r.log.count("etcd was full, and takes writes again") == 1 })
	eventually(t, "that is shown", func() bool { return r.metric(t, "sallyport_etcd_full") == 0 })
}

// Nobody can be elected by an etcd that is full: then any replica rescues it.
func TestFullWithNobodyElected(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.overwrite()
	one, other := l.replica(), l.replica()
	eventually(t, "it takes writes again", l.takesWrites)
	eventually(t, "that is said", func() bool {
		return one.log.count("etcd was full, and takes writes again")+other.log.count("etcd was full, and takes writes again") > 0
	})
}

// One that is full of what is current is for somebody to act on, and said once.
func TestFullOfWhatIsCurrent(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	r := l.replica()
	r.elect(t)
	i := 0
	eventually(t, "there is an alarm", func() bool {
		if _, err := l.raw.Put(t.Context(), fmt.Sprint("/c/", i), strings.Repeat("x", 512<<10)); err == nil {
			i++
		}
		return r.log.count(`level=ERROR msg="etcd was not taken care of" target=gcp`) > 0
	})
	if full := r.metric(t, "sallyport_etcd_full"); full != 1 {
		t.Errorf("it is shown as %v", full)
	}
	if _, err := l.raw.Delete(t.Context(), "/c/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it takes writes again", l.takesWrites)
}

// An etcd that is away is said to be, by the elected replica, once.
func TestAway(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	r := l.replica()
	r.elect(t)
	eventually(t, "it is looked at", func() bool { return r.metric(t, "sallyport_etcd_size_bytes") > 0 })
	if err := l.server.Stop(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is said", func() bool { r.passes(); return r.log.count(`level=WARN msg="etcd was not taken care of"`) == 1 })
}

// run calls part until the returned function, or the end of the test, stops it.
func run(t testing.TB, part func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := part(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	late := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-late:
			t.Fatalf("it never came to: %s", what)
		case <-tick.C:
		}
	}
}

// lines is a log that can be read meanwhile.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}
