package denials_test

import (
	"fmt"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/dataplane/denials"
	"github.com/sallyport/sallyport/internal/policy"
)

var start = time.Date(2026, time.November, 26, 9, 0, 0, 0, time.UTC)

func user(id string) *policy.Principal {
	return &policy.Principal{Kind: policy.User, ID: id, Issuer: "https://login.example", Provider: "shop/login"}
}

func ip(text string) netip.Addr { return netip.MustParseAddr(text) }

var nowhere netip.Addr

// A denial counts for five minutes, and for half a minute more at most.
func TestWindow(t *testing.T) {
	for _, c := range []struct {
		after time.Duration // of a denial each 10 s, for ten minutes, how many count
		want  int64
	}{
		{0, 1}, {9 * time.Second, 1}, {10 * time.Second, 2}, {30 * time.Second, 4}, {299 * time.Second, 30},
		{310 * time.Second, 32}, {329 * time.Second, 33}, {330 * time.Second, 31}, {599 * time.Second, 33},
	} {
		counts := denials.New(start)
		for at := time.Duration(0); at <= c.after; at += 10 * time.Second {
			counts.Add(user("ann"), nowhere, start.Add(at))
		}
		if got := counts.Denied(user("ann"), nowhere, start.Add(c.after)).Principal.Number; got != c.want {
			t.Errorf("after %v: %d, want %d", c.after, got, c.want)
		}
	}
}

// What was not denied any more is forgotten, however long that is ago; a clock that is
// set back forgets nothing.
func TestQuiet(t *testing.T) {
	for after, want := range map[time.Duration]int64{
		-time.Hour: 3, 0: 3, denials.Window: 3, denials.Window + denials.Step - 1: 3,
		denials.Window + denials.Step: 0, time.Hour: 0, 100 * 365 * 24 * time.Hour: 0,
	} {
		counts, at := denials.New(start), start.Add(2*time.Hour)
		for range 3 {
			counts.Add(user("ann"), ip("203.0.113.9"), at)
		}
		d := counts.Denied(user("ann"), ip("203.0.113.9"), at.Add(after))
		if d.Principal.Number != want || d.Address.Number != want {
			t.Errorf("%v after: %+v, want %d", after, d, want)
		}
		counts.Add(user("ann"), ip("203.0.113.9"), at.Add(after))
		if got := counts.Denied(user("ann"), ip("203.0.113.9"), at.Add(max(after, 0))).Principal.Number; got != want+1 {
			t.Errorf("%v after, and again: %d", after, got)
		}
	}
}

