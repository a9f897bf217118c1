package policy_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/policy"
)

// atlas counts how often it is asked, and by what.
type atlas struct {
	place policy.Place
	asked []netip.Addr
}

func (a *atlas) Locate(address netip.Addr, _ time.Time) *policy.Place {
	a.asked = append(a.asked, address)
	return &a.place
}

var built = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// berlin is all that can be known.
var berlin = policy.Place{
	Country: "DE", Continent: "EU", City: "Berlin", ASN: 64500, Organization: "Example AG",
	Anonymity: &policy.Anonymity{Any: true, VPN: true},
	Databases: []policy.Database{{Type: "GeoLite2-ASN", Built: built.Add(time.Hour)}, {Type: "GeoLite2-City", Built: built}},
}

func from(p *policy.Principal, l policy.Locator) *policy.Input {
	in := request(p, "GET", "/v1/orders/7")
	in.Geo, in.Now = l, built.Add(48*time.Hour)
	return in
}

// What is not known of where a client is allows nothing, and lets no DENY pass.
func TestPlaces(t *testing.T) {
	const yes, no, failed = policy.ReasonAllowed, policy.ReasonNoMatch, policy.ReasonEvaluationError
	unlisted := policy.Place{Anonymity: &policy.Anonymity{}, Databases: berlin.Databases[:1]}
	for _, c := range []struct {
		when                       string
		known, unlisted, not, none policy.Reason // all is known; only that it is not listed; nothing; no databases
	}{
		{`signals.geo.country == "DE"`, yes, failed, failed, failed},
		{`signals.geo.country != "DE"`, no, failed, failed, failed},
		{`signals.geo.country in ["AT", "DE"]`, yes, failed, failed, failed},
		{`!(signals.geo.country in ["AT", "CH"])`, yes, failed, failed, failed},
		{`has(signals.geo.country)`, yes, no, no, no},
		{`has(signals.geo.country) && signals.geo.country == "DE"`, yes, no, no, no},
		{`signals.geo.continent == "EU" && signals.geo.city == "Berlin"`, yes, failed, failed, failed},
		{`signals.geo.asn in [64500, 64501]`, yes, failed, failed, failed},
		{`signals.geo.asn == 64501`, no, failed, failed, failed},
		{`signals.geo.as_organization.startsWith("Example")`, yes, failed, failed, failed},
		{`signals.geo.anonymous`, yes, no, failed, failed},
		{`!signals.geo.anonymous`, no, yes, failed, failed},
		{`signals.geo.vpn && !signals.geo.tor && !signals.geo.hosting && !signals.geo.proxy`, yes, no, failed, failed},
		{`has(signals.geo.vpn)`, yes, yes, no, no},
		{`signals.geo.age <= duration("48h")`, yes, yes, failed, failed},
		{`signals.geo.age < duration("48h")`, no, yes, failed, failed},
		{`signals.geo.age == duration("47h")`, no, yes, failed, failed},
	} {
		for i, place := range []policy.Locator{&berlin, &unlisted, &policy.Place{}, nil} {
			want := []policy.Reason{c.known, c.unlisted, c.not, c.none}[i]
			in := from(user("ann"), place)
			if got := onOrders(allow(t, "permits", authenticated(), when(c.when))).Decide(in); got.Reason != want || got.Allow != (want == yes) {
				t.Errorf("ALLOW when %s, of %+v: %+v, want %s", c.when, place, got, want)
			}
			in = from(user("ann"), place)
			set := onOrders(deny(t, "forbids", when(c.when)), allow(t, "all", authenticated()))
			if got := set.Decide(in); got.Allow != (want == no) {
				t.Errorf("DENY when %s, of %+v: %+v", c.when, place, got)
			}
			compiled, err := policy.CompileCondition(c.when)
			if err != nil || !agree(t, c.when, compiled, from(user("ann"), place)) {
				t.Errorf("%s: closures have no answer, %v", c.when, err)
			}
		}
	}
}

// A clock that is behind makes no database younger than new.
func TestAgeIsNeverNegative(t *testing.T) {
	in := from(user("ann"), &berlin)
	in.Now = built.Add(-time.Hour)
	if got := onOrders(allow(t, "p", authenticated(), when(`signals.geo.age == duration("0s")`))).Decide(in); !got.Allow {
		t.Errorf("got %+v", got)
	}
}

// Databases are asked once for a request, however many conditions ask, and only
// if one does. They are asked for what signals.ip is.
func TestPlacesAreFoundOnce(t *testing.T) {
	set := onOrders(
		deny(t, "blocked", when(`signals.geo.country == "XX" || signals.geo.tor`)),
		allow(t, "vpn", methods("GET"), authenticated(), when(`signals.geo.vpn && signals.geo.asn == 1`)),
		allow(t, "near", methods("GET"), authenticated(), when(`signals.geo.city == "Paris"`)),
	)
	a := &atlas{place: berlin}
	in := from(user("ann"), a)
	in.ClientIP = netip.MustParseAddr("::ffff:192.0.2.7")
	set.Decide(in)
	set.Explain(in)
	if len(a.asked) != 1 || a.asked[0] != netip.MustParseAddr("192.0.2.7") || in.Place() != &a.place {
		t.Errorf("asked %v, found %+v", a.asked, in.Place())
	}

	a = &atlas{}
	in = from(user("ann"), a)
	onOrders(allow(t, "p", authenticated(), when(`cidr("10.0.0.0/8").containsIP(signals.ip)`))).Decide(in)
	if len(a.asked) != 0 || in.Place() != nil {
		t.Errorf("asked %v for nothing", a.asked)
	}
}
