package dns_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/dataplane/upstream/dns"
	"github.com/sallyport/sallyport/dataplane/upstream/dns/dnstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newResolver(t *testing.T, c dns.Config) *dns.Resolver {
	t.Helper()
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	r, err := dns.New(c)
	if err != nil {
		t.Fatal(err)
	}
	r.Assume(func(netip.Addr) bool { return true })
	return r
}

// What servers answer over UDP, and over TCP where it is too long for that.
func TestLookup(t *testing.T) {
	many := make([]string, 70)
	for i := range many {
		many[i] = fmt.Sprintf("10.0.0.%d", 100-i)
	}
	s := dnstest.New()
	s.Set("one.example", 40, "10.0.0.1")
	s.Set("two.example", 40, "10.0.0.2", "2001:db8::2", "10.0.0.1", "10.0.0.2")
	s.Set("many.example", 40, many...)
	s.Set("odd.example", 40, "0.0.0.0", "224.0.0.1", "::", "ff02::1", "10.0.0.1")
	s.Set("useless.example", 40, "0.0.0.0")
	s.Set("empty.example", 40)
	s.Set("mapped.example", 40, "::ffff:10.0.0.1")
	s.Set("forever.example", 1<<31, "10.0.0.1")
	s.Alias("alias.example", 7, "two.example")
	dial, err := s.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := newResolver(t, dns.Config{Dial: dial})
	for _, c := range []struct {
		name dns.Name
		want string // with the TTL and how many were left out; empty for none
	}{
		{dns.Name{Host: "one.example"}, "[10.0.0.1] 40s 0"},
		{dns.Name{Host: "two.example"}, "[10.0.0.1 10.0.0.2 2001:db8::2] 40s 0"},
		{dns.Name{Host: "two.example", Family: dns.IPv4}, "[10.0.0.1 10.0.0.2] 40s 0"},
		{dns.Name{Host: "two.example", Family: dns.IPv6}, "[2001:db8::2] 40s 0"},
		{dns.Name{Host: "two.example", Family: 77}, ""},
		{dns.Name{Host: "one.example", Family: dns.IPv6}, ""},
		{dns.Name{Host: "alias.example"}, "[10.0.0.1 10.0.0.2 2001:db8::2] 7s 0"},
		{dns.Name{Host: "odd.example"}, "[10.0.0.1] 40s 0"},
		{dns.Name{Host: "useless.example"}, ""},
		{dns.Name{Host: "forever.example"}, "[10.0.0.1] 0s 0"},
		{dns.Name{Host: "empty.example"}, ""},
		{dns.Name{Host: "mapped.example"}, "[10.0.0.1] 40s 0"},
		{dns.Name{Host: "nobody.example"}, ""},
	} {
		if got := look(t, r, c.name); got != c.want {
			t.Errorf("%+v: %s, want %s", c.name, got, c.want)
		}
	}
	got := look(t, r, dns.Name{Host: "many.example"})
	if !strings.HasPrefix(got, "[10.0.0.31 10.0.0.32 ") || !strings.HasSuffix(got, " 10.0.0.94] 40s 6") {
		t.Errorf("70 addresses: %s", got)
	}
}

// look returns what was found, empty for an error.
func look(t *testing.T, r *dns.Resolver, n dns.Name) string {
	t.Helper()
	a, err := r.Lookup(t.Context(), n)
	if err != nil {
		return ""
	}
	return fmt.Sprint(a.Addresses, a.TTL, a.Left)
}

// A machine without IPv6 does not try addresses of it, unless there are no others.
func TestAddressesWithoutARoute(t *testing.T) {
	s := dnstest.New()
	s.Set("both.example", 40, "10.0.0.1", "2001:db8::1")
	s.Set("new.example", 40, "2001:db8::1", "2001:db8::2")
	r := newResolver(t, dns.Config{Dial: s.Dial})
	r.Assume(netip.Addr.Is4)
	for host, want := range map[string]string{
		"both.example": "[10.0.0.1] 40s 0",
		"new.example":  "[2001:db8::1 2001:db8::2] 40s 0",
	} {
		if got := look(t, r, dns.Name{Host: host}); got != want {
			t.Errorf("%s: %s, want %s", host, got, want)
		}
	}
	// What the system says of a loopback address.
	ours, err := dns.New(dns.Config{Dial: s.Dial, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s.Set("here.example", 40, "127.0.0.1")
	if got := look(t, ours, dns.Name{Host: "here.example"}); got != "[127.0.0.1] 40s 0" {
		t.Errorf("loopback: %q", got)
	}
}

// The hosts file says nothing of time.
func TestHostsFile(t *testing.T) {
	s := dnstest.New()
	r := newResolver(t, dns.Config{Dial: s.Dial})
	a, err := r.Lookup(t.Context(), dns.Name{Host: "localhost"})
	if err != nil || a.Told {
		t.Errorf("%+v, %v", a, err)
	}
	if n := s.Asked("localhost"); n != 0 {
		t.Errorf("DNS was asked %d times for what the hosts file has", n)
	}
}

// followed is what Follow has told.
type followed struct {
	mu   sync.Mutex
	told []string
}

func (f *followed) tell(a []netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told = append(f.told, fmt.Sprint(a))
}

func (f *followed) take() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	told := strings.Join(f.told, " ")
	f.told = nil
	return told
}

// start follows n in the bubble of the test.
func start(t *testing.T, r *dns.Resolver, n dns.Name) *followed {
	t.Helper()
	var f followed
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.Follow(ctx, n, f.tell)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	synctest.Wait()
	return &f
}

func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // of testing/synctest
	synctest.Wait()
}