// Nobody is counted for another: of another kind, issuer, provider or key, nor with
// another address; one client is, for all addresses that it has.
func TestWhoIsCounted(t *testing.T) {
	key := func(name, owner string) *policy.Principal {
		return &policy.Principal{Kind: policy.Key, ID: owner, KeyName: name}
	}
	other := func(change func(*policy.Principal)) *policy.Principal {
		p := user("ann")
		change(p)
		return p
	}
	for _, c := range []struct {
		name   string
		denied *policy.Principal
		at     string
		asks   *policy.Principal
		from   string
		want   policy.Denials
	}{
		{"the same", user("ann"), "203.0.113.9", user("ann"), "203.0.113.9", of(1, 1)},
		{"with another token", user("ann"), "203.0.113.9", other(func(p *policy.Principal) { p.TokenID, p.Groups, p.KeyName = "x", []string{"a"}, "shop/k" }), "203.0.113.9", of(1, 1)},
		{"elsewhere", user("ann"), "203.0.113.9", user("ann"), "203.0.113.8", of(1, 0)},
		{"another", user("ann"), "203.0.113.9", user("bob"), "203.0.113.9", of(0, 1)},
		{"of another issuer", user("ann"), "203.0.113.9", other(func(p *policy.Principal) { p.Issuer = "https://evil.example" }), "203.0.113.9", of(0, 1)},
		{"whom another provider calls so", user("ann"), "203.0.113.9", other(func(p *policy.Principal) { p.Provider = "evil/login" }), "203.0.113.9", of(0, 1)},
		{"a workload of that name", user("ann"), "203.0.113.9", other(func(p *policy.Principal) { p.Kind = policy.Workload }), "203.0.113.9", of(0, 1)},
		{"names that run into each other", other(func(p *policy.Principal) { p.Issuer, p.ID = "a", "bc" }), "203.0.113.9", other(func(p *policy.Principal) { p.Issuer, p.ID = "ab", "c" }), "203.0.113.9", of(0, 1)},
		{"a key", key("shop/a", "ann"), "203.0.113.9", key("shop/a", "ann"), "203.0.113.9", of(1, 1)},
		{"another key of one owner", key("shop/a", "ann"), "203.0.113.9", key("pay/a", "ann"), "203.0.113.9", of(0, 1)},

		{"mapped", user("ann"), "::ffff:203.0.113.9", user("ann"), "203.0.113.9", of(1, 1)},
		{"one network of 64 bits", user("ann"), "2001:db8:0:1::1", user("ann"), "2001:db8:0:1:ffff::2", of(1, 1)},
		{"another one", user("ann"), "2001:db8:0:1::1", user("ann"), "2001:db8:0:2::1", of(1, 0)},
		{"with a zone", user("ann"), "fe80::1%eth0", user("ann"), "fe80::1", of(1, 1)},
		{"IPv4, translated", user("ann"), "64:ff9b::203.0.113.9", user("ann"), "64:ff9b::203.0.113.8", of(1, 0)},
		{"IPv6 that looks like it", user("ann"), "::cb00:7109", user("ann"), "203.0.113.9", of(1, 0)},
	} {
		counts := denials.New(start)
		counts.Add(c.denied, ip(c.at), start)
		if got := counts.Denied(c.asks, ip(c.from), start); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func of(principal, address int64) policy.Denials {
	return policy.Denials{Principal: policy.Count{Number: principal, Known: true}, Address: policy.Count{Number: address, Known: true}}
}

// Nobody has no number, and no address none: they are not known to be good.
func TestNobodyIsNotCounted(t *testing.T) {
	counts := denials.New(start)
	for _, who := range []*policy.Principal{nil, {}, {Kind: policy.Anonymous, ID: "ann"}} {
		counts.Add(who, nowhere, start)
		if got := counts.Denied(who, nowhere, start); got != (policy.Denials{}) {
			t.Errorf("%+v: %+v", who, got)
		}
	}
}

// A flood from more addresses than there is room for lifts nobody's number, and makes
// nobody forgotten who was denied more often than they were.
func TestFloodFromManyAddresses(t *testing.T) {
	counts := denials.New(start)
	for range 10 {
		counts.Add(nil, ip("203.0.113.9"), start)
	}
	for i := range uint32(8 * denials.Capacity) {
		counts.Add(nil, netip.AddrFrom4([4]byte{byte(10), byte(i >> 16), byte(i >> 8), byte(i)}), start)
	}
	if got := counts.Denied(nil, ip("203.0.113.9"), start).Address.Number; got != 10 {
		t.Errorf("who was denied 10 times has %d", got)
	}
	for i := range uint32(10000) {
		stranger := netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
		if got := counts.Denied(nil, stranger, start).Address.Number; got != 0 {
			t.Fatalf("%s was never denied, and has %d", stranger, got)
		}
	}
	remembered := 0
	for i := range uint32(8 * denials.Capacity) {
		remembered += int(counts.Denied(nil, netip.AddrFrom4([4]byte{byte(10), byte(i >> 16), byte(i >> 8), byte(i)}), start).Address.Number)
	}
	if remembered != denials.Capacity-1 {
		t.Errorf("%d are remembered", remembered)
	}
}

// A number stops where it has no more room, and does not begin again.
func TestNumbersStop(t *testing.T) {
	counts := denials.New(start)
	for range 100_000 {
		counts.Add(nil, ip("203.0.113.9"), start)
	}
	if got := counts.Denied(nil, ip("203.0.113.9"), start).Address.Number; got != 1<<16-1 {
		t.Errorf("got %d", got)
	}
}

func TestManyAtOnce(t *testing.T) {
	counts := denials.New(start)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				counts.Add(user("ann"), ip("203.0.113.9"), start)
				counts.Denied(user("ann"), ip("203.0.113.9"), start)
			}
		})
	}
	all.Wait()
	if got := counts.Denied(user("ann"), ip("203.0.113.9"), start); got != of(8000, 8000) {
		t.Errorf("got %+v", got)
	}
}

// BenchmarkDenied is what a condition on denials costs: both numbers of some clients.
func BenchmarkDenied(b *testing.B) {
	for _, clients := range []int{100, 10000} {
		counts := denials.New(start)
		who, where := make([]*policy.Principal, clients), make([]netip.Addr, clients)
		for i := range who {
			who[i], where[i] = user(fmt.Sprint("user-", i)), netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			counts.Add(who[i], where[i], start)
		}
		var cost time.Duration
		b.Run(strconv.Itoa(clients), func(b *testing.B) {
			b.ReportAllocs()
			began := cpu(b)
			for i := range b.N {
				if counts.Denied(who[i%clients], where[i%clients], start.Add(time.Duration(i))).Principal.Number > 1 {
					b.Fatal("it was denied once")
				}
			}
			cost = (cpu(b) - began) / time.Duration(b.N)
		})
		fmt.Printf("figure recent_denials_of_%d_read %d ns\n", clients, cost.Nanoseconds())
	}
}

// BenchmarkAdd is what a denial costs in a flood from ever other addresses.
func BenchmarkAdd(b *testing.B) {
	counts, who := denials.New(start), user("ann")
	b.ReportAllocs()
	began := cpu(b)
	for i := range b.N {
		counts.Add(who, netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), start.Add(time.Duration(i)))
	}
	fmt.Printf("figure recent_denials_counted %d ns\n", (cpu(b)-began).Nanoseconds()/int64(b.N))
}

// cpu is what this process has used of its processors: others use them, too.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
