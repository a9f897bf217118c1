package balance_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sallyport/sallyport/dataplane/upstream/balance"
)

// placed is a Balancer that is in a zone, with an endpoint for each zone given; one that
// ends in ! is unhealthy, in ? avoided, and in * ejected.
func placed(c balance.Config, zone string, zones ...string) (*balance.Balancer, []*balance.Endpoint) {
	c.Zone, c.Near = zone, 70
	b := balance.New(c)
	all := make([]*balance.Endpoint, len(zones))
	for i, z := range zones {
		all[i] = balance.NewEndpoint(fmt.Sprint(i), strings.TrimRight(z, "!?*"), 1)
	}
	b.Replace(all)
	for i, z := range zones {
		switch z[max(0, len(z)-1):] {
		case "!":
			b.SetHealthy(all[i], false)
		case "?":
			b.Unconnected(all[i])
		case "*":
			fail(b, all[i], 5)
		}
	}
	return b, all
}

func TestZones(t *testing.T) {
	for _, c := range []struct {
		zone  string
		zones []string
		want  []int // whom requests go to
	}{
		{"eu/a", []string{"eu/a", "eu/a", "eu/b", "us/a"}, []int{0, 1}},
		{"eu/b", []string{"eu/a", "eu/a", "eu/b", "us/a"}, []int{2}},
		{"us/a", []string{"eu/a", "eu/a", "eu/b", "us/a"}, []int{3}},
		{"eu/c", []string{"eu/a", "eu/a", "eu/b", "us/a"}, []int{0, 1, 2}},
		{"ap/a", []string{"eu/a", "eu/a", "eu/b", "us/a"}, []int{0, 1, 2, 3}},
		{"", []string{"eu/a", "eu/a", "eu/b", "us/a"}, []int{0, 1, 2, 3}},
		// A region is all that is known of the one or the other.
		{"eu", []string{"eu/a", "eu/b", "us/a"}, []int{0, 1}},
		{"eu/a", []string{"eu", "us"}, []int{0}},
		{"eu", []string{"eu", "eu/a", "us"}, []int{0}},
		// Nobody knows where some are.
		{"eu/a", []string{"", "eu/a", ""}, []int{1}},
		{"eu/a", []string{"", ""}, []int{0, 1}},
		{"", []string{"", "eu/a"}, []int{0, 1}},
		{"a/b", []string{"a", "ab", "a/bc"}, []int{0, 2}},
		// Too few that are near can take requests: others get their share, too.
		{"eu/a", []string{"eu/a", "eu/a!", "eu/b", "eu/c", "us/a"}, []int{0, 2, 3}},
		{"eu/a", []string{"eu/a", "eu/a*", "eu/b", "eu/c", "us/a"}, []int{0, 2, 3}},
		{"eu/a", []string{"eu/a", "eu/a", "eu/a", "eu/a!", "us/a"}, []int{0, 1, 2}},
		{"eu/a", []string{"eu/a", "eu/a", "eu/a!", "us/a"}, []int{0, 1, 3}},
		{"eu/a", []string{"eu/a!", "eu/b!", "us/a", "us/b"}, []int{2, 3}},
		{"eu/a", []string{"eu/a", "eu/b!", "us/a", "us/b"}, []int{0}},
		// To be avoided for a moment drives nobody away who has others.
		{"eu/a", []string{"eu/a", "eu/a?", "us/a"}, []int{0}},
		{"eu/a", []string{"eu/a?", "eu/b", "us/a"}, []int{1}},
		{"eu/a", []string{"eu/a?", "eu/b?", "us/a?"}, []int{0}},
		// In a panic they go to all, near or far.
		{"eu/a", []string{"eu/a!", "eu/b!", "us/a!", "us/b"}, []int{0, 1, 2, 3}},
	} {
		for _, method := range []balance.Method{balance.RoundRobin, balance.LeastRequest, balance.Hash} {
			b, all := placed(usual(method, newClock()), c.zone, c.zones...)
			var got []int
			for e := range counts(b, 400) {
				got = append(got, slices.Index(all, e))
			}
			if slices.Sort(got); !slices.Equal(got, c.want) {
				t.Errorf("from %q to %q, method %d: requests go to %d, want %d", c.zone, c.zones, method, got, c.want)
			}
		}
	}
}

// When all that are near were tried, the others that are well come before those that are
// passed over.
func TestAfterZones(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zones := rapid.SliceOfN(rapid.SampledFrom([]string{"eu/a", "eu/b", "us/a", "", "eu/a!", "us/a!", "eu/a?", "us/b?"}), 1, 12).Draw(t, "zones")
		c := newClock()
		b, all := placed(usual(balance.RoundRobin, c), "eu/a", zones...)
		live, usable := states(all, c.now())
		if usable*2 < len(all) || live == 0 {
			return
		}
		choice := b.Choose(0)
		for i := range all {
			better := choice.Better()
			e := choice.Next()
			if well := e.State(c.now()) == balance.Live; well != (i < live) || better != well {
				t.Fatalf("%d live, better %v, and choice %d is in state %d", live, better, i, e.State(c.now()))
			}
		}
	})
}