// Names are looked up again when their records are out of date, and only what is new
// is told.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := dnstest.New()
		s.Set("a.example", 60, "10.0.0.1")
		f := start(t, newResolver(t, dns.Config{Dial: s.Dial}), dns.Name{Host: "a.example"})
		if got := f.take(); got != "[10.0.0.1]" {
			t.Fatalf("at first: %s", got)
		}
		s.Set("a.example", 60, "10.0.0.2", "10.0.0.1")
		pass(53 * time.Second)
		if got := f.take(); got != "" {
			t.Errorf("before its time: %s", got)
		}
		pass(14 * time.Second)
		if got := f.take(); got != "[10.0.0.1 10.0.0.2]" {
			t.Errorf("when it was out of date: %s", got)
		}
		s.Set("a.example", 60, "10.0.0.1", "10.0.0.2")
		pass(10 * time.Minute)
		if got := f.take(); got != "" {
			t.Errorf("the same in another order: %s", got)
		}
	})
}

// How often names are looked up in an hour, a tenth more or less.
func TestIntervals(t *testing.T) {
	for _, c := range []struct {
		about string
		ttl   uint32
		every time.Duration
		want  int
	}{
		{"by the records", 60, 0, 60},
		{"not more often than each five seconds", 0, 0, 720},
		{"not less often than each five minutes", 86400, 0, 12},
		{"as the operator says", 60, 10 * time.Minute, 6},
		{"as the operator says, often", 60, time.Second, 3600},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := dnstest.New()
			s.Set("a.example", c.ttl, "10.0.0.1")
			start(t, newResolver(t, dns.Config{Dial: s.Dial}), dns.Name{Host: "a.example", Every: c.every})
			pass(time.Hour)
			if got := s.Asked("a.example"); got < c.want*9/10 || got > c.want*11/10+2 {
				t.Errorf("%s: %d times, want about %d", c.about, got, c.want)
			}
		})
	}
}

// While DNS is away, or says that there is nothing, what was known stays in use.
func TestLookupsThatFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		registry := prometheus.NewRegistry()
		s := dnstest.New()
		r := newResolver(t, dns.Config{Dial: s.Dial, Registerer: registry, Log: slog.New(slog.NewTextHandler(&log, nil))})
		f := start(t, r, dns.Name{Host: "a.example", Every: 30 * time.Second})
		if got := f.take(); got != "" {
			t.Errorf("a name that does not exist: %s", got)
		}
		s.Set("a.example", 60, "10.0.0.1")
		pass(3 * time.Second)
		if got := f.take(); got != "[10.0.0.1]" {
			t.Errorf("once it exists: %s", got)
		}
		for about, away := range map[string]func(){
			"DNS is away":              func() { s.Break(true) },
			"the name does not exist":  func() { s.Forget("a.example") },
			"the name has no address":  func() { s.Set("a.example", 60) },
			"no address is of any use": func() { s.Set("a.example", 60, "0.0.0.0") },
		} {
			away()
			pass(time.Hour)
			if got := f.take(); got != "" {
				t.Errorf("%s: %s", about, got)
			}
			if n := gauge(t, registry, "sallyport_upstream_names_stale"); n != 1 {
				t.Errorf("%s: %v names are stale", about, n)
			}
			s.Break(false)
			s.Set("a.example", 60, "10.0.0.1")
			pass(time.Minute)
			if n := gauge(t, registry, "sallyport_upstream_names_stale"); n != 0 {
				t.Errorf("%s, and is back: %v names are stale", about, n)
			}
		}
		text := log.String()
		if lost, found := strings.Count(text, "cannot be found"), strings.Count(text, "found again"); lost != 5 || found != 5 {
			t.Errorf("%d and %d lines are logged of five times that it was away", lost, found)
		}
	})
}

// A name that is followed no more is not stale.
func TestWhoIsFollowedNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		r := newResolver(t, dns.Config{Dial: dnstest.New().Dial, Registerer: registry})
		ctx, cancel := context.WithCancel(t.Context())
		go r.Follow(ctx, dns.Name{Host: "a.example"}, func([]netip.Addr) { t.Error("it has no address") })
		pass(time.Minute)
		if n := gauge(t, registry, "sallyport_upstream_names_stale"); n != 1 {
			t.Errorf("%v names are stale, want 1", n)
		}
		cancel()
		synctest.Wait()
		if n := gauge(t, registry, "sallyport_upstream_names_stale"); n != 0 {
			t.Errorf("%v names are stale when none is followed", n)
		}
	})
}

func gauge(t *testing.T, registry *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}

// More names than may be looked up at once all have their turn.
func TestManyNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := dnstest.New()
		r := newResolver(t, dns.Config{Dial: s.Dial})
		all := make([]*followed, 100)
		for i := range all {
			host := fmt.Sprintf("n%d.example", i)
			s.Set(host, 60, "10.0.0.1")
			all[i] = start(t, r, dns.Name{Host: host})
		}
		for i, f := range all {
			if f.take() == "" {
				t.Errorf("n%d.example was not looked up", i)
			}
		}
	})
}

func TestNewNeedsALogger(t *testing.T) {
	if _, err := dns.New(dns.Config{}); err == nil {
		t.Error("it has none")
	}
	registry := prometheus.NewRegistry()
	newResolver(t, dns.Config{Registerer: registry})
	if _, err := dns.New(dns.Config{Log: slog.New(slog.DiscardHandler), Registerer: registry}); err == nil {
		t.Error("its metrics are registered twice")
	}
	if n, err := testutil.GatherAndCount(registry); err != nil || n != 3 {
		t.Errorf("%d, %v", n, err)
	}
}
