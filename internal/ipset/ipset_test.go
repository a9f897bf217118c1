package ipset_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/sallyport/sallyport/internal/ipset"
)

func build(networks ...string) *ipset.Set {
	var pp []netip.Prefix
	for _, n := range networks {
		pp = append(pp, netip.MustParsePrefix(n))
	}
	return ipset.Build(pp)
}

func TestContains(t *testing.T) {
	office := build("10.1.0.0/16", "10.2.0.0/15", "192.0.2.7/32", "2001:db8:1::/48", "2001:db8:2::7/128", "fe80::/10")
	for _, c := range []struct {
		set  *ipset.Set
		addr string
		want bool
	}{
		{office, "10.1.0.0", true},
		{office, "10.1.255.255", true},
		{office, "10.3.255.255", true}, // the networks touch
		{office, "10.0.255.255", false},
		{office, "10.4.0.0", false},
		{office, "192.0.2.7", true},
		{office, "192.0.2.6", false},
		{office, "192.0.2.8", false},
		{office, "0.0.0.0", false},
		{office, "255.255.255.255", false},
		{office, "2001:db8:1::", true},
		{office, "2001:db8:1:ffff:ffff:ffff:ffff:ffff", true},
		{office, "2001:db8:2::", false},
		{office, "2001:db8:2::7", true},
		{office, "::", false},
		{office, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", false},

		{office, "::ffff:10.1.2.3", true}, // IPv4 in its other form
		{office, "::10.1.2.3", false},     // which this is not
		{office, "fe80::1%eth0", true},

		{build("0.0.0.0/0"), "255.255.255.255", true},
		{build("0.0.0.0/0"), "0.0.0.0", true},
		{build("0.0.0.0/0"), "::1", false},
		{build("::/0"), "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", true},
		{build("::/0"), "10.1.2.3", false}, // IPv6 alone
		{build("::/0"), "::ffff:10.1.2.3", false},
		{build("10.1.2.3/8"), "10.9.9.9", true}, // bits behind the length
		{build("::ffff:10.0.0.0/104"), "10.9.9.9", true},
		{build("::ffff:10.0.0.0/104"), "11.0.0.0", false},
		{build("128.0.0.0/1", "0.0.0.0/1"), "127.255.255.255", true},
		{build("255.255.255.255/32", "255.255.255.0/24", "0.0.0.0/32"), "255.255.255.255", true},

		{build(), "10.1.2.3", false},
		{nil, "10.1.2.3", false},
		{&ipset.Set{}, "10.1.2.3", false},
		{&ipset.Set{}, "::1", false},
	} {
		if got := c.set.Contains(netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("%s: got %v, want %v", c.addr, got, c.want)
		}
	}
	if build("::/0", "0.0.0.0/0").Contains(netip.Addr{}) {
		t.Error("no address is in a set")
	}
	if ipset.Build([]netip.Prefix{{}}).Contains(netip.MustParseAddr("0.0.0.0")) {
		t.Error("no network has an address")
	}
}

// near draws addresses that are often those at the edges of each other's
// networks: few bits vary.
func near(t *rapid.T, label string) netip.Addr {
	v := rapid.Uint32Range(0, 0xfff).Draw(t, label)
	if rapid.Bool().Draw(t, "six") {
		var b [16]byte
		b[0], b[7], b[8], b[15] = byte(v>>8)&1*0xff, byte(v>>4), byte(v>>4)&3, byte(v)&15
		return netip.AddrFrom16(b)
	}
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], v&0xff<<24|v>>8*0x00111111)
	return netip.AddrFrom4(b)
}

func TestContainsAgreesWithTheNaiveWay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var networks []netip.Prefix
		for range rapid.IntRange(0, 40).Draw(t, "networks") {
			a := near(t, "network")
			networks = append(networks, netip.PrefixFrom(a, rapid.IntRange(0, a.BitLen()).Draw(t, "bits")))
		}
		set := ipset.Build(networks)
		for range 40 {
			a := near(t, "address")
			want := slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(a) })
			if got := set.Contains(a); got != want {
				t.Fatalf("%s in %v: got %v", a, networks, got)
			}
		}
	})
}

// many returns n networks of lengths as they occur in lists, half of IPv4, and
// addresses of which half are in them.
func many(n int) (networks []netip.Prefix, addresses []netip.Addr) {
	random := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		var b [16]byte
		binary.BigEndian.PutUint64(b[:], 0x2000_0000_0000_0000|random.Uint64()>>3)
		binary.BigEndian.PutUint64(b[8:], random.Uint64())
		a, bits := netip.AddrFrom16(b), 32+random.IntN(97)
		if i%2 == 0 {
			a, bits = netip.AddrFrom4([4]byte(b[4:8])), 20+random.IntN(13)
		}
		networks = append(networks, netip.PrefixFrom(a, bits))
		if random.IntN(2) == 0 {
			a = a.Next() // most often of the same network
		} else {
			b[3]++
			b[4]++
			a = netip.AddrFrom16(b)
			if i%2 == 0 {
				a = netip.AddrFrom4([4]byte(b[4:8]))
			}
		}
		addresses = append(addresses, a)
	}
	return networks, addresses
}

func TestManyNetworks(t *testing.T) {
	networks, addresses := many(2_000)
	set := ipset.Build(networks)
	found := 0
	for _, a := range addresses {
		want := slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(a) })
		if got := set.Contains(a); got != want {
			t.Fatalf("%s: got %v", a, got)
		}
		if want {
			found++
		}
	}
	if found < 500 || found > 1_500 {
		t.Errorf("%d of 2000 addresses are in the set: too few of one kind", found)
	}
	if n := testing.AllocsPerRun(100, func() { set.Contains(addresses[0]); set.Contains(addresses[1]) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkContains(b *testing.B) {
	networks, addresses := many(100_000)
	set := ipset.Build(networks)
	random := rand.New(rand.NewPCG(3, 4))
	random.Shuffle(len(addresses), func(i, j int) { addresses[i], addresses[j] = addresses[j], addresses[i] })
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		set.Contains(addresses[i])
		if i++; i == len(addresses) {
			i = 0
		}
	}
	fmt.Printf("figure cidr_set_100k %.1f ns\n", float64(b.Elapsed().Nanoseconds())/float64(b.N))
}

func BenchmarkBuild(b *testing.B) {
	networks, _ := many(100_000)
	b.ReportAllocs()
	for b.Loop() {
		ipset.Build(networks)
	}
}
